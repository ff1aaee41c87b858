"""Convolve images with the kept weights only.

All pixels of a channel are one row of a tile, with zeros around each image. So a kept
weight adds one row to another, shifted by some pixels, as in a product of matrices.
Outputs beyond an image are computed, too, and dropped.

Depthwise convolutions are not computed in this way: their dense kernels are so small
that the rest took two to four times as long, at all sparsities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_prune_init.sparse.positions import Windows
from keras_prune_init.sparse.products import WIDEST, Product, first, size


class Convolution(Product):
    """The convolution of images (samples, down, right, channels) with a kernel."""

    kernel: Windows

    def __init__(self, kernel: Windows, padding: str):
        super().__init__(kernel)
        self.padding = padding

    def pack(self, x):
        planes = self._planes(x)
        (down, right), (top, left) = planes.sizes, planes.before
        steps_down, steps_right = self.kernel.strides
        high, wide = down * steps_down - top, right * steps_right - left
        x = x[:, :high, :wide]  # the last pixels are in no window
        after = high - size(x, 1), wide - size(x, 2)
        pads = [[0, planes.missing], [top, after[0]], [left, after[1]], [0, 0]]
        x = tf.reshape(
            tf.pad(x, pads),
            [
                *(planes.tiles, planes.each, down, steps_down),
                *(right, steps_right, self.kernel.channels),
            ],
        )
        tiles = tf.reshape(
            tf.transpose(x, [0, 3, 5, 6, 1, 2, 4]),
            [planes.tiles, self.kernel.rows, planes.each * down * right],
        )
        reach_down, reach_right = self.kernel.reach
        return tiles, tf.stack([right, reach_down * right + reach_right])

    def unpack(self, tiles, x):
        planes, units = self._planes(x), self.kernel.columns
        y = tf.reshape(tf.transpose(tiles, [0, 2, 1]), [-1, *planes.sizes, units])
        return first(y, [size(x, 0), *planes.outputs, units])

    def pack_slopes(self, dy, x):
        planes, units = self._planes(x), self.kernel.columns
        down, right = self.kernel.reach
        dy = tf.pad(dy, [[0, planes.missing], [0, down], [0, right], [0, 0]])
        width = planes.each * planes.sizes[0] * planes.sizes[1]
        return tf.transpose(tf.reshape(dy, [planes.tiles, width, units]), [0, 2, 1])

    def plain(self, x, kernel):
        return keras.ops.conv(
            x,
            kernel,
            strides=self.kernel.strides,
            padding=self.padding,
            data_format="channels_last",
            dilation_rate=self.kernel.dilations,
        )

    def _planes(self, x):
        outputs, before = [], []
        for axis in range(2):
            step = self.kernel.strides[axis]
            pixels = size(x, axis + 1)
            window = (self.kernel.shape[axis] - 1) * self.kernel.dilations[axis] + 1
            if self.padding == "valid":
                outputs.append((pixels - window) // step + 1)
                before.append(0)
            else:
                outputs.append((pixels - 1) // step + 1)
                missing = (outputs[-1] - 1) * step + window - pixels
                before.append(_at_least_0(missing) // 2)
        sizes = [n + more for n, more in zip(outputs, self.kernel.reach, strict=True)]
        samples = size(x, 0)
        each = 1 + WIDEST // (sizes[0] * sizes[1] + 1)
        tiles = (samples + each - 1) // each
        return _Planes(outputs, sizes, before, each, tiles, tiles * each - samples)


class _Planes(NamedTuple):
    """The sizes of images that are packed; whole numbers, or tensors if not known."""

    outputs: Sequence  # rows and columns of pixels of the output
    sizes: Sequence  # of each phase of the input, with zeros around
    before: Sequence  # zeros above and at the left
    each: int  # images of a tile
    tiles: int
    missing: int  # images in the last tile


def _at_least_0(size):
    return max(size, 0) if isinstance(size, int) else tf.maximum(size, 0)
