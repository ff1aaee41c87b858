"""Checks of arguments, with error messages that say what to do."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def is_whole(value: Any, least: int | float = -math.inf) -> bool:
    """Whether a value is an integer, of Python or numpy, and at least `least`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and value >= least


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number, of Python or numpy."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value)


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise a ValueError unless an argument is an integer in a range."""
    if not is_whole(value, least) or (most is not None and value > most):
        end = " or more" if most is None else f" to {most}"
        raise ValueError(
            f"`{name}` must be a whole number, {least}{end}. Received: {name}="
            f"{value!r}. Pass for example {name}={max(least, 1)}."
        )


def check_choice(name: str, value: Any, names: Iterable[str]) -> None:
    """Raise a ValueError unless an argument is one of some names."""
    if not isinstance(value, str) or value not in names:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, names))}. Received: {name}="
            f"{value!r}. Choose one of them."
        )


def check_flag(name: str, value: Any) -> None:
    """Raise a ValueError unless an argument is True, False, or a whole number."""
    if not isinstance(value, (bool, np.bool_)) and not is_whole(value):
        raise ValueError(
            f"`{name}` must be True or False. Received: {name}={value!r}. Pass one of "
            "them."
        )


def check_pattern(rule: str, pattern: Any) -> None:
    """Raise a ValueError, which begins with the rule, unless Python reads a pattern."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as e:
        raise ValueError(
            f"{rule}. Received: {pattern!r}, of which Python says: {e}. Write a "
            "backslash before characters such as ( ) [ ] * + that you mean as they "
            "stand."
        ) from None


# The key of a dict by pattern for all that no other key finds.
REST = "*"


def by_pattern(name: str, values: Mapping[str, Any], paths: Iterable[str]) -> list:
    """Return what a dict from regular expression to value says of each kernel path.

    The first key that is found in a path counts. Where none is, it is what the key
    `"*"` has, or `None`. An argument `name` with a key that is never used is refused.
    """
    paths = list(paths)
    found = dict.fromkeys(paths, values.get(REST))
    free = paths
    for pattern, value in values.items():
        if pattern == REST:
            continue
        here = [path for path in free if re.search(pattern, path)]
        if not here:
            taken = any(re.search(pattern, path) for path in paths)
            why = "only kernels that an earlier key took" if taken else "none of them"
            raise ValueError(
                f"Each key of a dict `{name}` must be found in the path of a kernel "
                f"that is pruned. Received: {pattern!r}, which finds {why}: "
                f"{', '.join(paths[:8])}{', ...' if len(paths) > 8 else ''}. Correct "
                "it, or leave it out."
            )
        found |= dict.fromkeys(here, value)
        free = [path for path in free if path not in here]
    return list(found.values())


def called(name: str, function: Callable, *args: Any) -> Any:
    """Call a function that the user gave as an argument, which errors then name."""
    try:
        return function(*args)
    except Exception as e:
        raise ValueError(
            f"`{name}` must be a function that does not fail. Received: "
            f"{name}={function!r}, which raised {type(e).__name__}: {e}. Call it "
            "yourself with such arguments, to see why."
        ) from e


def check_model(model: Any, built: bool = True) -> None:
    """Raise an error unless this is a Keras model, and built if it must be.

    Raise one within a graph or a replica too, because variables have no values there.
    """
    replica = tf.distribute.has_strategy() and tf.distribute.get_replica_context()
    if not tf.executing_eagerly() or replica:
        raise ValueError(
            "A model must be pruned and inspected outside of graphs. Received: a call "
            "inside tf.function, tf.Graph or strategy.run. Call it eagerly; a call in "
            "`strategy.scope()` is fine."
        )
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a keras.Model (of Keras 3). Received: "
            f"{type(model).__module__}.{type(model).__name__}. Pass a model."
        )
    if built and not model.built:
        raise ValueError(
            "The model must be built, so that it has weights. "
            f"Received: {model.name}, which is not built. Give it an `Input` layer, "
            f"call `model.build(input_shape)`, or call it once on data.{parts(model)}"
        )


def some(names: list[str]) -> str:
    """Return the first three of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def parts(model: keras.Model) -> str:
    """Return advice to prune the models inside a model, if there are any."""
    names = [n for n, v in vars(model).items() if isinstance(v, keras.Model)]
    if not names:
        return ""
    lines = [f"`model.{n} = prune_at_init(model.{n}, ..., loss=...)`" for n in names]
    return f" Or prune its parts: {', '.join(lines)}."


def check_weights(function: str, weights: Mapping[str, Any]) -> None:
    """Raise a FloatingPointError unless all weights, by path, are finite numbers."""
    for path, values in weights.items():
        values = np.asarray(values)
        if wrong := values.size - np.count_nonzero(np.isfinite(values)):
            raise FloatingPointError(
                f"`{function}` takes weights that are finite numbers. Received: "
                f"{wrong} in {path} that are NaN or infinite. Train with a lower "
                "learning rate, or look for wrong values in the data."
            )
