"""How sparsity grows over the iterations of an iterative method."""

from __future__ import annotations

from collections.abc import Callable

Schedule = str | Callable[[float, float], float]


def exponential(progress: float, sparsity: float) -> float:
    """Density falls by the same factor in each iteration (Tanaka et al. 2020)."""
    return 1.0 - (1.0 - sparsity) ** progress


def linear(progress: float, sparsity: float) -> float:
    """The same number of weights goes in each iteration."""
    return sparsity * progress


SCHEDULES = {"exponential": exponential, "linear": linear}


def get_schedule(schedule: Schedule) -> Callable[[float, float], float]:
    """A schedule by name, or a function `(progress in (0, 1], sparsity) -> sparsity`.

    Raises:
        ValueError: If it is neither.
    """
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(
            "`schedule` must be a name or a function (progress, sparsity) -> sparsity. "
            f"Received: schedule={schedule!r}. Use one of {sorted(SCHEDULES)}."
        )
    return SCHEDULES[schedule]
