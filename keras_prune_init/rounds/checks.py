"""Whether what trains and measures a model can do so, checked before any work."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_prune_init.rounds.rewinding import optimizer_of


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
