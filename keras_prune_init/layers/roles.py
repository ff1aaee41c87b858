"""What a kernel does in its layer: which axes are its inputs, how often it is used."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import keras

Shape = tuple[int, ...]
Axes = tuple[int, ...]


class Role(NamedTuple):
    """What a kernel does."""

    # The axes over which a sum makes one output unit, or a function from the layer to
    # these axes. Negative axes count from the end.
    inputs: Axes | Callable[[keras.layers.Layer], Axes]
    # How often one call multiplies each weight. The function gets the layer that holds
    # the kernel, and the shapes of the kernel, the first input and the first output.
    uses: Callable[[keras.layers.Layer, Shape, Shape, Shape], int]
    # The axes that count output channels, of which no two share a weight; or a function
    # from the layer to them. Empty: there are none, or they are not known.
    outputs: Axes | Callable[[keras.layers.Layer], Axes] = ()


def rows(layer, kernel, x, y):
    """Return the number of output positions: samples, pixels and steps."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return math.prod(y) // y[1 if first else -1]


def _inputs(layer, kernel, x, y):
    return math.prod(x) // kernel[-1]


def einsum_parts(equation: str) -> list[str]:
    """Split an equation such as `"ab,bc->ac"` into axes of input, kernel, output."""
    return re.split(",|->", equation.replace(" ", ""))


def _einsum_inputs(layer):
    _, kernel, output = einsum_parts(layer.equation)
    return tuple(i for i, axis in enumerate(kernel) if axis not in output)


def _einsum_outputs(layer):
    _, kernel, output = einsum_parts(layer.equation)
    return tuple(i for i, axis in enumerate(kernel) if axis in output)


def _einsum(layer, kernel, x, y):
    summed = math.prod(kernel[i] for i in _einsum_inputs(layer))
    return math.prod(y) * summed // math.prod(kernel)


def _looked_up(layer, kernel, x, y):
    # Rows are looked up, which multiplies nothing, unless it runs in reverse.
    return _reverse(layer, kernel, x, y) if getattr(layer, "tie_weights", False) else 0


def _reverse(layer, kernel, x, y):
    return rows(layer, kernel, x, y) if len(y) == len(x) else 0


# Inputs are the last axis but one, also of convolutions: spatial axes are not summed
# over. A depthwise kernel has none, each channel reads one input channel only.
DENSE = Role((-2,), rows, (-1,))
TRANSPOSED = Role((-1,), _inputs, (-2,))
DEPTHWISE = Role((), rows, (-2, -1))
EINSUM = Role(_einsum_inputs, _einsum, _einsum_outputs)
LOOKED_UP = Role((-2,), _looked_up, (-1,))
REVERSE = Role((-2,), _reverse)
CELL = Role((-2,), rows)  # of one step
