"""The compression steps of learning-compression: the nearest sparse weights.

Each takes arrays by path and looks at all of them together, so how much each kernel
keeps comes out of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_prune_init.masks.top_k import top_k_of_all

Arrays = dict[str, np.ndarray]


def keep_largest(values: Mapping[str, np.ndarray], count: int) -> Arrays:
    """Return the nearest arrays of at most `count` entries other than 0."""
    masks = largest(values, count)
    return {path: np.where(masks[path], v, 0) for path, v in values.items()}


def largest(
    values: Mapping[str, np.ndarray],
    count: int,
    within: Mapping[str, np.ndarray] | None = None,
) -> Arrays:
    """Return bool masks of exactly `count` entries, the largest by size.

    Of equal ones the first are chosen. Only entries that are `True` in `within` can be.
    """
    sizes = [np.abs(v) for v in values.values()]
    inside = None if within is None else [within[path] for path in values]
    return dict(zip(values, top_k_of_all(sizes, count, inside), strict=True))


def hard_threshold(values: Mapping[str, np.ndarray], alpha: float, mu: float) -> Arrays:
    """Return what minimizes mu/2 |v - t|^2 + alpha * (number of t other than 0)."""
    limit = np.sqrt(2 * alpha / mu) if mu else np.inf
    return {path: np.where(np.abs(v) > limit, v, 0) for path, v in values.items()}


def soft_threshold(values: Mapping[str, np.ndarray], alpha: float, mu: float) -> Arrays:
    """Return what minimizes mu/2 |v - t|^2 + alpha * (sum of |t|)."""
    return _shrunk(values, alpha / mu if mu else np.inf)


def project_l1(values: Mapping[str, np.ndarray], radius: float) -> Arrays:
    """Return the nearest arrays whose absolute values sum to at most `radius`.

    Reference:
        Michelot, "A Finite Algorithm for Finding the Projection of a Point onto the
        Canonical Simplex of R^n", 1986.
    """
    left = np.concatenate([np.abs(v).ravel() for v in values.values()])
    left = left.astype("float64")
    if left.sum() <= radius:
        return dict(values)
    # All that are left lose the same. Those that have less than that go, and the
    # others lose more: no pass brings one back.
    count = 0
    while len(left) != count:
        count = len(left)
        limit = (left.sum() - radius) / count
        left = left[left > limit]
    return _shrunk(values, limit)


def _shrunk(values, limit):
    left = {path: np.maximum(np.abs(v) - limit, 0) for path, v in values.items()}
    return {path: np.sign(v) * left[path] for path, v in values.items()}
