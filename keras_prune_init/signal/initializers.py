"""Keras initializers that put a network on the edge of chaos."""

from __future__ import annotations

import keras

from keras_prune_init.core.layers import PACKAGE
from keras_prune_init.signal.mean_field import Activation, edge_of_chaos


@keras.saving.register_keras_serializable(PACKAGE)
class EdgeOfChaos(keras.initializers.VarianceScaling):
    """Normal weights and biases at which gradients neither vanish nor explode.

    For kernels and biases alike: a tensor with one axis is a bias, of standard
    deviation `sigma_b`, any other a kernel, of standard deviation sigma_w /
    sqrt(fan_in). Use it for the layers that read what `activation` puts out; pruned
    networks train deeper from there.

    Args:
        activation: What the layers' inputs went through: a Keras activation, its name,
            or a registered function.
        sigma_b: Standard deviation of biases, >= 0.
        seed: Whole number, `keras.random.SeedGenerator`, or `None`.

    Attributes:
        sigma_w: Standard deviation of weights times the root of the fan-in.

    Raises:
        ValueError: If `activation` has no edge of chaos at this `sigma_b`.

    Example:

    >>> start = EdgeOfChaos("tanh", 0.2)
    >>> Dense(100, "tanh", kernel_initializer=start, bias_initializer=start)

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", arXiv 2002.08797.
    """

    def __init__(
        self, activation: Activation = "relu", sigma_b: float = 0.0, seed=None
    ):
        edge = edge_of_chaos(activation, sigma_b)
        super().__init__(edge.sigma_w**2, "fan_in", "untruncated_normal", seed)
        self.activation = keras.activations.get(activation)
        self.sigma_w, self.sigma_b = edge.sigma_w, sigma_b

    def __call__(self, shape, dtype=None):
        if len(shape) > 1:
            return super().__call__(shape, dtype)
        biases = keras.initializers.RandomNormal(stddev=self.sigma_b, seed=self.seed)
        return biases(shape, dtype)

    def get_config(self):
        seed = super().get_config()["seed"]
        activation = keras.activations.serialize(self.activation)
        return {"activation": activation, "sigma_b": self.sigma_b, "seed": seed}
