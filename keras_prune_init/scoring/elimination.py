"""Optimal Brain Surgeon on quadratic errors: what goes, and what the rest becomes.

The error of weights w + d is d'Hd / 2. If weight q is set to 0 and all others are moved
to make up for it, the least error is w_q^2 / (2 [H^-1]_qq), with the change
d = -w_q / [H^-1]_qq H^-1 e_q. After that, row and column q leave the inverse:

    H^-1 <- H^-1 - H^-1 e_q e_q' H^-1 / [H^-1]_qq        (Hassibi, Stork 1993)

One such step passes over the whole inverse once, for which memory is too slow. So steps
are gathered: the vectors u = H^-1 e_q / sqrt([H^-1]_qq) of the last steps are kept as
the rows of U, a step needs only its own column of H^-1 - U'U, and U'U is subtracted as
one product of matrices. The result is that of single steps. Pivoted Cholesky
factorizations are blocked in the same way.
"""

from __future__ import annotations

import math

import numpy as np

# Steps that are gathered. U of the widest layers stays in the cache.
STEPS = 128
# Rows of an inverse that are changed at once.
PART = 256
# Bytes of the inverses of rows that are worked on together.
TOGETHER = 2**26
# An inverse shrinks to what is left if no more than this fraction is.
SHRINK = 0.8


