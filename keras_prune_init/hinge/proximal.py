"""Proximal operators of group penalties: what one step of shrinking leaves.

A group is a row or a column of a matrix, and n_g its norm. A penalty is a function of
the norms: R = sum n_g (`"l1"`), sum sqrt(n_g) (`"l1/2"`), sum n_g - sqrt(sum n_g^2)
(`"l1-2"`), or sum log(n_g + 1e-8) (`"logsum"`). The proximal operator of t R returns
the matrix x with the least |x - v|^2 / 2 + t R(x). It changes the length of groups
only, so all here is about their norms.

Each of these is the exact minimum. The authors' code differs in three places. It takes
half of t for `"l1/2"`. It divides by 0 for `"l1-2"` if no norm is above t. For
`"logsum"` it takes the minimum nearest to v, also where 0 is a lower one.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

SHIFT = 1e-8  # of "logsum"


def _l1(norms, t):
    return ops.relu(norms - t)


def _l1_2(norms, t):
    # Xu et al., 2012, whose problem has no factor 1/2.
    lam = 2 * t
    alive = norms > 54 ** (1 / 3) / 4 * lam ** (2 / 3)
    safe = ops.where(alive, norms, ops.ones_like(norms) + lam)
    angle = ops.arccos(lam / 8 * (safe / 3) ** -1.5)
    left = 2 / 3 * norms * (1 + ops.cos(2 / 3 * (math.pi - angle)))
    return ops.where(alive, left, ops.zeros_like(norms))


def _l1_minus_l2(norms, t):
    # Lou and Yan, 2018. If no norm is above t, the largest alone stays as it is.
    left = ops.relu(norms - t)
    length = ops.sqrt(ops.sum(ops.square(left)))
    longer = left * (1 + t / ops.where(length > 0, length, ops.ones_like(length)))
    largest = ops.one_hot(ops.argmax(norms), norms.shape[0], dtype=norms.dtype)
    return ops.where(length > 0, longer, largest * norms)


def _logsum(norms, t):
    root = ops.square(norms + SHIFT) - 4 * t
    left = (norms - SHIFT + ops.sqrt(ops.relu(root))) / 2
    left = ops.relu(left)
    at_left = ops.square(left - norms) / 2 + t * ops.log(left + SHIFT)
    at_zero = ops.square(norms) / 2 + t * math.log(SHIFT)
    alive = ops.logical_and(root > 0, at_left < at_zero)
    return ops.where(alive, left, ops.zeros_like(norms))


PENALTIES = {"l1": _l1, "l1/2": _l1_2, "l1-2": _l1_minus_l2, "logsum": _logsum}
# The axis of the matrix that a group runs along.
ALONG = {"rows": 1, "columns": 0}


def shrunk(norms: Any, t: Any, penalty: str) -> Any:
    """Return the norms of groups after a proximal step of `t` times a penalty."""
    return PENALTIES[penalty](norms, t)


def proximal(matrix: Any, t: Any, penalty: str, groups: str) -> Any:
    """Return a matrix after a proximal step; `groups` is `"rows"` or `"columns"`."""
    axis = ALONG[groups]
    norms = ops.sqrt(ops.sum(ops.square(matrix), axis))
    left = shrunk(norms, t, penalty)
    factor = left / ops.where(norms > 0, norms, ops.ones_like(norms))
    return matrix * ops.expand_dims(factor, axis)
