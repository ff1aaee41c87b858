"""Kernels as matrices, and the inputs that a call of their layer multiplies with them.

Each row of a matrix makes an output from the inputs at one position. There is a matrix
for each group of channels: one of an ordinary layer, one for each channel of a
depthwise convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.roles import (
    DENSE,
    DEPTHWISE,
    REVERSE,
    TRANSPOSED,
    einsum_parts,
)

L = keras.layers

CELLS = (L.LSTMCell, L.GRUCell, L.SimpleRNNCell)
CONVOLUTIONS = (L.Conv1D, L.Conv2D, L.Conv3D, L.SeparableConv1D, L.SeparableConv2D)


class Product(NamedTuple):
    """A kernel as matrices, and the inputs that they are multiplied with."""

    # The kernel's shape, with its groups on an axis of their own.
    shape: tuple[int, ...]
    # The axes of this shape that count groups, outputs, and inputs.
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    # From the inputs of a call to a tensor of shape (positions, groups, inputs).
    inputs: Callable[[Any], tf.Tensor]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The numbers of groups, outputs of a group, and inputs of an output."""
        groups, outputs, inputs = self.axes
        return self._size(groups), self._size(outputs), self._size(inputs)

    def _size(self, axes):
        return math.prod(self.shape[i] for i in axes)

    def split(self, values: np.ndarray) -> np.ndarray:
        """Return values of the kernel's shape as (groups, outputs, inputs)."""
        order = [i for axes in self.axes for i in axes]
        return np.reshape(values, self.shape).transpose(order).reshape(self.sizes)

    def join(self, matrices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Undo `split`: return values of the kernel's shape."""
        order = [i for axes in self.axes for i in axes]
        whole = matrices.reshape([self.shape[i] for i in order])
        return whole.transpose(np.argsort(order)).reshape(shape)


def product(kernel: Kernel) -> Product | None:
    """Return how a kernel multiplies the inputs of its owner; `None`: not known."""
    layer, role, shape = kernel.owner, kernel.role, kernel.shape
    matrix = (), (1,), (0,)
    if isinstance(layer, CELLS):
        return Product(shape, matrix, _of_cell(_is_named(kernel, "recurrent_kernel")))
    if role is REVERSE:
        return Product(shape, matrix, flat)
    if not type(layer).call.__module__.startswith("keras."):
        return None  # who knows what it does with its kernel
    if isinstance(layer, L.EinsumDense):
        return _einsum(layer, shape)
    last = len(shape) - 1
    taps = tuple(range(last - 1))
    if role is TRANSPOSED:
        return Product(shape, ((), (last - 1,), (*taps, last)), _transposed(layer))
    if role is DEPTHWISE:
        axes = (last - 1,), (last,), taps
        return Product(shape, axes, _patches(layer, shape, shape[-2], shape[-2]))
    if role is DENSE and isinstance(layer, L.Dense):
        return Product(shape, matrix, flat)
    if role is DENSE and isinstance(layer, CONVOLUTIONS):
        groups = getattr(layer, "groups", 1)
        if _is_named(kernel, "pointwise_kernel"):
            inputs = _after_depthwise(layer)
        else:
            inputs = _patches(layer, shape, shape[-2] * groups, groups)
        split = *shape[:-1], groups, shape[-1] // groups
        return Product(split, ((last,), (last + 1,), (last - 1, *taps)), inputs)
    return None


def _is_named(kernel, name):
    return kernel.name.split(".")[-1] == name


def bias_of(kernel: Kernel, product: Product) -> keras.Variable | None:
    """Return the bias that is added to the outputs of the kernel, one to each."""
    layer = kernel.owner
    bias = getattr(layer, "bias", None)
    groups, outputs, _ = product.sizes
    one_each = isinstance(bias, keras.Variable) and (
        math.prod(bias.shape) == groups * outputs
    )
    if not one_each or any(
        _is_named(kernel, name) for name in ("recurrent_kernel", "depthwise_kernel")
    ):
        return None
    if isinstance(layer, L.EinsumDense):
        _, kernel_axes, output = einsum_parts(layer.equation)
        order = [kernel_axes[i] for axes in product.axes[:2] for i in axes]
        if [v for v in output if v in layer.bias_axes] != order:
            return None
    return bias


def flat(x: tf.Tensor) -> tf.Tensor:
    """Return inputs whose last axis is summed over, of shape (positions, 1, n)."""
    return tf.reshape(x, (-1, 1, x.shape[-1]))


def _of_cell(recurrent):
    """Inputs of a cell at one step, or its first state."""

    def inputs(args):
        return flat(keras.tree.flatten(args[1])[0] if recurrent else args[0])

    return inputs


def _einsum(layer, shape):
    given, kernel, output = einsum_parts(layer.equation)
    inputs = [i for i, v in enumerate(kernel) if v not in output]
    alone = set(given) - set(kernel) - set(output)  # summed without a weight
    if alone or any(kernel[i] not in given for i in inputs):
        return None
    groups = [i for i, v in enumerate(kernel) if v in output and v in given]
    outputs = [i for i, v in enumerate(kernel) if v in output and v not in given]
    outputs.sort(key=lambda i: output.index(kernel[i]))
    ahead = "..." in given
    # Letters that are in no equation stand for axes before the named ones.
    named = given.replace("...", "")
    last = "".join(kernel[i] for i in (*groups, *inputs))
    rest = "".join(v for v in named if v not in last)
    sizes = [math.prod(shape[i] for i in axes) for axes in (groups, inputs)]

    def rows(x):
        dots = "..." if ahead else ""
        moved = tf.einsum(f"{given}->{dots}{rest}{last}", x)
        return tf.reshape(moved, (-1, *sizes))

    return Product(shape, (tuple(groups), tuple(outputs), tuple(inputs)), rows)


def _patches(layer, shape, channels, groups):
    """Return patches, which convolutions make whose kernels have a single 1 each."""
    taps = shape[:-2]
    count = math.prod(taps)
    unit = np.eye(count).reshape(*taps, 1, count)
    # TensorFlow's depthwise convolutions have equal strides, and no third dimension.
    depthwise = len(set(layer.strides)) == 1 and len(taps) < 3
    if depthwise:
        convolve = keras.ops.depthwise_conv
        unit = np.repeat(unit, channels, -2)
    else:
        convolve = keras.ops.conv
        unit = np.einsum("cd,...t->...cdt", np.eye(channels), unit[..., 0, :])
        unit = unit.reshape(*taps, channels, channels * count)

    def patches(x):
        found = _convolved(layer, convolve, x, tf.cast(unit, x.dtype))
        return tf.reshape(found, (-1, groups, channels // groups * count))

    return patches


def _after_depthwise(layer):
    """Return what the pointwise kernel of a separable convolution reads."""

    def inputs(x):
        kernel = layer.depthwise_kernel
        return flat(_convolved(layer, keras.ops.depthwise_conv, x, kernel))

    return inputs


def _convolved(layer, convolve, x, kernel, **options):
    """Convolve with another kernel as a layer does; channels come last."""
    first = layer.data_format == "channels_first"
    padding = layer.padding
    if padding == "causal":
        before = layer.dilation_rate[0] * (kernel.shape[0] - 1)
        place = 2 if first else 1
        x = tf.pad(x, [(before * (i == place), 0) for i in range(3)])
        padding = "valid"
    found = convolve(
        x,
        kernel,
        strides=layer.strides,
        padding=padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
        **options,
    )
    return keras.ops.moveaxis(found, 1, -1) if first else found


def _transposed(layer):
    """Return what the outputs of a transposed convolution are made from."""
    *taps, _, channels = layer.kernel.shape
    count = math.prod(taps)
    unit = np.eye(count * channels, dtype="float32")
    unit = unit.reshape(*taps, channels, count * channels)
    unit = np.moveaxis(unit, -1, -2)

    def inputs(x):
        options = {"output_padding": layer.output_padding}
        kernel = tf.cast(unit, x.dtype)
        return flat(_convolved(layer, keras.ops.conv_transpose, x, kernel, **options))

    return inputs
