"""What is removed as one unit: a weight, a block, or M - N of each M weights.

A kernel is seen as a matrix. Each row makes one output; a filter has one row for each
of its positions. Each column reads one input. Sparse kernels of processors work in this
way (1x4: dense layers of TensorFlow Lite; 2:4: the tensor cores of NVIDIA). A channel
belongs to several kernels, so channels are in another module, `channels.choosing`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_prune_init._arguments import check_whole
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.masks.allocation import Allocation, Masks, Now, Scores


class Units(abc.ABC):
    """The units of the kernels of one model: how they are scored and chosen."""

    @abc.abstractmethod
    def scores(self, method, network, weights, within) -> dict[str, np.ndarray]:
        """Return the scores of all units by name.

        `within` are the masks of earlier iterations; `None`: there are none.
        """

    @abc.abstractmethod
    def choose(self, scores: Scores, within: Sequence | None, now: Now) -> Masks:
        """Return the masks by the path of the kernel, from the result of `scores`.

        More weights are removed from the earlier masks `within`. `now` is a function
        from a final sparsity to the sparsity of this iteration.
        """


class What(abc.ABC):
    """Base class for the argument `what` of `prune_at_init`."""

    def check(self, sparsity: float, allocation: Allocation) -> None:  # noqa: B027
        """Raise a `ValueError` if this does not fit the other arguments."""

    def fits(self, kernel: Kernel) -> bool:
        """Whether a kernel consists of whole units. Other kernels are not pruned."""
        return True

    @abc.abstractmethod
    def units(
        self,
        model: keras.Model,
        kernels: Sequence[Kernel],
        sparsity: float,
        allocation: Allocation,
    ) -> Units:
        """Return the units of these kernels of a model."""


class Weights(What):
    """Single weights are removed; base class of units that lie within one kernel."""

    def units(self, model, kernels, sparsity, allocation):
        return WeightUnits(self, kernels, sparsity, allocation)

    def choose(self, units: WeightUnits, scores, within, now) -> Masks:
        """Do what `Units.choose` does."""
        return units.allocation.masks(scores, units.sparsity, within, now)


class WeightUnits(Units):
    """The units of a model if each of them lies within one kernel."""

    def __init__(self, what, kernels, sparsity, allocation):
        self.what, self.kernels = what, {k.path: k for k in kernels}
        self.sparsity, self.allocation = sparsity, allocation

    def scores(self, method, network, weights, within):
        values = method.scores(network, weights)
        listed = isinstance(values, (list, tuple))
        shapes = [tuple(np.shape(v)) for v in values] if listed else values
        if shapes != [k.shape for k in network.kernels]:
            raise ValueError(
                "`scores` of a method must return a list with an array of scores for "
                "each kernel, of its shape. Received from "
                f"{type(method).__name__}: {shapes!r} for kernels of shapes "
                f"{[k.shape for k in network.kernels]}. Return one for each weight "
                "tensor that it is given."
            )
        pairs = zip(network.kernels, values, strict=True)
        return {kernel.path: np.asarray(value) for kernel, value in pairs}

    def choose(self, scores, within, now):
        return self.what.choose(self, scores, within, now)


class _Tiles(Weights):
    """Tiles of R rows and C columns of the kernels' matrices."""

    def __init__(self, rows: int, columns: int):
        self.rows, self.columns = rows, columns

    def fits(self, kernel):
        inputs = kernel.input_axes
        columns = math.prod(kernel.shape[i] for i in inputs)
        outputs = [n for i, n in enumerate(kernel.shape) if i not in inputs][-1]
        whole = outputs % self.rows == 0 and columns % self.columns == 0
        return bool(inputs) and whole

    def split(self, kernel: Kernel, values: np.ndarray) -> np.ndarray:
        """Return tiles, of shape (tiles down, R, tiles across, C)."""
        inputs = kernel.input_axes
        columns = math.prod(values.shape[i] for i in inputs)
        matrix = np.moveaxis(values, inputs, range(-len(inputs), 0))
        parts = matrix.size // columns // self.rows, columns // self.columns
        return matrix.reshape(parts[0], self.rows, parts[1], self.columns)

    def join(self, kernel: Kernel, tiles: np.ndarray) -> np.ndarray:
        """Undo `split`: return values of the kernel's shape."""
        shape, inputs = kernel.shape, kernel.input_axes
        rest = [n for i, n in enumerate(shape) if i not in inputs]
        matrix = tiles.reshape(*rest, *(shape[i] for i in inputs))
        return np.moveaxis(matrix, range(-len(inputs), 0), inputs)


