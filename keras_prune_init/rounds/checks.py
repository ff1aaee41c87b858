"""Whether what trains and measures a model can do so, checked before any work."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init._arguments import is_whole
from keras_prune_init.layers.walk import flatten, is_builtin
from keras_prune_init.rounds.rewinding import optimizer_of

# Packages whose classes Keras finds by the names of their modules.
LOADED = ("keras_hub", "keras_cv", "keras_nlp")


def check_train(train: Any, model: keras.Model) -> None:
    """Raise a ValueError unless `train` can train the model."""
    if callable(train):
        return
    if not isinstance(train, Mapping):
        raise ValueError(
            "`train` must be a function of the model, or a dict of the arguments of "
            f"`fit`. Received: {type(train).__name__}. Pass for example dict(x=x, y=y, "
            "epochs=5)."
        )
    known = list(inspect.signature(keras.Model.fit).parameters)[1:]
    unknown = [name for name in train if name not in known]
    if unknown or "x" not in train:
        wrong = f"{', '.join(map(str, unknown))}" if unknown else "no x"
        raise ValueError(
            "A dict `train` has the arguments of `fit`, with `x`. Received: "
            f"{wrong}. They are {', '.join(known)}."
        )
    if not optimizer_of(model):
        raise ValueError(
            "`fit` needs a model that was compiled. Received: a dict `train`, and "
            f"{model.name}, which was not. Call `compile`, or pass a function that "
            "does."
        )


def check_rewind_fits(train: Any, rewind: Any) -> None:
    """Raise a ValueError if `fit` with these arguments ends before it could go back."""
    if callable(train) or not is_whole(rewind, 1):
        return
    steps = _steps(train)
    if steps is not None and steps <= rewind:
        raise ValueError(
            "The training must go beyond step `rewind`. Received: "
            f"rewind={rewind}, and a `train` of {steps} steps. Pass a smaller one, or "
            "more `epochs`."
        )


def _steps(arguments):
    """Return how many steps `fit` takes at most, or `None` if it cannot be told."""
    x, steps = arguments["x"], arguments.get("steps_per_epoch")
    if steps is None and isinstance(x, tf.data.Dataset):
        steps = int(x.cardinality())  # negative if it is not known
    elif steps is None and isinstance(x, np.ndarray):
        left = len(x) * (1 - (arguments.get("validation_split") or 0))
        steps = math.ceil(left / (arguments.get("batch_size") or 32))
    known = is_whole(steps, 1)
    return steps * arguments.get("epochs", 1) if known else None


def check_loads(model: keras.Model) -> None:
    """Raise a ValueError unless another process can load the model from its file."""
    classes = {type(v) for v in flatten(model) if not is_builtin(v)}
    registered = keras.saving.get_custom_objects().values()
    known = (*registered, *(c for c in classes if _package(c) in LOADED))
    unknown = [c for c in classes if c not in known]
    if unknown:
        names = sorted(c.__qualname__ for c in unknown)
        raise ValueError(
            "A folder holds models, which Keras loads when the rounds go on. Received: "
            f"{model.name} with the unregistered {', '.join(names)}. Decorate each "
            "class with `@keras.saving.register_keras_serializable()`, or leave out "
            "`folder`."
        )


def _package(cls):
    return cls.__module__.split(".")[0]


def check_evaluate(evaluate: Any, model: keras.Model) -> None:
    """Raise a ValueError unless `evaluate` is a function, or data that fits."""
    if evaluate is None or callable(evaluate):
        return
    kinds = tf.data.Dataset, keras.utils.PyDataset
    arrays = isinstance(evaluate, tuple) and len(evaluate) in (2, 3)
    if not isinstance(evaluate, kinds) and not arrays:
        raise ValueError(
            "`evaluate` must be a function of the model, a tf.data.Dataset, a "
            "keras.utils.PyDataset, or a tuple (x, y) or (x, y, sample_weight). "
            f"Received: {type(evaluate).__name__}. Pass one of these."
        )
    if not optimizer_of(model):
        raise ValueError(
            "Data to `evaluate` on needs a model that was compiled. Received: "
            f"{model.name}, which was not. Call `compile`, or pass a function."
        )
