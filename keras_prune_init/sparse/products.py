"""Multiply by the kept weights only, as functions of TensorFlow with gradients.

The loops are numba's, behind `tf.numpy_function`. A TensorFlow operator in C++ was
tried against them, with AVX-512 intrinsics: 1.3 ms for a product of 4096 x 4096 at 98 %
and 128 samples and 2.2 ms for its gradients, where numba takes 1.6 and 2.4. That is too
little for a compiler on every machine and a binary for every version of TensorFlow. A
call through `tf.numpy_function` costs about 0.1 ms.
"""

from __future__ import annotations

import abc
import math
import threading
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_prune_init.sparse.positions import Lines, Matrix, Windows

WIDEST = 512  # columns of a tile: long loops, over rows that stay in the cache
GROUPS = 8  # sums of gradients that run side by side, and are added at the end

# One product at a time: each uses all processors, and some of numba's kinds of threads
# serve one caller only.
LOCK = threading.Lock()


def dense(values, index, shape: Sequence[int], elsewhere: float = 0):
    """Return a tensor with these values at flat, rising positions."""
    # A ninth of the time of tf.scatter_nd, on a processor.
    flat = tf.raw_ops.SparseToDense(
        sparse_indices=tf.expand_dims(index, 1),
        output_shape=[math.prod(shape)],
        sparse_values=values,
        default_value=tf.constant(elsewhere, values.dtype),
        validate_indices=False,  # they rise
    )
    return tf.reshape(flat, shape)


class SparseOperation(abc.ABC):
    """What a layer computes with one pruned kernel.

    It remembers the order of the weights for the positions that it saw last.
    """

    def __init__(self, kernel: Matrix | Windows):
        self.kernel = kernel
        self._seen: tuple[np.ndarray, tuple[Lines, Lines]] | None = None

    @abc.abstractmethod
    def __call__(self, x, values, index, scale):
        """Return what it computes, in float32, for kept values at flat positions."""

    @abc.abstractmethod
    def dense(self, x, values, index, scale):
        """Return the same as the compact layout, computed in the dtype of `values`."""

    def _lines(self, index, loops):
        """Return the weights by row and by unit, sorted anew if they moved."""
        seen = self._seen
        if seen is None or len(seen[0]) != len(index) or loops.differ(seen[0], index):
            seen = self._seen = index.copy(), self.kernel.lines(index)
        return seen[1]


class Product(SparseOperation):
    """The product of samples with one pruned kernel, and its gradients."""

    def __call__(self, x, values, index, scale):
        """Return the product, which can be differentiated as often as needed.

        Args:
            x: Tensor of samples.
            values: Kept weights, a vector.
            index: Their flat, rising positions in the kernel.
            scale: Factor of each output unit, a vector; it gets no gradient.

        Everything is computed in float32.
        """
        x, values, scale = (tf.cast(v, "float32") for v in (x, values, scale))

        @tf.custom_gradient
        def product(x, values):
            with tf.GradientTape(True, False) as packing:
                packing.watch(x)
                tiles, extent = self.pack(x)
            given = [tiles, values, index, scale, extent]
            y = tf.numpy_function(self._forward, given, tf.float32, stateful=False)
            y.set_shape([tiles.shape[0], self.kernel.columns, tiles.shape[2]])

            @tf.custom_gradient
            def slopes(x, values, dy):
                given = [tiles, self.pack_slopes(dy, x), values, index, scale, extent]
                dx, found = tf.numpy_function(
                    self._backward, given, [tf.float32, tf.float32], stateful=False
                )
                dx.set_shape(tiles.shape)
                found.set_shape(values.shape)
                dx = packing.gradient(tiles, x, dx)

                def second(*up):
                    sources = [x, values, dy]
                    with tf.GradientTape(watch_accessed_variables=False) as outer:
                        outer.watch(sources)
                        with tf.GradientTape(watch_accessed_variables=False) as inner:
                            inner.watch([x, values])
                            y = self.dense(x, values, index, scale)
                        first = inner.gradient(y, [x, values], dy)
                    return outer.gradient(first, sources, up)

                return (dx, found), second

            return self.unpack(y, x), lambda dy: slopes(x, values, dy)

        return product(x, values)

    def dense(self, x, values, index, scale):
        x, scale = tf.cast(x, values.dtype), tf.cast(scale, values.dtype)
        return self.plain(x, dense(values, index, self.kernel.shape)) * scale

    @abc.abstractmethod
    def pack(self, x):
        """Return samples as (tiles, rows, columns of a tile), and an int32 vector.

        It has the distance of two rows of pixels, and how many columns at the end of a
        tile are no outputs.
        """

    @abc.abstractmethod
    def unpack(self, tiles, x):
        """Return (tiles, units, columns of a tile) as outputs for samples `x`."""

    @abc.abstractmethod
    def pack_slopes(self, dy, x):
        """Undo `unpack`, with zeros where it drops something."""

    @abc.abstractmethod
    def plain(self, x, kernel):
        """Return the product with a dense kernel, as the compact layout computes it."""

    def _forward(self, x, values, index, scale, extent):
        tiles, _, width = x.shape
        y = aligned((tiles, self.kernel.columns, width))
        with LOCK:
            loops = compiled()
            _, units = self._lines(index, loops)
            loops.forward(
                x.reshape(tiles, -1),
                values,
                scale,
                units.ends,
                units.starts(width, extent[0]),
                units.places,
                units.blocks,
                width - extent[1],
                y,
            )
        return y

    def _backward(self, x, dy, values, index, scale, extent):
        tiles, _, width = x.shape
        dx, slopes = aligned(x.shape), aligned(values.shape)
        groups = min(tiles, GROUPS)
        parts = slopes[None] if groups == 1 else np.empty((groups, len(values)), "f")
        with LOCK:
            loops = compiled()
            rows, _ = self._lines(index, loops)
            loops.backward(
                x,
                dy.reshape(tiles, -1),
                values,
                scale,
                rows.ends,
                rows.others,
                rows.starts(width, extent[0]),
                rows.places,
                rows.blocks,
                dx,
                parts,
            )
            if groups > 1:
                loops.add_up(parts, slopes)
        return dx, slopes


