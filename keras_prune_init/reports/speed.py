"""How the kernels of a pruned model compute, and the time that is expected for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from keras_prune_init.layers.compact import CompactLayer
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.reports import table
from keras_prune_init.reports.cost import KernelCost
from keras_prune_init.sparse.estimate import SAMPLES


class KernelSpeed(NamedTuple):
    """How one kernel computes.

    Attributes:
        path: Path of its variable in the model before pruning.
        computes: `"sparse"`: products touch kept weights only. `"compact"`: they are
            those of a dense kernel.
        seconds: Time of its products in a training step of 128 samples, as expected on
            this machine; `None` if it is not known.
        dense_seconds: The same without pruning.
    """

    path: str
    computes: str
    seconds: float | None
    dense_seconds: float | None


def speeds(
    kernels: Iterable[Kernel], costs: Mapping[str, KernelCost]
) -> list[KernelSpeed]:
    """Return how the kernels compute that are in the layout `"sparse"` or `"auto"`."""
    found = []
    for kernel in kernels:
        wrapper, uses = kernel.wrapper, costs[kernel.path].uses
        if isinstance(wrapper, CompactLayer) and wrapper.computes != "compact":
            expected = wrapper.expected(kernel.name, uses or 0)
            computes = expected.computes if expected else "compact"
            times = expected[1:] if expected and uses else (None, None)
            found.append(KernelSpeed(kernel.path, computes, *times))
    return found


def lines(speeds: Sequence[KernelSpeed]) -> list[str]:
    """Return a table of what is expected."""
    rows = [("kernel", "computes", "ms a step", "dense")]
    for s in speeds:
        rows.append((s.path, s.computes, _ms(s.seconds), _ms(s.dense_seconds)))
    known = [s for s in speeds if s.seconds is not None]
    sums = [sum(column) for column in zip(*(s[2:] for s in known), strict=True)]
    rows.append(("total", "", *map(_ms, sums or (None, None))))
    title = f"products in a training step of {SAMPLES} samples, as expected here:"
    return [title, *table.aligned(rows, left=2, sums=True)]


def _ms(seconds):
    return "unknown" if seconds is None else f"{1e3 * seconds:.2f}"
