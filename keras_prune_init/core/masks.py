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

# Size of the sample that tells where the threshold lies, so that only a few per cent
# of many millions of scores need to be ranked.
SAMPLE = 2**16


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
    if k <= 0:
        return [np.zeros(s.shape, bool) for s in scores]
    bracket = _likely_bracket(scores, k, within)
    masks = _top_k_between(*bracket, scores, k, within)
    return masks or _top_k_between(-np.inf, np.inf, scores, k, within)


def _likely_bracket(scores, k, within):
    """Two values between which the k-th largest lies, unless a sample deceives."""
    total = sum(s.size for s in scores)
    stride = total // SAMPLE | 1  # odd, or it could follow one channel
    sample = [s.reshape(-1)[::stride] for s in scores]
    pool = total
    if within is not None:
        sample = [
            s[w.reshape(-1)[::stride]] for s, w in zip(sample, within, strict=True)
        ]
        pool = sum(np.count_nonzero(w) for w in within)
    sample = np.sort(np.concatenate(sample))
    rank = sample.size * (1 - k / pool)
    margin = 5 * math.sqrt(sample.size)
    low, high = math.floor(rank - margin), math.ceil(rank + margin)
    return (
        sample[low] if low >= 0 else -np.inf,
        sample[high] if high < sample.size else np.inf,
    )


def _top_k_between(low, high, scores, k, within):
    """Keep all above `high` and rank what lies between; `None` if k is not there."""
    above = [s > high for s in scores]
    between = [(s >= low) ^ a for s, a in zip(scores, above, strict=True)]
    for i, w in enumerate(within or ()):
        above[i] &= w
        between[i] &= w
    missing = k - sum(np.count_nonzero(a) for a in above)
    # In the order of the flat index, which is the order in which ties are kept.
    places = [np.flatnonzero(b) for b in between]
    flat = [s.reshape(-1) for s in scores]
    values = np.concatenate([s[p] for s, p in zip(flat, places, strict=True)])
    if not 0 < missing <= values.size:
        return None
    threshold = np.partition(values, values.size - missing)[values.size - missing]
    chosen = values > threshold
    tied = np.flatnonzero(values == threshold)
    chosen[tied[: missing - np.count_nonzero(chosen)]] = True
    parts = np.split(chosen, np.cumsum([p.size for p in places])[:-1])
    for mask, place, part in zip(above, places, parts, strict=True):
        mask.reshape(-1)[place[part]] = True
    return above


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
