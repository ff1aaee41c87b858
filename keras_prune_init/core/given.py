"""What functions ask of their arguments first."""

from __future__ import annotations

import math
import numbers
from typing import Any

import keras


def is_whole(value: Any, least: int | float = -math.inf) -> bool:
    """Whether this is an integer, of Python or numpy, and at least so large."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and value >= least


def is_number(value: Any) -> bool:
    """Whether this is a finite real number, of Python or numpy."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value)


def check_model(model: Any, built: bool = True) -> None:
    """Refuse what is no Keras model, or one without weights yet.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If it must be `built`, and is not.
    """
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


def parts(model: keras.Model) -> str:
    """How to prune what a model is made of, if it is made of models."""
    names = [n for n, v in vars(model).items() if isinstance(v, keras.Model)]
    if not names:
        return ""
    lines = [f"`model.{n} = prune_at_init(model.{n}, ..., loss=...)`" for n in names]
    return f" Or prune its parts: {', '.join(lines)}."
