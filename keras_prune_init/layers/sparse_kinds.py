"""What Keras's layers compute, with a product that sees only the kept weights.

Each function gets the layer, its input, and `multiply`, which takes (samples, inputs)
to (samples, outputs). It returns what the layer has before its bias and activation.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_prune_init.layers import types
from keras_prune_init.layers.kernel_paths import (
    around,
    get_kernel,
    input_axes,
    output_axes,
    owner,
)
from keras_prune_init.layers.roles import einsum_parts
from keras_prune_init.sparse.convolution import Convolution
from keras_prune_init.sparse.lookup import Lookup
from keras_prune_init.sparse.positions import Matrix, Windows
from keras_prune_init.sparse.products import MatrixProduct, SparseOperation, size

L = keras.layers
DTYPES = ("float32", "bfloat16", "float16")  # those that float32 can hold


def _rows(layer, x, multiply, columns):
    """Multiply along the last axis."""
    y = multiply(tf.reshape(x, [-1, layer.kernel.shape[-2]]))
    y = tf.reshape(y, tf.concat([tf.shape(x)[:-1], [columns]], 0))
    return tf.ensure_shape(y, [*x.shape[:-1], columns])


def _dense(layer, x, multiply):
    return _rows(layer, x, multiply, layer.units)


def _einsum(layer, x, multiply):
    given, kernel, made = _axes(layer.equation, len(x.shape))
    summed = [axis for axis in kernel if axis not in made]
    units = [axis for axis in kernel if axis in made]
    others = [axis for axis in given if axis not in kernel]
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    x = _permuted(x, given, [*others, *summed])
    lead, shape = tf.shape(x)[: len(others)], x.shape[: len(others)]
    y = multiply(tf.reshape(x, [-1, math.prod(sizes[axis] for axis in summed)]))
    y = tf.reshape(y, tf.concat([lead, [sizes[axis] for axis in units]], 0))
    y = tf.ensure_shape(y, [*shape, *(sizes[axis] for axis in units)])
    return _permuted(y, [*others, *units], list(made))


def _axes(equation, rank):
    """Return the axes of input, kernel and output, a letter each."""
    given, kernel, made = einsum_parts(equation)
    free = [c for c in string.ascii_letters if c not in equation]
    more = "".join(free[: rank - len(given.replace("...", ""))])
    return given.replace("...", more), kernel, made.replace("...", more)


def _permuted(x, given, wanted):
    order = [list(given).index(axis) for axis in wanted]
    return x if order == sorted(order) else tf.transpose(x, order)


def _pointwise(layer, x, multiply):
    x = _channels_last(layer, x)
    steps = [slice(None), *(slice(None, None, step) for step in layer.strides)]
    return _as_asked(layer, _rows(layer, x[tuple(steps)], multiply, layer.filters))


def _convolution(layer, x, multiply):
    x = _channels_last(layer, x)
    if layer.rank == 2:
        return _as_asked(layer, multiply(x))
    if layer.padding == "causal":  # which Keras pads itself, too
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        x = tf.pad(x, [[0, 0], [before, 0], [0, 0]])
    return _as_asked(layer, tf.squeeze(multiply(x[:, None]), 1))


def _channels_last(layer, x):
    first = layer.data_format == "channels_first"
    return tf.transpose(x, [0, *range(2, len(x.shape)), 1]) if first else x


def _as_asked(layer, y):
    """Undo `_channels_last`."""
    first = layer.data_format == "channels_first"
    rank = len(y.shape)
    return tf.transpose(y, [0, rank - 1, *range(1, rank - 1)]) if first else y


def _embedding(layer, x, look_up):
    ids = tf.reshape(tf.cast(x, "int32"), [-1])
    ids = tf.where(ids < 0, ids + layer.input_dim, ids)  # as Keras counts from the end
    y = tf.reshape(
        look_up(ids),
        [*(size(x, axis) for axis in range(len(x.shape))), layer.output_dim],
    )
    return tf.ensure_shape(y, [*x.shape, layer.output_dim])


def _plain_einsum(layer):
    """Whether an equation is a product of matrices, of axes in any order."""
    given, kernel, made = einsum_parts(layer.equation)
    parts = [part.replace("...", "") for part in (given, kernel, made)]
    once = all(len(set(part)) == len(part) for part in parts) and "." not in kernel
    given, kernel, made = map(set, parts)
    return once and not given & kernel & made and given - kernel <= made


def _matrix(layer, name):
    shape = tuple(get_kernel(layer, name).shape)
    axes = input_axes(layer, name), output_axes(layer, name)
    return MatrixProduct(Matrix(shape, *axes))


def _lookup(layer, name):
    return Lookup(_matrix(layer, name).kernel)


def _windows(layer, name):
    holder = owner(layer, name)
    shape = tuple(holder.kernel.shape)
    flat = [1] * (2 - holder.rank)  # one row of pixels, of one-dimensional layers
    windows = Windows(
        (*flat, *shape),
        holder.groups * shape[-2],
        (*flat, *holder.strides),
        (*flat, *holder.dilation_rate),
    )
    padding = "valid" if holder.padding == "causal" else holder.padding
    return Convolution(windows, padding)


def _vectors(layer, shape):
    return math.prod(shape[:-1])


def _einsum_vectors(layer, shape):
    given, kernel, _ = _axes(layer.equation, len(shape))
    sizes = zip(given, shape, strict=True)
    return math.prod(size for axis, size in sizes if axis not in kernel)


def _pixels(layer, shape):
    return math.prod(layer.compute_output_shape(shape)) // layer.filters


def _is_pointwise(layer):
    return layer.groups == 1 and set(layer.kernel_size) == {1}


class Kind(NamedTuple):
    """Layers that compute sparsely, in one way."""

    classes: tuple[type[keras.layers.Layer], ...]
    compute: Callable
    operation: Callable[[keras.layers.Layer, str], SparseOperation]
    # How often the kernel is used for an input of this shape.
    positions: Callable[[Any, tuple[int, ...]], int]
    fits: Callable[[Any], bool] = lambda layer: True
    methods: tuple[str, ...] = ("call",)  # a layer with others is no such layer


_CONVOLVES = ("call", "convolution_op")
KINDS = (
    Kind((L.Dense,), _dense, _matrix, _vectors),
    Kind((L.EinsumDense,), _einsum, _matrix, _einsum_vectors, _plain_einsum),
    Kind((L.Embedding,), _embedding, _lookup, _vectors),
    Kind(
        (L.Conv1D, L.Conv2D, L.Conv3D),
        _pointwise,
        _matrix,
        _pixels,
        _is_pointwise,
        _CONVOLVES,
    ),
    Kind((L.Conv1D, L.Conv2D), _convolution, _windows, _pixels, methods=_CONVOLVES),
)


def kind_of(layer, name) -> Kind | None:
    """Return how the owner of a kernel computes, if it can compute sparsely."""
    inside, holder = around(layer, name), owner(layer, name)
    # A loop would call a product for each step; the other reads the kernel itself.
    loops = any(types.has(v, types.Trait.LOOP | types.Trait.REPEATS) for v in inside)
    spectral = any(isinstance(v, L.SpectralNormalization) for v in inside)
    if loops or spectral or holder.compute_dtype not in DTYPES:
        return None
    for kind in KINDS:
        for known in kind.classes:
            same = isinstance(holder, known) and all(
                getattr(type(holder), method, None) is getattr(known, method, None)
                and method not in vars(holder)  # set on the object
                for method in kind.methods
            )
            if same and kind.fits(holder):
                return kind
    return None
