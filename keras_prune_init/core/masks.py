"""Exact top-k masks, numpy only.

A threshold value cannot give an exact count: scores tie (in a deep ReLU network half
of them can be exactly 0), and then everything at the threshold stays or goes
together. Here the k largest are kept, and of equal scores those that come first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def removed_count(sparsity: float, total: int) -> int:
    """How many of `total` weights a sparsity removes: floor(sparsity * total).

    The slack makes 0.29 * 100 the 29 that was meant, not 28.999999999999996.
    """
    return math.floor(sparsity * total + 1e-6)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Mask of the `k` largest entries; of equal ones the first by flat index.

    Args:
        scores: Array of any shape, finite.
        k: How many to keep, 0 <= k <= scores.size.

    Returns:
        A bool array of the shape of `scores` with exactly `k` times `True`.
    """
    return top_k_of_all([scores], k)[0]


def top_k_of_all(
    scores: Sequence[np.ndarray],
    k: int,
    within: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """`top_k` of several arrays together, optionally among some entries only.

    Args:
        scores: Arrays of any shapes.
        k: How many to keep in all.
        within: Bool arrays of the same shapes: the entries to choose from, at least
            `k`. Default: all.
    """
    flat = [s.reshape(-1) for s in scores]
    if within is not None:
        flat = [s[w.reshape(-1)] for s, w in zip(flat, within, strict=True)]
    pool = flat[0] if len(flat) == 1 else np.concatenate(flat)
    if k <= 0:
        return [np.zeros(s.shape, bool) for s in scores]
    threshold = np.partition(pool, pool.size - k)[pool.size - k]
    masks = [s > threshold for s in scores]
    if within is not None:
        for mask, w in zip(masks, within, strict=True):
            mask &= w
    missing = k - sum(np.count_nonzero(m) for m in masks)
    for i, mask in enumerate(masks):
        if missing == 0:
            break
        tied = scores[i] == threshold
        if within is not None:
            tied &= within[i]
        first = np.flatnonzero(tied)[:missing]
        mask.reshape(-1)[first] = True
        missing -= first.size
    return masks


def check_finite(scores: Mapping[str, np.ndarray]) -> None:
    """Raise a `ValueError` that names the tensors with NaN or infinite scores."""
    # A sum is one pass without a temporary; only a suspicious one is looked at.
    with np.errstate(all="ignore"):
        suspects = [p for p, v in scores.items() if not np.isfinite(np.sum(v))]
    bad = [p for p in suspects if not np.isfinite(scores[p]).all()]
    if bad:
        raise ValueError(
            "Scores must be finite numbers. "
            f"Received: NaN or infinite scores in {', '.join(bad)}. "
            "Check the model's weights and inputs, scale the inputs down, or give the "
            "model a wider dtype."
        )


def digest(masks: Iterable[np.ndarray]) -> str:
    """SHA-256 over shapes and bits of masks: equal if and only if the masks are."""
    sha = hashlib.sha256()
    for mask in masks:
        sha.update(repr(tuple(mask.shape)).encode())
        sha.update(np.packbits(np.asarray(mask) != 0).tobytes())
    return sha.hexdigest()
