"""Multiply by the kept weights only, as functions of TensorFlow with gradients.

The loops are numba's, behind `tf.numpy_function`. A TensorFlow operator in C++ was
tried against earlier ones, with AVX-512 intrinsics: 1.3 ms for a product of 4096 x 4096
at 98 % and 128 samples and 2.2 ms for its gradients, where numba took 1.6 and 2.4. That
is too little for a compiler on every machine and a binary for every version of
TensorFlow. A call through `tf.numpy_function` costs about 0.1 ms.
"""

from __future__ import annotations

import abc
import functools
import math
import threading
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_prune_init.sparse.positions import Lines, Matrix, Windows

MANY = 32  # tiles, of which all processors find enough; of fewer, they share each
MOST = 64  # tasks for processors that share the tiles
PARTS = 2**22  # gradients of weights that are added at the end, in all tasks

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
        """Return what it computes, in float32, with gradients of any order.

        Args:
            x: Tensor of samples.
            values: Kept weights, a vector.
            index: Their flat, rising positions in the kernel.
            scale: Factor of each output unit, a vector; it gets no gradient.
        """

    @abc.abstractmethod
    def dense(self, x, values, index, scale):
        """Return the same as the compact layout, computed in the dtype of `values`."""

    def lines(self, index: np.ndarray, loops) -> tuple[Lines, Lines]:
        """Return the weights by row and by unit, sorted anew if they moved."""
        seen = self._seen
        if seen is None or len(seen[0]) != len(index) or loops.differ(seen[0], index):
            seen = self._seen = index.copy(), self.kernel.lines(index)
        return seen[1]

    def forget(self) -> None:
        """Let the memory of `lines` go; they are sorted anew if they are needed."""
        self._seen = None


def differentiable(forward, backward, shape, x, values, *constants):
    """Return what compiled loops compute, as a tensor with gradients of any order.

    Args:
        forward: Function of arrays `x, values, *constants` that returns a product of
            `x` and `values`: it is linear in each.
        backward: Function of arrays `x, dy, values, *constants` that returns the
            gradients of `x` and `values`.
        shape: Shape of the result, as far as it is known.
        x: Float32 tensor.
        values: Float32 tensor.
        *constants: Tensors that get no gradient.
    """

    @tf.custom_gradient
    def product(x, values):
        given = [x, values, *constants]
        y = tf.numpy_function(forward, given, tf.float32, stateful=False)
        y.set_shape(shape)
        return y, lambda dy: slopes(x, values, dy)

    @tf.custom_gradient
    def slopes(x, values, dy):
        given, kinds = [x, dy, values, *constants], [tf.float32, tf.float32]
        found = tf.numpy_function(backward, given, kinds, stateful=False)
        for slope, of in zip(found, (x, values), strict=True):
            slope.set_shape(of.shape)

        def second(of_x, of_values):
            # As the product is linear, these are products, too.
            of_x = tf.zeros_like(x) if of_x is None else of_x
            of_values = tf.zeros_like(values) if of_values is None else of_values
            return (
                slopes(x, of_values, dy)[0],
                slopes(of_x, values, dy)[1],
                product(of_x, values) + product(x, of_values),
            )

        return found, second

    return product(x, values)


class MatrixProduct(SparseOperation):
    """The product of (samples, rows of a matrix) with a kernel that is this matrix."""

    kernel: Matrix

    def __call__(self, x, values, index, scale):
        x, values, scale = (tf.cast(v, "float32") for v in (x, values, scale))
        shape = [x.shape[0], self.kernel.columns]
        given = shape, x, values, index, scale
        return differentiable(self._forward, self._backward, *given)

    def dense(self, x, values, index, scale):
        kernel, (shape, inputs, outputs) = self.kernel, self.kernel
        others = set(range(len(shape))) - {*inputs, *outputs}  # of size 1
        axes = [*others, *inputs, *outputs]
        whole = tf.transpose(dense(values, index, shape), axes)
        matrix = tf.reshape(whole, [kernel.rows, kernel.columns])
        return tf.cast(x, values.dtype) @ matrix * tf.cast(scale, values.dtype)

    def _forward(self, x, values, index, scale):
        y = aligned((len(x), self.kernel.columns))
        with LOCK:
            loops = compiled()
            _, units = self.lines(index, loops)
            tiles = -(-len(x) // loops.WIDTH)
            blocks, groups = units.blocks, max(1, tiles)
            if tiles >= MANY:
                blocks, groups = blocks[[0, -1]], min(tiles, MOST)
            given = units.ends, units.others, units.places, blocks, groups
            loops.multiply(x, values, scale, *given, y)
        return y

    def _backward(self, x, dy, values, index, scale):
        dx, slopes = aligned(x.shape), aligned(values.shape)
        with LOCK:
            loops = compiled()
            rows, _ = self.lines(index, loops)
            tiles = -(-len(x) // loops.WIDTH)
            blocks, groups = rows.blocks, tiles // 4
            if tiles >= MANY:
                blocks, groups = blocks[[0, -1]], tiles
            parts = parts_of(slopes, groups)
            given = rows.ends, rows.others, rows.places, blocks
            loops.multiply_slopes(x, dy, values, scale, *given, dx, parts, slopes)
        return dx, slopes


def size(x, axis):
    """Return the size of an axis: a whole number, or a tensor if it is not known."""
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def compiled():
    """Return the compiled loops, with as many threads as TensorFlow may use."""
    from keras_prune_init.sparse import loops

    loops.use_threads(_threads())
    return loops


@functools.cache  # it stays what it is when the first operation runs
def _threads():
    return tf.config.threading.get_intra_op_parallelism_threads()


def parts_of(slopes, groups):
    """Return memory for the gradients of weights, of some groups of tiles each."""
    groups = min(groups, MOST, max(8, PARTS // max(1, len(slopes))))
    if groups <= 1:
        return slopes[None]
    return np.empty((groups, len(slopes)), "float32")


def aligned(shape):
    """Return a new array in memory that TensorFlow takes over without a copy."""
    size = math.prod(shape)
    whole = np.empty(size + 16, "float32")
    start = -whole.ctypes.data % 64 // whole.itemsize
    return whole[start : start + size].reshape(shape)
