"""Densities of tensors by their shapes: the table of allocations that have a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Shape = tuple[int, ...]


Densities = Callable[[Sequence[Shape], float], Sequence[float]]


def uniform_densities(shapes: Sequence[tuple[int, ...]], density: float) -> list[float]:
    """The same density in every tensor."""
    return [density for _ in shapes]


def erk_densities(shapes: Sequence[tuple[int, ...]], density: float) -> list[float]:
    """Erdos-Renyi-Kernel: density in proportion to sum(shape) / prod(shape).

    Tensors that would exceed density 1 are kept whole and the rest is solved again.

    Reference:
        Evci et al., "Rigging the Lottery", arXiv 1911.11134; Mocanu et al. 2018.
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
    """Make an allocation known by name, to `prune_at_init` and the training binary.

    Args:
        name: A new name.
        function: `(shapes, density) -> densities`: how much is kept of each tensor, so
            that `density` is kept of all. Counts are rounded to the exact sum.

    Raises:
        ValueError: If the name is taken, or no name.
        TypeError: If `function` is no function.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.register_allocation("same", lambda shapes, density: [density] * len(shapes))
    """
    if not isinstance(name, str) or not name.strip() or name in ALLOCATIONS:
        raise ValueError(
            "An allocation has a name of its own. "
            f"Received: name={name!r}. Taken are {', '.join(ALLOCATIONS)}; pass "
            "another, such as 'mine'."
        )
    if not callable(function):
        raise TypeError(
            "`function` must take shapes and a density, and return densities. "
            f"Received: function={function!r}. Pass a function."
        )
    ALLOCATIONS[name] = function
