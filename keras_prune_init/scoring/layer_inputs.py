"""The second moments of what kernels are multiplied with, collected in one pass.

A kernel is seen as matrices, one for each group of channels: each row makes an output
from the inputs at one position. Of an ordinary layer there is one group, of a depthwise
convolution one for each channel. The second moments of the inputs are the Hessian of
the squared error of these outputs, for every row of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.patching import listener, patched
from keras_prune_init.layers.roles import (
    DENSE,
    DEPTHWISE,
    LOOKED_UP,
    REVERSE,
    TRANSPOSED,
    einsum_parts,
)
from keras_prune_init.layers.walk import flatten

L = keras.layers

# Bytes of the patches that are held at once.
PATCHES = 2**27
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
        return tuple(math.prod(self.shape[i] for i in axes) for axes in self.axes)

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
        return Product(shape, matrix, _flat)
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
        return Product(shape, matrix, _flat)
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


def is_looked_up(kernel: Kernel) -> bool:
    """Whether rows of the kernel are looked up, as of an embedding."""
    return kernel.role is LOOKED_UP


class Moments(NamedTuple):
    """Means over all positions of products of inputs."""

    # Of shape (groups, inputs, inputs), with a last input of 1 for a bias. If rows of
    # the kernel are looked up: those of the Hessian's diagonal, in the kernel's shape.
    matrix: np.ndarray
    product: Product | None
    bias: keras.Variable | None

    def energy(self, kernel: np.ndarray, bias: Any = 0.0) -> float:
        """Return the mean square of all outputs of a position together.

        Args:
            kernel: Float64 of the kernel's shape.
            bias: What is added to the outputs, an array of the shape of the bias.
        """
        if self.product is None:
            return float(np.sum(self.matrix * kernel**2))
        rows = self.product.split(kernel)
        if self.bias is not None:
            column = np.broadcast_to(np.reshape(bias, -1), rows[..., 0].size)
            column = column.reshape(*rows.shape[:2], 1)
            rows = np.concatenate([rows, column], -1)
        return float(np.sum((rows @ self.matrix) * rows))


def collect(
    model: keras.Model, run: Callable, batches: Sequence, kernels: Sequence[Kernel]
) -> list[Moments]:
    """Return the moments of the inputs of kernels, over batches.

    `run(x)` runs the model eagerly in inference. Patches are made a few samples at a
    time, so memory holds one batch and the moments.

    Raises:
        ValueError: If a layer was not called, or in a graph, where inputs have no
            values.
    """
    sums = [_Lookups(k) if is_looked_up(k) else _Sum(k) for k in kernels]
    heard: dict[int, list] = {}
    owners = {}
    for kernel, total in zip(kernels, sums, strict=True):
        owners[id(kernel.owner)] = kernel.owner
        heard.setdefault(id(kernel.owner), []).append(total)

    def hear(layer, args, kwargs, outputs):
        for total in heard[id(layer)]:
            total.add(args, kwargs)

    # Loops over time call their cells one by one.
    loops = [(v, "unroll", True) for v in flatten(model) if isinstance(v, L.RNN)]
    with patched([*loops, *(listener(layer, hear) for layer in owners.values())]):
        for x, *_ in batches:
            run(x)
    return [total.mean() for total in sums]


class _Sum:
    def __init__(self, kernel):
        self.kernel, self.product = kernel, product(kernel)
        self.bias = _bias(kernel, self.product)
        groups, _, inputs = self.product.sizes
        n = inputs + (self.bias is not None)
        self.total, self.count = np.zeros((groups, n, n)), 0

    def add(self, args, kwargs):
        if self.kernel.role is REVERSE and not _is_reversed(args, kwargs):
            return
        x = args if isinstance(self.kernel.owner, CELLS) else args[0]
        for part in _slices(self.kernel, x, self.product):
            rows = self.product.inputs(part)
            if self.bias is not None:
                rows = tf.pad(rows, [(0, 0), (0, 0), (0, 1)], constant_values=1)
            rows = tf.transpose(tf.cast(rows, _wide(rows)), (1, 0, 2))
            self.total += tf.matmul(rows, rows, transpose_a=True).numpy()
            self.count += rows.shape[1]

    def mean(self):
        if not self.count:
            raise _not_called(self.kernel)
        return Moments(self.total / self.count, self.product, self.bias)


class _Lookups:
    """How often each row is looked up, and the moments if it runs in reverse."""

    def __init__(self, kernel):
        self.kernel, self.count = kernel, 0
        self.total = np.zeros(kernel.shape)

    def add(self, args, kwargs):
        x = args[0]
        _check_known(self.kernel, x)
        if _is_reversed(args, kwargs):
            rows = _flat(tf.cast(x, "float64"))[:, 0]
            self.total += tf.reduce_sum(rows * rows, 0).numpy()
            return
        indices = np.asarray(x).astype(int).ravel()
        counts = np.bincount(indices, minlength=self.kernel.shape[0])
        self.total += counts[:, None]
        self.count += indices.size

    def mean(self):
        if not self.count:
            raise _not_called(self.kernel)
        return Moments(self.total / self.count, None, None)


def _is_reversed(args, kwargs):
    """Whether an embedding is called to make logits."""
    return bool(kwargs.get("reverse", args[1:2] == (True,)))


def _slices(kernel, x, product):
    """Cut inputs so that their patches are not too large."""
    first = keras.tree.flatten(x)[0]
    _check_known(kernel, first)
    groups, _, inputs = product.sizes
    taps = groups * inputs // max(first.shape[-1], 1) + 1
    size = max(int(tf.size(first)) // first.shape[0], 1) * taps * 4
    step = max(1, PATCHES // size)
    for start in range(0, first.shape[0], step):
        part = slice(start, start + step)
        yield keras.tree.map_structure(lambda v, part=part: v[part], x)


def _check_known(kernel, value):
    if not hasattr(value, "numpy"):
        raise ValueError(
            "The inputs of a layer are collected while it runs eagerly. Received: "
            f"{kernel.path}, which runs within a `tf.function` or a loop of "
            "TensorFlow. Leave it out by `filters`, or use method 'obd'."
        )


def _not_called(kernel):
    return ValueError(
        "The inputs of a layer are collected while the model runs. Received: "
        f"{kernel.path}, which the model did not call on this data, or only within a "
        "`tf.function`. Leave it out by `filters`, or use method 'obd'."
    )


def _wide(value):
    return "float64" if value.dtype == tf.float64 else "float32"


def _bias(kernel, product):
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


# --- inputs by the kind of layer ------------------------------------------------------


def _flat(x):
    return tf.reshape(x, (-1, 1, x.shape[-1]))


def _of_cell(recurrent):
    """Inputs of a cell at one step, or its first state."""

    def inputs(args):
        return _flat(keras.tree.flatten(args[1])[0] if recurrent else args[0])

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
        return _flat(_convolved(layer, keras.ops.depthwise_conv, x, kernel))

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
        return _flat(_convolved(layer, keras.ops.conv_transpose, x, kernel, **options))

    return inputs