class MatrixProduct(Product):
    """The product of (samples, rows of a matrix) with a kernel that is this matrix."""

    kernel: Matrix

    def pack(self, x):
        return _to_tiles(x, self.kernel.rows), tf.zeros([2], "int32")

    def unpack(self, tiles, x):
        y = tf.reshape(tf.transpose(tiles, [0, 2, 1]), [-1, self.kernel.columns])
        return first(y, [size(x, 0), self.kernel.columns])

    def pack_slopes(self, dy, x):
        return _to_tiles(dy, self.kernel.columns)

    def plain(self, x, kernel):
        shape = self.kernel.shape
        others = set(range(len(shape))) - {*self.kernel.inputs, *self.kernel.outputs}
        kernel = tf.transpose(
            kernel, [*others, *self.kernel.inputs, *self.kernel.outputs]
        )
        return x @ tf.reshape(kernel, [self.kernel.rows, self.kernel.columns])


def _to_tiles(x, features):
    """Turn (samples, features) into (tiles, features, samples of a tile)."""
    samples = size(x, 0)
    tiles = 1 + samples // (WIDEST + 1)
    width = (samples + tiles - 1) // tiles
    missing = tiles * width - samples

    def padded():
        return tf.pad(x, [[0, missing], [0, 0]])

    if isinstance(missing, int):
        x = padded() if missing else x
    else:
        x = tf.cond(missing > 0, padded, lambda: x)
    return tf.transpose(tf.reshape(x, [tiles, width, features]), [0, 2, 1])


def first(x, sizes):
    """Return the first entries along each axis, so many as `sizes` says."""
    known = [size if isinstance(size, int) else None for size in sizes]
    if None in known or known != x.shape.as_list():
        x = x[tuple(slice(size) for size in sizes)]
    return tf.ensure_shape(x, known)


def size(x, axis):
    """Return the size of an axis: a whole number, or a tensor if it is not known."""
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def compiled():
    """Return the compiled loops, with as many threads as TensorFlow may use."""
    from keras_prune_init.sparse import loops

    loops.use_threads(tf.config.threading.get_intra_op_parallelism_threads())
    return loops


def aligned(shape):
    """Return a new array in memory that TensorFlow takes over without a copy."""
    size = math.prod(shape)
    whole = np.empty(size + 16, "float32")
    start = -whole.ctypes.data % 64 // whole.itemsize
    return whole[start : start + size].reshape(shape)
