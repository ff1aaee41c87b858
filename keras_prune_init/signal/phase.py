"""In which phase an actual model starts: ordered, chaotic, or on the edge between."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from keras_prune_init.core import selection
from keras_prune_init.core.graph import Node, activations
from keras_prune_init.signal import mean_field

# Squared gradients may change by this factor over all layers.
TOLERANCE = 10.0


class Phase(NamedTuple):
    """What mean field theory says of a plain network's weights and biases.

    Attributes:
        chi: What a layer multiplies squared gradients by, going backward; `None` if
            the activation is not known.
        depth: Number of layers with a kernel.
    """

    chi: float | None
    depth: int

    @property
    def growth(self) -> float:
        """Factor of squared gradients over all layers."""
        return 1.0 if self.chi is None else self.chi**self.depth

    @property
    def off(self) -> bool:
        """Whether the network is too deep for its distance from the edge of chaos."""
        return not 1 / TOLERANCE <= self.growth <= TOLERANCE

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


def phase_of(nodes: list[Node]) -> Phase:
    """The phase of a plain network of dense and convolutional layers.

    From the mean variances of the weights and biases of its hidden layers, and its most
    common activation.
    """
    read = activations(nodes)
    depth = len(read)
    function, _ = Counter(read.values()).most_common(1)[0]
    if function is None:
        return Phase(None, depth)
    layers = [nodes[i].layer for i in read]
    # What the first and the last multiply by does not add up with depth.
    layers = layers[1:-1] or layers
    sigma_w = math.exp(np.mean([math.log(weight_deviation(v)) for v in layers]))
    sigma_b = bias_deviation(layers)
    q = mean_field.fixed_variance(function, sigma_w, sigma_b)
    # Without a fixed point: what a normalized input starts from.
    q = sigma_b**2 + sigma_w**2 if math.isinf(q) else q
    return Phase(mean_field.chi(function, sigma_w, sigma_b, q), depth)


def energy(kernel: np.ndarray, inputs: tuple[int, ...]) -> np.ndarray:
    """Sum of squares of each output unit's weights; summed axes keep size 1."""
    positions = range(kernel.ndim - 2)
    return np.sum(np.square(kernel), (*positions, *inputs), keepdims=True)


def weight_deviation(layer) -> float:
    """Standard deviation of a layer's weights times the root of the fan-in."""
    (name,) = selection.kernel_names(layer)
    kernel = selection.get_kernel(layer, name).numpy().astype(np.float64)
    total = np.mean(energy(kernel, selection.input_axes(layer, name)))
    return math.sqrt(max(total, np.finfo(np.float64).tiny))


def bias_deviation(layers) -> float:
    """Root mean square of all biases of some layers; 0 if there are none."""
    biases = [v.bias for v in layers if getattr(v, "bias", None) is not None]
    values = [np.ravel(b.numpy()) for b in biases]
    return float(np.sqrt(np.mean(np.concatenate(values) ** 2))) if values else 0.0
