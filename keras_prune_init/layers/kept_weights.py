"""KeptWeights: what is left of a kernel, as a vector, with the positions."""

from __future__ import annotations

import math
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.sparse import products

ops = keras.ops
# Attributes that a vector of weights shares with its kernel.
BY_WEIGHT = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


class KeptWeights(keras.layers.Layer):
    """The kept weights of one kernel: vectors of `values` and flat, rising `index`."""

    def create(self, count: int, kernel: keras.Variable) -> None:
        """Make the variables for `count` weights of a kernel that is not stored."""
        if math.prod(kernel.shape) >= 2**31:
            raise ValueError(
                "A kernel of the compact layout must have less than 2**31 weights. "
                f"Received: {kernel.path} of shape {tuple(kernel.shape)}. "
                "Use layout='masked'."
            )
        self.dense_shape = tuple(kernel.shape)
        regularizer, constraint = kernel.regularizer, kernel.constraint
        self.values = self.add_weight(
            shape=(count,),
            initializer="zeros",
            dtype=kernel.dtype,
            name="values",
            regularizer=regularizer
            if regularizer is None or isinstance(regularizer, BY_WEIGHT)
            else lambda values: regularizer(self.dense(values)),
            constraint=constraint
            and (lambda values: self.gather(constraint(self.dense(values)))),
        )
        self.index = self.add_weight(
            shape=(count,),
            # All positions differ, also in a layer that is only made from its config.
            initializer=lambda shape, dtype: ops.arange(*shape, dtype=dtype),
            dtype="int32",
            trainable=False,
            name="index",
            aggregation="only_first_replica",
        )
        self.built = True

    def assign(self, mask: np.ndarray, values) -> None:
        """Set kept weights and positions from a mask and kernel-shaped values."""
        index = np.flatnonzero(mask)
        self.index.assign(index)
        # Not as one array, which might need most of the memory.
        self.values.assign(tf.gather(tf.reshape(values, [-1]), index))

    def mask(self) -> np.ndarray:
        mask = np.zeros(math.prod(self.dense_shape), bool)
        mask[np.asarray(self.index.value)] = True
        return mask.reshape(self.dense_shape)

    def dense(self, values, elsewhere: float = 0):
        """Return a kernel with these values, and another one elsewhere."""
        return products.dense(values, self.index.value, self.dense_shape, elsewhere)

    def gather(self, kernel):
        """Return the kept entries of a kernel, a vector; the inverse of `dense`."""
        return ops.take(ops.reshape(kernel, [-1]), self.index.value)

    def spread(self, scale: keras.Variable, inputs: Iterable[int]):
        """Return the factor of each value; `scale` has size 1 along `inputs`."""
        place, step, stride = 0, 1, 1
        for axis in reversed(range(len(self.dense_shape))):
            size = self.dense_shape[axis]
            if axis not in inputs:
                place += self.index.value // step % size * stride
                stride *= size
            step *= size
        return ops.take(ops.reshape(scale.value, [-1]), place)


def gaps(index):
    """Return the differences of rising positions, in the smallest integer type."""
    gaps = np.diff(index, prepend=0)
    return gaps.astype(np.min_scalar_type(gaps.max(initial=0)))


def positions(gaps, size):
    """Return the positions with these gaps; `None` unless they rise, below `size`."""
    whole = gaps.ndim == 1 and gaps.dtype.kind in "iu"
    if not whole or np.any(gaps[1:] < 1) or np.any((gaps < 0) | (gaps >= size)):
        return None
    found = np.cumsum(gaps, dtype="int64")
    return found if not len(found) or found[-1] < size else None
