"""In which phase a model starts: ordered, chaotic, or on the edge between them."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init.graph.activations import activations
from keras_prune_init.graph.wiring import flat_graph
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.theory import mean_field
from keras_prune_init.theory.matrices import matrix_kernels, to_matrices

# Squared gradients may change by this factor over all layers.
TOLERANCE = 10.0


class Phase(NamedTuple):
    """What mean field theory says of a plain network's weights and biases."""

    chi: float | None  # as `mean_field.chi`; `None` if the activation is not known
    depth: int  # number of layers with a kernel

    @property
    def off(self) -> bool:
        """Whether the network is too deep for its distance from the edge of chaos."""
        growth = 1.0 if self.chi is None else self.chi**self.depth
        return not 1 / TOLERANCE <= growth <= TOLERANCE

    def __str__(self):
        if self.chi is None:
            return "Its initialization could not be checked: an unknown activation."
        found = f"chi = {self.chi:.3f} over {self.depth} layers"
        if not self.off:
            return f"It was initialized near the edge of chaos: {found}."
        name = "ordered" if self.chi < 1 else "chaotic"
        return (
            f"It was initialized in the {name} phase: {found}, so squared gradients "
            f"change by 10^{self.depth * math.log10(self.chi):.1f}. Call "
            "`keras_prune_init.initializers.reinitialize(model)` before pruning."
        )


def phase_of(model: keras.Model) -> Phase:
    """Return the phase of a plain network of dense and convolution layers.

    It is that of the hidden layers' mean variances and the most common activation.
    """
    kernels = matrix_kernels(model)
    function = statistics.mode(activations(flat_graph(model)).values())
    if function is None:
        return Phase(None, len(kernels))
    # The factors of the first and the last layer do not add up with depth.
    hidden = kernels[1:-1] or kernels
    variances = [np.mean(energy(to_matrices(k, k.value))) for k in hidden]
    tiny = np.finfo(np.float32).tiny
    sigma_w = math.sqrt(math.exp(np.mean(np.log(np.maximum(variances, tiny)))))
    sigma_b = bias_deviation(hidden)
    q = mean_field.fixed_variance(function, sigma_w, sigma_b)
    # Without a fixed point: what a normalized input starts from.
    q = sigma_b**2 + sigma_w**2 if math.isinf(q) else q
    return Phase(mean_field.chi(function, sigma_w, sigma_b, q), len(kernels))


def energy(stack: np.ndarray) -> np.ndarray:
    """Return the sum of squares of each unit's weights, given as by `to_matrices`."""
    return np.sum(np.square(stack), tuple(range(1, stack.ndim - 1)), keepdims=True)


def bias_deviation(kernels: list[Kernel]) -> float:
    """Return the root mean square of some kernels' biases; 0 if there are none."""
    biases = [getattr(kernel.owner, "bias", None) for kernel in kernels]
    values = [np.ravel(bias.numpy()) for bias in biases if bias is not None]
    return float(np.sqrt(np.mean(np.concatenate(values) ** 2))) if values else 0.0
