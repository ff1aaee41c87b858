"""How large a rank must be, and the two factors of a matrix."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from keras_prune_init.factorize.matrices import (
    factor_kernels,
    from_matrix,
    to_matrix,
)
from keras_prune_init.layers.kernels import Kernel

EPSILON = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}


class Factors(NamedTuple):
    """A kernel and the factors of its matrix, (rows, rank) and (rank, columns)."""

    kernel: Kernel
    form: str
    left: np.ndarray
    right: np.ndarray
    values: np.ndarray  # all singular values of the matrix, falling

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def energy(self) -> float:
        """Fraction of the sum of squares that the factors keep."""
        squares = np.square(self.values)
        total = squares.sum()
        return float(squares[: self.rank].sum() / total) if total else 1.0

    @property
    def cheaper(self) -> bool:
        """Whether the factors have fewer weights than the kernel."""
        return self.left.size + self.right.size < math.prod(self.kernel.shape)

    def kernels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernels of the two layers."""
        return factor_kernels(self.left, self.right, self.kernel.shape, self.form)

    def product(self) -> np.ndarray:
        """Return the kernel that the two layers amount to."""
        return from_matrix(self.left @ self.right, self.kernel.shape, self.form)


def factors(kernel: Kernel, energy: float, form: str) -> Factors:
    """Return the smallest factors of a kernel's matrix that keep this energy.

    Both get the roots of the singular values, so that they train at the same rate.
    """
    matrix = to_matrix(kernel.value.astype(np.float64), form)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    # Of this size are the values that rounding to the kernel's dtype makes.
    noise = values[0] * EPSILON[kernel.variable.dtype]
    kept = np.cumsum(np.square(values))
    enough = int(np.searchsorted(kept, energy * kept[-1])) + 1
    rank = max(1, min(enough, int((values > noise).sum())))
    roots = np.sqrt(values[:rank])
    return Factors(
        kernel, form, left[:, :rank] * roots, roots[:, None] * right[:rank], values
    )