class Blocks(_Tiles):
    """Remove blocks of neighbouring weights; the scores in a block are summed.

    Args:
        rows: Number of neighbouring outputs in a block, 1 or more.
        columns: Number of neighbouring inputs in a block, 1 or more.

    Raises:
        ValueError: If `rows` or `columns` is no whole number of 1 or more.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.Blocks(1, 4)
    Blocks(rows=1, columns=4)
    """

    def __init__(self, rows: int, columns: int):
        check_whole("rows", rows, 1)
        check_whole("columns", columns, 1)
        super().__init__(int(rows), int(columns))

    def __repr__(self):
        return f"Blocks(rows={self.rows}, columns={self.columns})"

    def choose(self, units, scores, within, now):
        split, kernels = self.split, units.kernels
        sums = {p: split(kernels[p], s).sum((1, 3)) for p, s in scores.items()}
        left = within
        if within is not None:
            pairs = zip(scores, within, strict=True)
            left = [split(kernels[p], mask).any((1, 3)) for p, mask in pairs]
        masks = super().choose(units, sums, left, now)
        whole = np.ones((1, self.rows, 1, self.columns), bool)
        for i, (path, mask) in enumerate(masks.items()):
            kept = self.join(kernels[path], mask[:, None, :, None] & whole)
            # A kept block may have lost single weights before.
            masks[path] = kept if within is None else kept & within[i]
        return masks


class NofM(_Tiles):
    """Keep the N best of each M neighbouring inputs of an output: sparsity 1 - N / M.

    Args:
        n: Number of weights that are kept in each group, 1 or more.
        m: Number of weights in a group, more than `n`.

    Raises:
        ValueError: If `n` or `m` is no such number.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.NofM(2, 4).sparsity
    0.5
    """

    def __init__(self, n: int, m: int):
        check_whole("n", n, 1)
        check_whole("m", m, 1)
        if n >= m:
            raise ValueError(
                "N of M keeps fewer weights than there are, so N is less than M. "
                f"Received: n={n}, m={m}. Pass for example NofM(2, 4), or what='2:4'."
            )
        super().__init__(1, int(m))
        self.n, self.m = int(n), int(m)

    def __repr__(self):
        return f"NofM(n={self.n}, m={self.m})"

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that is removed."""
        return 1 - self.n / self.m

    def check(self, sparsity, allocation):
        if not math.isclose(sparsity, self.sparsity, abs_tol=1e-3):
            raise ValueError(
                f"what='{self.n}:{self.m}' removes {self.sparsity:.4g} of the weights. "
                f"Received: sparsity={sparsity}. Pass sparsity={self.sparsity:.4g}."
            )
        if allocation.rule != "global" or allocation.min_per_layer:
            raise ValueError(
                f"With what='{self.n}:{self.m}' all layers keep the same. Received: "
                f"allocation={allocation.rule!r}, min_per_layer="
                f"{allocation.min_per_layer}. Leave them out."
            )

    def choose(self, units, scores, within, now):
        # The first of several iterations keeps more than N.
        count = math.ceil((1 - float(now(self.sparsity))) * self.m - 1e-6)
        masks = {}
        for i, (path, values) in enumerate(scores.items()):
            if within is not None:
                values = np.where(within[i], values, -np.inf)
            groups = self.split(units.kernels[path], values)
            best = np.argsort(-groups, axis=-1, kind="stable")[..., :count]
            mask = np.zeros(groups.shape, bool)
            np.put_along_axis(mask, best, True, axis=-1)
            mask &= groups > -np.inf
            masks[path] = self.join(units.kernels[path], mask)
        return masks


def pattern_of(kernel: Kernel, mask: np.ndarray) -> str:
    """Return what `what` may have been for a mask that has many units, else `""`.

    A mask of single weights looks like one of these by a chance below one in a million.
    """
    if mask.all():  # as those are that begin dense
        return ""
    for m in (4, 8, 16):
        groups = NofM(1, m)
        if groups.fits(kernel):
            counts = groups.split(kernel, mask).sum((1, 3)).ravel()
            if len(counts) >= 32 and 0 < counts[0] < m and np.ptp(counts) == 0:
                return f"{counts[0]}:{m}"
    for rows, columns in ((1, 2), (1, 3), (2, 1), (3, 1)):
        blocks = Blocks(rows, columns)
        if blocks.fits(kernel):
            tiles = blocks.split(kernel, mask)
            kept, whole = tiles.max((1, 3)), tiles.min((1, 3))
            enough = min(kept.sum(), (~kept).sum()) >= 16
            # Whole inputs or outputs are no pattern.
            lines = np.array_equal(kept, np.outer(kept.max(1), kept.max(0)))
            if enough and np.array_equal(kept, whole) and not lines:
                return f"blocks of {rows}x{columns} or more"
    return ""
