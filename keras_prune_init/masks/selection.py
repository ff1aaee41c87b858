"""`select` and `critical_sparsity`: masks from scores, for users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from keras_prune_init._arguments import is_number
from keras_prune_init.masks.allocation import Allocation, Scores
from keras_prune_init.masks.densities import Densities
from keras_prune_init.masks.top_k import check_finite


def select(
    scores: Scores,
    sparsity: float,
    allocation: str | Densities | Mapping[str, float] | Allocation = "global",
) -> dict[str, np.ndarray]:
    """Make exact masks from scores: the highest are kept, of equal ones the first.

    Args:
        scores: `{kernel path: array}`; larger means keep.
        sparsity: Fraction of all weights to remove, 0 <= sparsity < 1. Exactly
            floor(sparsity * total) weights are removed, unless a dict with the key
            `"*"` says how much is.
        allocation: How much each kernel loses: `"global"` ranks all weights together,
            `"uniform"` removes the same fraction of every kernel, `"erk"` removes less
            from small ones. A dict such as `{"logits": 0.5}` gives the sparsity of the
            kernels whose path contains the key. See `Allocation` for all of them.

    Returns:
        `{kernel path: bool array}`, `True` where a weight is kept.

    Raises:
        ValueError: If scores are not finite, if one is a single number and no array, or
            if an argument is out of range.
        TypeError: If `scores` is no dict of arrays of numbers.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> scores = {"a": np.array([3.0, 1.0, 2.0]), "b": np.array([0.5])}
    >>> kpi.select(scores, sparsity=0.5)
    {'a': array([ True, False,  True]), 'b': array([False])}
    """
    check_sparsity(sparsity)
    allocation = Allocation.of(allocation)
    _check_scores(scores)
    return allocation.masks(scores, sparsity)


def check_sparsity(sparsity: float) -> None:
    """Raise a `ValueError` unless `sparsity` is a number with 0 <= sparsity < 1."""
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        raise ValueError(
            "`sparsity` is the fraction of weights to remove, a number with "
            f"0 <= sparsity < 1. Received: sparsity={sparsity!r}. "
            "For 90 %, pass 0.9."
        )


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
    check_finite(scores)


class CriticalSparsity(NamedTuple):
    """The smallest sparsity that empties a kernel, and the path of this kernel."""

    sparsity: float
    layer: str


def critical_sparsity(scores: Scores) -> CriticalSparsity:
    """Return the smallest sparsity at which global selection empties a whole kernel.

    Args:
        scores: `{kernel path: array}` as `score` returns them.

    Returns:
        `CriticalSparsity(sparsity, layer)`. `select(scores, sparsity)` empties the
        kernel with the path `layer`. No smaller sparsity empties any kernel.

    Raises:
        ValueError: If scores are not finite, or there are none.
        TypeError: If `scores` is no dict of arrays of numbers.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> scores = {"a": np.array([3.0, 1.0, 2.0]), "b": np.array([0.5])}
    >>> kpi.critical_sparsity(scores)
    CriticalSparsity(sparsity=0.25, layer='b')

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", 2021,
        arXiv 2002.08797, section 3.
    """
    _check_scores(scores)
    scores = {path: np.asarray(v) for path, v in scores.items() if np.size(v)}
    if not scores:
        raise ValueError(
            "There must be scores of at least one kernel. Received: no scores. "
            "Pass what `score` returned."
        )
    # A kernel is empty when its best weight goes. Of equal ones the first goes last.
    best = {path: np.max(v) for path, v in scores.items()}
    lowest = min(best.values())
    # Equal scores go in reverse order, so the last of the tied kernels empties first.
    layer = [path for path, value in best.items() if value == lowest][-1]
    removed = sum(int(np.count_nonzero(v < lowest)) for v in scores.values())
    paths = list(scores)
    after = paths[paths.index(layer) :]
    removed += sum(int(np.count_nonzero(scores[p] == lowest)) for p in after)
    total = sum(v.size for v in scores.values())
    return CriticalSparsity(removed / total, layer)
