"""Where the kept weights of a kernel are, in the orders in which products need them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LINES = 32  # of a task, or a multiple: whole cache lines of the result
BLOCKS = 64  # tasks of a tile: some for each processor, also of a large machine


@dataclasses.dataclass
class Lines:
    """The kept weights, sorted by what they read from or by what they add to."""

    ends: np.ndarray  # weights of line i are at ends[i]:ends[i + 1] in the others
    others: np.ndarray  # the line of each weight on the other side
    places: np.ndarray  # where in the vector of values it is
    blocks: np.ndarray  # lines blocks[i]:blocks[i + 1] are as much work as the next
    shifts: tuple[np.ndarray, np.ndarray] | None  # how far it looks down and right
    _starts: dict[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict)

    def starts(self, width: int, pitch: int) -> np.ndarray:
        """Return where in a flat tile what each weight is multiplied with begins.

        Lines are `width` apart there, and rows of pixels in a line `pitch`.
        """
        if (width, pitch) not in self._starts:
            down, right = self.shifts or (0, 0)
            starts = self.others * width + down * pitch + right
            self._starts = {(width, pitch): starts.astype("int32")}  # of most batches
        return self._starts[width, pitch]

    @classmethod
    def of(cls, lines, others, count: int, shifts=None) -> Lines:
        """Sort weights by their line, and those of a line by the other line."""
        places = np.lexsort((others, lines))
        ends = np.zeros(count + 1, "int64")
        np.cumsum(np.bincount(lines, minlength=count), out=ends[1:])
        work = ends + 4 * np.arange(count + 1)  # an empty line is cleared, too
        blocks = np.searchsorted(work, np.linspace(0, work[-1], BLOCKS + 1))
        blocks[1:-1] = np.minimum(count, np.round(blocks[1:-1] / LINES) * LINES)
        others, places = others[places].astype("int32"), places.astype("int32")
        if shifts is not None:
            shifts = shifts[0][places], shifts[1][places]
        return cls(ends, others, places, np.unique(blocks), shifts)


class Matrix(NamedTuple):
    """A kernel as a matrix: which of its axes are rows, and which are columns.

    Axes that are neither have size 1.
    """

    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[axis] for axis in self.inputs)

    @property
    def columns(self) -> int:
        return math.prod(self.shape[axis] for axis in self.outputs)

    def lines(self, index: np.ndarray) -> tuple[Lines, Lines]:
        """Return the weights at flat positions of the kernel, by row and by column."""
        places = np.unravel_index(index, self.shape)
        rows, columns = (
            _flat(places, self.shape, axes) for axes in (self.inputs, self.outputs)
        )
        by_row = Lines.of(rows, columns, self.rows)
        return by_row, Lines.of(columns, rows, self.columns)


class Windows(NamedTuple):
    """The kernel of a convolution of images, which looks at windows of pixels.

    Rows are the channels of the input, once for each phase of the strides: with strides
    of 2, even rows of pixels are other images than odd ones. So every weight adds one
    image, shifted by some pixels, to another.
    """

    shape: tuple[int, int, int, int]  # down, right, channels of a group, filters
    channels: int
    strides: tuple[int, int]
    dilations: tuple[int, int]

    @property
    def rows(self) -> int:
        return math.prod(self.strides) * self.channels

    @property
    def columns(self) -> int:
        return self.shape[3]

    @property
    def reach(self) -> tuple[int, int]:
        """How many rows and columns of a phase a window has after its first."""
        down, right = (
            (size - 1) * dilation // stride
            for size, dilation, stride in zip(
                self.shape[:2], self.dilations, self.strides, strict=True
            )
        )
        return down, right

    def lines(self, index: np.ndarray) -> tuple[Lines, Lines]:
        """Return the weights at flat positions of the kernel, by row and by column."""
        down, right, channel, unit = np.unravel_index(index, self.shape)
        # A filter sees the channels of its group.
        group = unit // (self.shape[3] * self.shape[2] // self.channels)
        channel = channel + group * self.shape[2]
        down, right = down * self.dilations[0], right * self.dilations[1]
        phase = down % self.strides[0] * self.strides[1] + right % self.strides[1]
        row = phase * self.channels + channel
        shifts = down // self.strides[0], right // self.strides[1]
        back = -shifts[0], -shifts[1]
        by_row = Lines.of(row, unit, self.rows, back)
        return by_row, Lines.of(unit, row, self.columns, shifts)


def _flat(places, shape, axes: Sequence[int]):
    if not axes:  # a sum, of one row or column
        return np.zeros_like(places[0])
    sizes = [shape[axis] for axis in axes]
    return np.ravel_multi_index([places[axis] for axis in axes], sizes)
