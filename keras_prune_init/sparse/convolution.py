"""Convolve images with the kept weights only.

In a tile, all pixels of a channel are one row, with zeros around each image. So a kept
weight adds one row to another, shifted by some pixels, as in a product of matrices.
Some images are in a tile that stays in the cache, so nothing is carried through memory
but inputs and outputs. Outputs beyond an image are computed, too, and dropped.

Depthwise convolutions are not computed in this way: their dense kernels are so small
that everything else took two to four times as long, at all sparsities.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.sparse.positions import Windows
from keras_prune_init.sparse.products import (
    LOCK,
    SparseOperation,
    aligned,
    compiled,
    dense,
    differentiable,
    parts_of,
)

WIDEST = 512  # columns of a tile, unless an image has more: it stays in the cache


class Convolution(SparseOperation):
    """The convolution of images (samples, down, right, channels) with a kernel."""

    kernel: Windows

    def __init__(self, kernel: Windows, padding: str):
        super().__init__(kernel)
        self.padding = padding

    def __call__(self, x, values, index, scale):
        x, values, scale = (tf.cast(v, "float32") for v in (x, values, scale))
        sizes = [size and self._along(axis, size)[0] for axis, size in _pixels(x)]
        shape = [x.shape[0], *sizes, self.kernel.columns]
        given = shape, x, values, index, scale
        return differentiable(self._forward, self._backward, *given)

    def dense(self, x, values, index, scale):
        scale = tf.cast(scale, values.dtype)
        return scale * keras.ops.conv(
            tf.cast(x, values.dtype),
            dense(values, index, self.kernel.shape),
            strides=self.kernel.strides,
            padding=self.padding,
            data_format="channels_last",
            dilation_rate=self.kernel.dilations,
        )

    def _forward(self, x, values, index, scale):
        sizes, planes, outputs = self._planes(x)
        y = aligned((len(x), *sizes, self.kernel.columns))
        with LOCK:
            loops = compiled()
            width, reach = self._columns(planes, loops)
            _, units = self.lines(index, loops)
            given = units.ends, units.starts(width, planes[2]), units.places
            where = planes, outputs, width, reach
            loops.convolve(x, values, scale, *given, *where, y)
        return y

    def _backward(self, x, dy, values, index, scale):
        _, planes, outputs = self._planes(x)
        dx, slopes = aligned(x.shape), aligned(values.shape)
        with LOCK:
            loops = compiled()
            width, reach = self._columns(planes, loops)
            rows, _ = self.lines(index, loops)
            given = rows.ends, rows.starts(width, planes[2]), rows.places
            where = planes, outputs, width, reach
            to = dx, parts_of(slopes, -(-len(x) // planes[0])), slopes
            loops.convolve_slopes(x, dy, values, scale, *given, *where, *to)
        return dx, slopes

    def _columns(self, planes, loops):
        """Return the columns of a tile, and how far a window looks in them."""
        each, down, right = planes[:3]
        reach_down, reach_right = self.kernel.reach
        width = -(-each * down * right // loops.WIDTH) * loops.WIDTH
        return width, reach_down * right + reach_right

    def _planes(self, x):
        """Return the size of outputs, and how inputs and outputs are in a tile."""
        along = [self._along(axis, size) for axis, size in _pixels(x)]
        sizes, before = zip(*along, strict=True)
        down, right = (
            n + more for n, more in zip(sizes, self.kernel.reach, strict=True)
        )
        most = min(WIDEST, max(WIDEST // 4, len(x) * down * right // 8))
        each = max(1, most // (down * right))
        planes = each, down, right
        return sizes, (*planes, *before, *self.kernel.strides), (*planes, 0, 0, 1, 1)

    def _along(self, axis, size):
        """Return how many outputs there are along an axis, and the zeros before."""
        step, window = self.kernel.strides[axis], self.kernel.shape[axis]
        window = (window - 1) * self.kernel.dilations[axis] + 1
        if self.padding == "valid":
            return (size - window) // step + 1, 0
        count = -(-size // step)
        return count, max((count - 1) * step + window - size, 0) // 2


def _pixels(x: tf.Tensor | np.ndarray):
    return enumerate(x.shape[1:3])
