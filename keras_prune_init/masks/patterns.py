"""What is removed as one: a weight, a block of weights, or all but N of each M.

A kernel is seen as a matrix whose columns are the inputs of a unit; a filter has rows
for each of its positions. A block `RxC` is R neighbouring outputs at C neighbouring
inputs; the M weights of N:M are neighbouring inputs of one output. Sparse kernels of
processors take that (1x4: dense layers of TensorFlow Lite; 2:4: NVIDIA's tensor cores).
Channels, which are of no single kernel, are in channels/.
"""

from __future__ import annotations

import math
import re

import numpy as np

from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.masks import allocation as allocation_lib


class Weights:
    """Single weights; the base of the others.

    Args:
        allocation: As in `select`.
        min_per_layer: As in `select`, in units of what is removed as one.
    """

    def __init__(self, allocation: str, min_per_layer: int):
        self.allocation, self.min_per_layer = allocation, min_per_layer

    def fits(self, kernel: Kernel) -> bool:
        """Whether a kernel consists of whole units; others are not pruned."""
        return True

    def scores(self, method, network, weights, within) -> dict[str, np.ndarray]:
        """Scores by name, given the masks of earlier iterations (`None`: none)."""
        values = method.scores(network, weights)
        pairs = zip(network.kernels, values, strict=True)
        return {kernel.path: np.asarray(value) for kernel, value in pairs}

    def choose(self, scores, sparsity, within) -> dict[str, np.ndarray]:
        """Masks by path of the kernel, from scores and the masks of before."""
        return allocation_lib.choose(
            scores, sparsity, self.allocation, self.min_per_layer, within
        )


class _InMatrices(Weights):
    """Units of R rows and C columns of the matrices."""

    def __init__(self, allocation, min_per_layer, rows: int, columns: int):
        super().__init__(allocation, min_per_layer)
        self.rows, self.columns = rows, columns
        self.axes = {}  # those of the inputs, by path

    def fits(self, kernel):
        inputs = kernel.input_axes
        shape = kernel.shape
        self.axes[kernel.path] = inputs
        columns = math.prod(shape[i] for i in inputs)
        outputs = [n for i, n in enumerate(shape) if i not in inputs][-1]
        whole = outputs % self.rows == 0 and columns % self.columns == 0
        return bool(inputs) and whole

    def _units(self, path, values):
        """Of shape (units below each other, R, units beside each other, C)."""
        inputs = self.axes[path]
        columns = math.prod(values.shape[i] for i in inputs)
        matrix = np.moveaxis(values, inputs, range(-len(inputs), 0))
        parts = matrix.size // columns // self.rows, columns // self.columns
        return matrix.reshape(parts[0], self.rows, parts[1], self.columns)

    def _kernel(self, path, units, shape):
        """The reverse."""
        inputs = self.axes[path]
        rest = [n for i, n in enumerate(shape) if i not in inputs]
        matrix = units.reshape(*rest, *(shape[i] for i in inputs))
        return np.moveaxis(matrix, range(-len(inputs), 0), inputs)


class Blocks(_InMatrices):
    """Blocks of weights, scored by their sum."""

    def choose(self, scores, sparsity, within):
        sums = {path: self._units(path, s).sum((1, 3)) for path, s in scores.items()}
        left = within
        if within is not None:
            pairs = zip(scores, within, strict=True)
            left = [self._units(path, mask).any((1, 3)) for path, mask in pairs]
        masks = super().choose(sums, sparsity, left)
        whole = np.ones((1, self.rows, 1, self.columns), bool)
        masks = {
            path: self._kernel(path, m[:, None, :, None] & whole, scores[path].shape)
            for path, m in masks.items()
        }
        if within is None:
            return masks
        # Of a block that is left, single weights may have been removed before.
        pairs = zip(masks.items(), within, strict=True)
        return {path: mask & inside for (path, mask), inside in pairs}


class NOfM(_InMatrices):
    """The N best of each M neighbouring inputs of an output."""

    def __init__(self, kept: int, group: int):
        super().__init__("global", 0, 1, group)
        self.kept = kept

    def choose(self, scores, sparsity, within):
        # In the first of several iterations more than N are left.
        count = math.ceil((1 - sparsity) * self.columns - 1e-6)
        masks = {}
        for i, (path, values) in enumerate(scores.items()):
            if within is not None:
                values = np.where(within[i], values, -np.inf)
            units = self._units(path, values)
            best = np.argsort(-units, axis=-1, kind="stable")[..., :count]
            mask = np.zeros(units.shape, bool)
            np.put_along_axis(mask, best, True, axis=-1)
            mask &= units > -np.inf
            masks[path] = self._kernel(path, mask, values.shape)
        return masks


def make(
    granularity: str, sparsity: float, allocation: str, min_per_layer: int
) -> Weights:
    """What `granularity` names, other than channels.

    Raises:
        ValueError: If there is no such granularity, or other arguments do not fit it.
    """
    if granularity == "weight":
        return Weights(allocation, min_per_layer)
    if found := re.fullmatch(r"block:(\d+)x(\d+)", str(granularity)):
        rows, columns = map(int, found.groups())
        if rows and columns:
            return Blocks(allocation, min_per_layer, rows, columns)
    if found := re.fullmatch(r"(\d+):(\d+)", str(granularity)):
        kept, group = map(int, found.groups())
        if 0 < kept < group:
            _check_n_of_m(granularity, 1 - kept / group, sparsity)
            if allocation != "global" or min_per_layer:
                raise ValueError(
                    f"With granularity={granularity!r} all layers keep the same. "
                    f"Received: allocation={allocation!r}, "
                    f"min_per_layer={min_per_layer}. Leave them out."
                )
            return NOfM(kept, group)
    raise ValueError(
        "`granularity` must be 'weight', 'channel', blocks of outputs x inputs such as "
        f"'block:1x4', or N of M such as '2:4'. Received: granularity={granularity!r}. "
        "Choose one of these."
    )


def _check_n_of_m(granularity, removed, sparsity):
    if not math.isclose(sparsity, removed, abs_tol=1e-3):
        raise ValueError(
            f"granularity={granularity!r} removes {removed:.4g} of the weights. "
            f"Received: sparsity={sparsity}. Pass sparsity={removed:.4g}."
        )
