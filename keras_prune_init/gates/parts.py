"""What the variables of a `GatedLayer` are made with."""

from __future__ import annotations

from collections.abc import Callable

import keras

ops = keras.ops


class Penalty(keras.regularizers.Regularizer):
    """What the gates of a kernel of a `GatedLayer` cost; a regularizer of `log_alpha`.

    Unlike a loss from `add_loss`, Keras counts it once, however often the layer is
    called.
    """

    def __init__(self, layer: keras.layers.Layer, name: str):
        self.layer, self.name = layer, name

    def __call__(self, log_alpha):
        return self.layer.cost(self.name, log_alpha)


class Seeds(keras.random.SeedGenerator):
    """Keras's seed generator, on a weight of a layer."""

    def __init__(self, state):
        self.state = state

    def next(self, ordered=True):
        now = self.state.value * 1  # a copy
        self.state.assign(now + ops.convert_to_tensor([0, 1], now.dtype))
        return now


def constant(values) -> Callable:
    """Return an initializer that gives these values."""
    return lambda shape, dtype: ops.convert_to_tensor(values, dtype)
