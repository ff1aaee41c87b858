"""Exact top-k masks: keep the k largest scores, no more and no fewer.

A threshold value cannot give an exact count, because scores can be equal. (In a deep
ReLU network half of them can be exactly 0.) All entries at the threshold would then be
kept or removed together. Here, of equal scores the first ones are kept.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent import futures
from fractions import Fraction

import numpy as np

from keras_prune_init._arguments import some

# Size of the sample that tells where the threshold lies, so that only a few per cent
# of many millions of scores need to be ranked.
SAMPLE = 2**16
# Scores that are looked at together, for the sake of the cache.
BLOCK = 2**18


def removed_count(sparsity: float, total: int) -> int:
    """Return how many of `total` weights a sparsity removes: floor(sparsity * total).

    The result is exact for the decimal number that is meant: 0.29 of 100 gives 29,
    although 0.29 * 100 is 28.999999999999996. A sparsity below 1 never removes
    everything.
    """
    # Rounding error of a sparsity that was computed as 1 - kept / total.
    slack = Fraction(2, 2**52)
    count = math.floor((Fraction(str(sparsity)) + slack) * int(total))
    return min(count, max(int(total) - 1, 0))


def top_k_of_all(
    scores: Sequence[np.ndarray],
    k: int,
    within: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Return bool masks of the `k` largest entries of several finite arrays together.

    Only entries that are `True` in `within` can be kept; there are at least `k`.
    """
    if k <= 0:
        return [np.zeros(s.shape, bool) for s in scores]
    low, high = _likely_bracket(scores, k, within)
    masks = _top_k_between(low, high, scores, k, within)
    return masks or _top_k_between(-np.inf, np.inf, scores, k, within)


def _likely_bracket(scores, k, within):
    """Return two values that enclose the k-th largest, if the sample is typical."""
    total = sum(s.size for s in scores)
    stride = total // SAMPLE | 1  # odd, or it could hit one channel only
    sample = [s.reshape(-1)[::stride] for s in scores]
    pool = total
    if within is not None:
        sample = [
            s[w.reshape(-1)[::stride]] for s, w in zip(sample, within, strict=True)
        ]
        pool = sum(np.count_nonzero(w) for w in within)
    sample = np.sort(np.concatenate(sample))
    rank = sample.size * (1 - k / pool)
    margin = 3 * math.sqrt(sample.size)
    low, high = math.floor(rank - margin), math.ceil(rank + margin)
    return (
        sample[low] if low >= 0 else -np.inf,
        sample[high] if high < sample.size else np.inf,
    )


def _top_k_between(low, high, scores, k, within):
    """Keep all above `high`, and rank what lies between `low` and `high`.

    Returns `None` if the k-th largest entry is not between them.
    """
    masks = [np.empty(s.shape, bool) for s in scores]

    def split(block):
        score, mask, inside = block
        np.greater(score, high, out=mask)
        between = score >= low
        between ^= mask
        if inside is not None:
            mask &= inside
            between &= inside
        # In the order of the flat index, which is the order in which ties are kept.
        places = np.flatnonzero(between)
        return np.count_nonzero(mask), places, score[places]

    blocks = list(_blocks(scores, masks, within or [None] * len(scores)))
    parts = _map_in_threads(split, blocks)
    counts, places, values = zip(*parts, strict=True)
    missing, values = k - sum(counts), np.concatenate(values)
    if not 0 < missing <= values.size:
        return None
    threshold = np.partition(values, values.size - missing)[values.size - missing]
    chosen = values > threshold
    tied = np.flatnonzero(values == threshold)
    chosen[tied[: missing - np.count_nonzero(chosen)]] = True
    parts = np.split(chosen, np.cumsum([p.size for p in places])[:-1])
    for (_, mask, _), place, part in zip(blocks, places, parts, strict=True):
        mask[place[part]] = True
    return masks


def _blocks(*lists):
    """Cut arrays of the same shapes into flat pieces that fit into the cache."""
    for arrays in zip(*lists, strict=True):
        flat = [None if a is None else a.reshape(-1) for a in arrays]
        for i in range(0, flat[0].size, BLOCK):
            yield [None if a is None else a[i : i + BLOCK] for a in flat]


def _map_in_threads(function, blocks):
    """Run `map` on all cores; numpy releases Python's lock."""
    if sum(b[0].size for b in blocks) < 8 * BLOCK:
        return map(function, blocks)  # done before a thread is there
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, blocks))


def check_finite(scores: Mapping[str, np.ndarray]) -> None:
    """Raise a `ValueError` that names the tensors with NaN or infinite scores."""
    # A sum takes one pass and no memory. The rest is only done if it is not finite.
    with np.errstate(all="ignore"):
        suspects = [p for p, v in scores.items() if not np.isfinite(np.sum(v))]
    bad = [p for p in suspects if not np.isfinite(scores[p]).all()]
    if bad:
        raise ValueError(
            "Scores must be finite numbers. "
            f"Received: NaN or infinite scores in {', '.join(bad)}. "
            "Check the model's weights and inputs, scale the inputs down, or give the "
            "model a wider dtype. Methods of second order, such as GraSP, need second "
            "derivatives, which norms of 0 and CTC do not have: choose another there."
        )


def check_nonzero(scores: Mapping[str, np.ndarray]) -> None:
    """Raise a `ValueError` that names the tensors, if all scores are 0."""
    if not any(np.any(values) for values in scores.values()):
        raise ValueError(
            "At least one score must differ from 0. Received: "
            f"scores of 0 for all of {some([*scores])}. Check that the loss "
            "has a gradient, and that labels, sample weights and weights are not all "
            "0. Methods of second order, such as GraSP, need second derivatives, too, "
            "which are 0 for a linear model with a loss such as hinge: choose another."
        )


def digest(masks: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 of shapes and bits; only equal masks have the same."""
    sha = hashlib.sha256()
    for mask in masks:
        sha.update(repr(tuple(mask.shape)).encode())
        sha.update(np.packbits(np.asarray(mask) != 0).tobytes())
    return sha.hexdigest()