def removal_costs(
    inverses: np.ndarray, rows: np.ndarray, removable: np.ndarray | None = None
) -> np.ndarray:
    """Return what the removal of each weight costs, if the cheapest goes first.

    The rows of a group have the same Hessian. In each row weights are removed one by
    one until none is left, each time the one that increases the error least. The cost
    of a weight is this increase, or that of an earlier one if it was more: so removing
    all weights below some cost removes the first ones, in every row.

    Args:
        inverses: Inverses of the Hessians, of shape (groups, n, n), positive definite.
            Their dtype is that of the computation.
        rows: Weights, of shape (groups, rows, n).
        removable: Which of the n weights may go, bools; default: all.

    Returns:
        Float64 of shape (groups, rows, n); infinite for what may not go.
    """
    groups, each, n = rows.shape
    removable = np.ones(n, bool) if removable is None else removable
    flat, costs = rows.reshape(-1, n), np.empty((groups * each, n))
    group = np.repeat(np.arange(groups), each)
    count = max(1, TOGETHER // (n * n * inverses.itemsize))
    for first in range(0, len(flat), count):
        part = slice(first, first + count)
        found = _Elimination(inverses[group[part]], flat[part], removable)
        costs[part] = found.costs()
    return costs.reshape(rows.shape)


class _Elimination:
    """The inverses of some rows, one for each, from which weights are removed."""

    def __init__(self, inverse, rows, removable):
        self.rows, self.inverse = np.arange(len(rows)), inverse
        self.w = np.array(rows, inverse.dtype)
        self.diagonal = np.diagonal(inverse, axis1=1, axis2=2).copy()
        # Rounding must not make it 0 or less, whatever was subtracted.
        self.least = np.finfo(inverse.dtype).eps * self.diagonal
        self.free = np.broadcast_to(removable, self.w.shape).copy()
        self.left = np.ones(self.w.shape, bool)
        # Where each entry was before any left.
        self.names = np.broadcast_to(np.arange(self.w.shape[1]), self.w.shape)
        self.steps = int(removable.sum())
        self.found = np.full(self.w.shape, np.inf)

    def costs(self):
        highest = np.zeros(len(self.rows))
        for first in range(0, self.steps, STEPS):
            count = min(STEPS, self.steps - first)
            u = np.zeros((len(self.rows), count, self.w.shape[1]), self.w.dtype)
            for k in range(count):
                highest = np.maximum(highest, self._step(u, k))
                # Of equal costs in a row, the first to go is the cheapest.
                order = 1 + (first + k) * np.finfo(float).eps
                self.found[self.rows, self.last] = highest * order
            if first + count < self.steps:
                self._subtract(u)
                self._shrink()
        return self.found

    def _step(self, u, k):
        """Remove the cheapest weight of each row; return the increases of the error."""
        rows, w = self.rows, self.w
        cost = np.where(self.free, w * w / self.diagonal, np.inf)
        q = np.argmin(cost, axis=1)
        used = u[rows, :k, q]
        column = self._columns(q)
        if k:
            column -= np.matmul(used[:, None], u[:, :k])[:, 0]
        pivot = np.sqrt(self.diagonal[rows, q])[:, None]
        column /= pivot
        increase = cost[rows, q].astype(float) / 2
        w -= w[rows, q][:, None] / pivot * column
        self.diagonal -= column * column
        np.maximum(self.diagonal, self.least, out=self.diagonal)
        u[:, k] = column
        w[rows, q] = 0
        self.free[rows, q] = self.left[rows, q] = False
        self.last = self.names[rows, q]
        return increase

    def _columns(self, q):
        """Return a column of each inverse."""
        if len(q) > 1:
            return self.inverse[self.rows, q]
        [inverse], [i] = self.inverse, q
        return np.concatenate([inverse[i, :i], inverse[i:, i]])[None]

    def _subtract(self, u):
        """Subtract u'u from each inverse; of a single one from the lower triangle."""
        rows, _, n = u.shape
        room = np.empty(rows * min(PART, n) * n, u.dtype)
        for first in range(0, n, PART):
            # In parts and in one place, so that the products stay in the cache.
            part = slice(first, min(first + PART, n))
            end = part.stop if rows == 1 else n
            shape = rows, part.stop - first, end
            product = room[: math.prod(shape)].reshape(shape)
            np.matmul(u[:, :, part].swapaxes(1, 2), u[:, :, :end], out=product)
            self.inverse[:, part, :end] -= product

    def _shrink(self):
        """Take what is gone out of the inverses, once it is worth the copy."""
        left = int(self.left[0].sum())
        if left > SHRINK * self.w.shape[1]:
            return
        keep = np.nonzero(self.left)[1].reshape(len(self.rows), left)
        shrunk = np.empty((len(keep), left, left), self.inverse.dtype)
        for new, inverse, k in zip(shrunk, self.inverse, keep, strict=True):
            np.take(inverse[k], k, 1, out=new)
        self.inverse = shrunk
        for name in ("w", "diagonal", "least", "free", "left", "names"):
            value = getattr(self, name)
            setattr(self, name, np.take_along_axis(value, keep, 1))


def compensated(hessian: np.ndarray, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return rows without the weights that are not kept, with the least error.

    It is the minimum of d'Hd, and what exact steps of Optimal Brain Surgeon end at, in
    whatever order they remove the weights.

    Args:
        hessian: Float64 of shape (n, n), positive definite.
        rows: Weights, of shape (rows, n).
        kept: Which weights are kept, bools of the shape of `rows`.
    """
    new = np.where(kept, rows, 0).astype(float)
    # Rows of the same mask, such as those of whole channels, are solved together.
    masks, which = np.unique(kept, axis=0, return_inverse=True)
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which.ravel(), minlength=len(masks)))[:-1]
    for mask, same in zip(masks, np.split(order, ends), strict=True):
        if not mask.any() or mask.all():
            continue
        lost = rows[np.ix_(same, ~mask)] @ hessian[np.ix_(~mask, mask)]
        moved = np.linalg.solve(hessian[np.ix_(mask, mask)], lost.T)
        new[np.ix_(same, mask)] += moved.T
    return new


def made_up_for(
    inverse: np.ndarray, weights: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return what `compensated` does for one row, and the increase of the error.

    Args:
        inverse: The inverse of the Hessian, of shape (n, n), positive definite.
        weights: A vector of n weights.
        kept: Which of them are kept, bools.
    """
    gone = np.flatnonzero(~kept)
    forces = np.linalg.solve(inverse[np.ix_(gone, gone)], weights[gone])
    new = np.where(kept, weights - inverse[:, gone] @ forces, 0)
    return new, float(weights[gone] @ forces / 2)


def published(inverse: np.ndarray, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return rows without what is not kept, moved as Dong, Chen and Pan published it.

    Each removal adds its change as the first inverse gives it, in the order of the
    first sensitivities, and what is gone is set to 0 again after each.

    Args:
        inverse: The inverse of the Hessian, of shape (n, n).
        rows: Weights, of shape (rows, n).
        kept: Which weights are kept, bools of the shape of `rows`.
    """
    new, left = np.array(rows, float), np.ones(kept.shape, bool)
    cost = np.where(kept, np.inf, rows**2 / np.diag(inverse))
    order = np.argsort(cost, axis=1, kind="stable")
    counts = np.sum(~kept, axis=1)
    for k in range(counts.max(initial=0)):
        at = np.flatnonzero(counts > k)
        q = order[at, k]
        new[at] -= (new[at, q] / inverse[q, q])[:, None] * inverse[q]
        left[at, q] = False
        new[at] *= left[at]
    return new
