"""Proximal steps: the nearest matrix, after a price for rank, groups or weights.

The step of a norm with a price is argmin_X ||X - matrix||^2 / 2 + price * norm(X).
"""

from __future__ import annotations

import numpy as np

# Side of a matrix from which its leading vectors are looked for by random projections,
# as by Halko, Martinsson, Tropp, 2011, arXiv 0909.4061.
LARGE = 1024
# The vectors are an eighth of the side. Half of them are spare, for precision.
PART, POWERS = 8, 3


def nuclear(
    matrix: np.ndarray, price: float, large: int = LARGE
) -> tuple[np.ndarray, int]:
    """Lower all singular values by `price`, those below it to 0; return the rank too.

    Args:
        matrix: A float64 matrix.
        price: What each singular value loses.
        large: Smallest side from which random projections are used.
    """
    if matrix.shape[0] < matrix.shape[1]:
        result, rank = nuclear(matrix.T, price, large)
        return result.T, rank
    values, vectors = _above(matrix, price, large)
    parts = matrix, vectors * (1 - price / values), vectors.T
    return np.linalg.multi_dot(parts), len(values)


def _above(matrix, price, large):
    """Return the singular values above `price`, and their right vectors."""
    side = matrix.shape[1]
    found = _ritz(matrix, _leading(matrix, side // PART)) if side >= large else None
    # Rising: only if the lower half is spare, none above the price is missing.
    if found is None or found[0][len(found[0]) // 2] > price:
        found = _ritz(matrix)
    values, vectors = found
    kept = values > price
    return values[kept], vectors[:, kept]


def _leading(matrix, rank):
    """Return a basis of about the first `rank` right vectors."""
    basis = np.random.default_rng(0).standard_normal((matrix.shape[1], rank))
    for _ in range(POWERS):
        basis = np.linalg.qr(matrix.T @ (matrix @ basis))[0]
    return basis


def _ritz(matrix, basis=None):
    """Return rising singular values and right vectors, within the span of a basis."""
    # A fifth of the time of an SVD. Squares lose digits, but less than float32 has.
    part = matrix if basis is None else matrix @ basis
    squares, vectors = np.linalg.eigh(part.T @ part)
    vectors = vectors if basis is None else basis @ vectors
    return np.sqrt(np.maximum(squares, 0)), vectors


def sparse_group(matrix: np.ndarray, group: float, sparse: float) -> np.ndarray:
    """Return the step of group * sqrt(rows) sum ||column||_2 + sparse ||matrix||_1.

    The columns are the groups, as large as the matrix has rows.
    """
    smaller = np.sign(matrix) * np.maximum(np.abs(matrix) - sparse, 0)
    norms = np.linalg.norm(smaller, axis=0)
    price = group * np.sqrt(len(matrix))
    return smaller * np.maximum(0, 1 - price / np.where(norms > 0, norms, 1))
