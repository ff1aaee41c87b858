"""What the variables of a `GatedLayer` are made with."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

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


def uniform(state: keras.Variable, shape, dtype: str, margin: float) -> tf.Tensor:
    """Draw numbers between 0 and 1, away from both; count on in `state`, the seed."""
    seed = state.value * 1  # a copy
    state.assign(seed + ops.convert_to_tensor([0, 1], seed.dtype))
    # Keras's `uniform` lets TensorFlow choose. Under XLA on processors, that takes a
    # hundred times as long.
    return tf.random.stateless_uniform(
        shape, seed, margin, 1 - margin, dtype, alg="philox"
    )


def constant(values) -> Callable:
    """Return an initializer that gives these values."""
    return lambda shape, dtype: ops.convert_to_tensor(values, dtype)
