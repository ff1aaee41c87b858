"""The allocations that have a name; each computes densities from shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Shape = tuple[int, ...]
Densities = Callable[[Sequence[Shape], float], Sequence[float]]


def uniform_densities(shapes: Sequence[Shape], density: float) -> list[float]:
    """Return the same density for every kernel."""
    return [density for _ in shapes]


def erk_densities(shapes: Sequence[Shape], density: float) -> list[float]:
    """Erdos-Renyi-Kernel: density in proportion to sum(shape) / prod(shape).

    Kernels whose density would exceed 1 are kept whole, and the densities of the others
    are computed again.

    Reference:
        Evci, Gale, Menick, Castro, Elsen, "Rigging the Lottery", 2020,
        arXiv 1911.11134; Mocanu et al., 2018, arXiv 1707.04780.
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


ALLOCATIONS: dict[str, Densities | None] = {
    "global": None,
    "uniform": uniform_densities,
    "erk": erk_densities,
}


def register_allocation(name: str, function: Densities) -> None:
    """Give an allocation a name, for `prune_at_init` and the training binary.

    Args:
        name: A name that is not taken.
        function: `(shapes, density) -> densities`. It returns the fraction of weights
            to keep in each kernel, so that `density` is kept of all together. Counts
            are rounded so that their sum is exact.

    Raises:
        ValueError: If the name is taken, or is no text.
        TypeError: If `function` is no function.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> kpi.register_allocation("same", lambda shapes, density: [density] * len(shapes))
    >>> kpi.select({"a": np.array([1.0, 2.0])}, 0.5, "same")
    {'a': array([False,  True])}
    """
    if not isinstance(name, str) or not name.strip() or name in ALLOCATIONS:
        raise ValueError(
            "An allocation must have a name of its own. "
            f"Received: name={name!r}. Taken are {', '.join(ALLOCATIONS)}; pass "
            "another, such as 'mine'."
        )
    if not callable(function):
        raise TypeError(
            "`function` must take shapes and a density, and return densities. "
            f"Received: function={function!r}. Pass a function."
        )
    ALLOCATIONS[name] = function
