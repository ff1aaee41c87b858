"""Small models in the idioms of keras.io's examples and of packages around Keras.

Each module has `MODELS`, a dict from a name to a function that makes a `Case`. Their
classes are written as users write them: many without `build`, `get_config` or
`**kwargs`, some with closures, own losses and own training steps. Do not tidy them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

METHODS = ("random", "magnitude", "snip", "grasp", "synflow", "robust")
# For models of which only their own `train_step` knows the loss.
WITHOUT_LOSS = ("random", "magnitude")


class Case(NamedTuple):
    """A model, and what Keras needs to train it.

    Attributes:
        model: Built, and compiled unless `loss` says how.
        data: `x`, `y` and `sample_weight` of `fit`, as many as there are.
        loss: The argument `loss` of pruning, for models that have none.
        scoring: Data to score on, where it differs from that to train on.
        methods: Those that apply.
        parts: Attributes that can be pruned of a model that has no `call`.
        use: What else its users do with it, such as `model.generate(...)`.
        borrows: Whether a layer holds the kernel of another as its own, which the
            compact layout has not: that layout is refused.
    """

    model: keras.Model
    data: tuple
    loss: Any = None
    scoring: tuple | None = None
    methods: tuple = METHODS
    parts: tuple = ()
    use: Callable[[keras.Model], Any] | None = None
    borrows: bool = False

    @property
    def x(self):
        """What the model is called with."""
        return (self.scoring or self.data)[0]


def images(n=4, size=8, channels=3):
    return np.random.default_rng(0).random((n, size, size, channels), "float32")


def floats(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def tokens(n, length, vocabulary, low=1):
    return np.random.default_rng(2).integers(low, vocabulary, (n, length))


def labels(n=4, classes=3):
    return np.arange(n) % classes


def one_hot(n=4, classes=3):
    return np.eye(classes, dtype="float32")[labels(n, classes)]
