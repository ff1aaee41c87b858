"""From scores and a sparsity to masks: how many weights each tensor keeps.

An allocation is a function `(shapes, density) -> densities`, one a tensor, which are
then rounded to counts with the exact sum. `global` needs none: the scores decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_prune_init._arguments import check_choice, check_whole, is_number
from keras_prune_init.masks.top_k import check_finite, removed_count, top_k_of_all

Scores = Mapping[str, np.ndarray]


def uniform_densities(shapes: Sequence[tuple[int, ...]], density: float) -> list[float]:
    """The same density in every tensor."""
    return [density for _ in shapes]


def erk_densities(shapes: Sequence[tuple[int, ...]], density: float) -> list[float]:
    """Erdos-Renyi-Kernel: density in proportion to sum(shape) / prod(shape).

    Tensors that would exceed density 1 are kept whole and the rest is solved again.

    Reference:
        Evci et al., "Rigging the Lottery", arXiv 1911.11134; Mocanu et al. 2018.
    """
    sizes = np.array([np.prod(s) for s in shapes], float)
    raw = np.array([sum(s) for s in shapes], float) / np.maximum(sizes, 1)
    budget = density * sizes.sum()
    whole, epsilon = sizes == 0, 0.0
    while not whole.all():
        left = max(budget - sizes[whole].sum(), 0.0)
        epsilon = left / (raw * sizes)[~whole].sum()
        too_dense = ~whole & (epsilon * raw > 1)
        if not too_dense.any():
            break
        # One at a time, the densest first: the next epsilon is larger.
        whole[np.argmax(np.where(too_dense, raw, -1))] = True
    return np.where(whole, 1.0, epsilon * raw).tolist()


ALLOCATIONS = {"global": None, "uniform": uniform_densities, "erk": erk_densities}


def select(
    scores: Scores,
    sparsity: float,
    allocation: str = "global",
    min_per_layer: int = 0,
) -> dict[str, np.ndarray]:
    """Exact masks from scores: the highest are kept, ties go to the first index.

    Args:
        scores: `{kernel path: array}`; larger means keep.
        sparsity: Fraction of all weights to remove, 0 <= sparsity < 1.
        allocation: `"global"` ranks all weights together; `"uniform"` removes the
            same fraction of every tensor; `"erk"` keeps more of the small ones. The
            total is exact in each: floor(sparsity * total) weights go.
        min_per_layer: Weights that every tensor keeps at least (or all it has). It
            hides layer collapse, so it is 0 unless asked for.

    Returns:
        `{kernel path: bool array}`, `True` where a weight is kept.

    Raises:
        ValueError: If scores are not finite, one is a single number in place of an
            array, or an argument is out of range.

    Example:

    >>> select({"a": np.array([3.0, 1.0, 2.0]), "b": np.array([0.5])}, 0.5)
    {'a': array([ True, False,  True]), 'b': array([False])}
    """
    check_arguments(sparsity, allocation, min_per_layer)
    _check_scores(scores)
    check_finite(scores)
    return choose(scores, sparsity, allocation, min_per_layer)


def choose(scores, sparsity, allocation, min_per_layer=0, within=None):
    """`select` without checks, and among the weights that `within` keeps."""
    values = [np.asarray(v) for v in scores.values()]
    total = sum(v.size for v in values)
    keep = total - removed_count(sparsity, total)
    if allocation == "global" and not min_per_layer:
        masks = top_k_of_all(values, keep, within)
        return dict(zip(scores, masks, strict=True))
    pools = [np.ones(v.shape, bool) for v in values] if within is None else within
    sizes = [int(np.count_nonzero(p)) for p in pools]
    floors = [min(min_per_layer, n) for n in sizes]
    if sum(floors) > keep:
        raise ValueError(
            "`min_per_layer` must leave room for the sparsity. "
            f"Received: min_per_layer={min_per_layer} over {len(values)} tensors, "
            f"where sparsity={sparsity} keeps {keep} weights. Lower one of the two."
        )
    if allocation == "global":
        counts = _global_counts(values, keep, floors, pools)
    else:
        shapes = [v.shape for v in values]
        densities = ALLOCATIONS[allocation](shapes, keep / max(total, 1))
        exact = [d * v.size for d, v in zip(densities, values, strict=True)]
        counts = _round(exact, keep, floors, sizes)
    masks = [
        top_k_of_all([v], k, [p])[0]
        for v, k, p in zip(values, counts, pools, strict=True)
    ]
    return dict(zip(scores, masks, strict=True))


def check_arguments(sparsity: float, allocation: str, min_per_layer: int = 0) -> None:
    """Raise a `ValueError` if an argument of `select` is out of range."""
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        raise ValueError(
            "`sparsity` is the fraction of weights to remove, a number with "
            f"0 <= sparsity < 1. Received: sparsity={sparsity!r}. "
            "For 90 %, pass 0.9."
        )
    check_choice("allocation", allocation, ALLOCATIONS)
    check_whole("min_per_layer", min_per_layer, 0)


def _check_scores(scores):
    if not isinstance(scores, Mapping):
        raise TypeError(
            "`scores` must be a dict from path to array. Received: "
            f"{type(scores).__name__}. Pass what `score` returned."
        )
    for path, values in scores.items():
        dtype = np.asarray(values).dtype
        if dtype.kind not in "iuf" and dtype.name != "bfloat16":
            raise TypeError(
                "The scores of a kernel are an array of real numbers. Received: dtype "
                f"{dtype} for {path}. Pass what `score` returned."
            )
    scalars = [path for path, values in scores.items() if np.ndim(values) == 0]
    if scalars:
        raise ValueError(
            "The scores of a kernel are an array of its shape. Received: a single "
            f"number for {', '.join(map(str, scalars))}. Leave out what is no kernel."
        )


def _global_counts(values, keep, floors, pools):
    """First what every tensor keeps at least, then the best of what is left."""
    parts = list(zip(values, floors, pools, strict=True))
    first = [top_k_of_all([v], k, [p])[0] for v, k, p in parts]
    rest = [p & ~m for p, m in zip(pools, first, strict=True)]
    more = top_k_of_all(values, keep - sum(floors), rest)
    return [k + int(np.count_nonzero(m)) for k, m in zip(floors, more, strict=True)]


def _round(exact, keep, floors, sizes):
    """Whole counts with the exact sum: largest remainders first, then the order."""
    floors, sizes = np.array(floors), np.array(sizes)
    exact = np.clip(exact, floors, sizes)
    counts = np.floor(exact + 1e-9).astype(int)
    while counts.sum() != keep:
        step = 1 if counts.sum() < keep else -1
        free = counts < sizes if step > 0 else counts > floors
        gain = np.where(free, step * (exact - counts), -np.inf)
        some = min(abs(keep - counts.sum()), np.count_nonzero(free))
        counts[np.argsort(-gain, kind="stable")[:some]] += step
    return counts.tolist()


class CriticalSparsity(NamedTuple):
    """Smallest sparsity that empties a tensor, and the path of that tensor."""

    sparsity: float
    layer: str


def critical_sparsity(scores: Scores) -> CriticalSparsity:
    """The smallest sparsity at which global selection empties a whole tensor.

    Args:
        scores: `{kernel path: array}` as `score` returns them.

    Returns:
        `CriticalSparsity(sparsity, layer)`. `select(scores, sparsity)` empties
        `layer`, and no smaller sparsity empties any.

    Raises:
        ValueError: If scores are not finite.

    Reference:
        Hayou et al., "Robust Pruning at Initialization", arXiv 2002.08797, sec. 3.
    """
    _check_scores(scores)
    check_finite(scores)
    scores = {path: np.asarray(v) for path, v in scores.items() if np.size(v)}
    if not scores:
        raise ValueError(
            "A tensor is needed that can become empty. Received: no scores at all. "
            "Pass what `score` returned."
        )
    # A tensor is empty once its best weight goes; of equal bests its first goes last.
    best = {path: np.max(v) for path, v in scores.items()}
    lowest = min(best.values())
    # Equal scores go in reverse order, so the last of the tied tensors dies first.
    layer = [path for path, value in best.items() if value == lowest][-1]
    removed = sum(int(np.count_nonzero(v < lowest)) for v in scores.values())
    paths = list(scores)
    after = paths[paths.index(layer) :]
    removed += sum(int(np.count_nonzero(scores[p] == lowest)) for p in after)
    total = sum(v.size for v in scores.values())
    return CriticalSparsity(removed / total, layer)
