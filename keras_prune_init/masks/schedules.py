"""How sparsity grows over the iterations of an iterative method."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from keras_prune_init._arguments import called, is_number

Schedule = str | Callable[[float, float], float]


def exponential(progress: float, sparsity: float) -> float:
    """Density falls by the same factor in each iteration (Tanaka et al., 2020)."""
    return 1.0 - (1.0 - sparsity) ** progress


def linear(progress: float, sparsity: float) -> float:
    """Each iteration removes the same number of weights."""
    return sparsity * progress


SCHEDULES = {"exponential": exponential, "linear": linear}


def get_schedule(schedule: Schedule) -> Callable[[float, float], float]:
    """Return the function `(progress in (0, 1], sparsity) -> sparsity` of a name."""
    if callable(schedule):
        return schedule
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise ValueError(
            "`schedule` must be a name or a function (progress, sparsity) -> sparsity. "
            f"Received: schedule={schedule!r}. Use one of {sorted(SCHEDULES)}."
        )
    return SCHEDULES[schedule]


def check_schedule(
    schedule: Callable[[float, float], float], iterations: int, sparsity: float
) -> None:
    """Check that the sparsity rises from iteration to iteration, up to `sparsity`."""
    before = 0.0
    for i in range(1, iterations + (iterations > 1)):
        value = called("schedule", schedule, i / iterations, sparsity)
        if tf.is_tensor(value) and not value.shape.rank:
            value = value.numpy().item()
        least = before if i < iterations else sparsity
        if not is_number(value) or not least - 1e-9 <= value <= sparsity + 1e-9:
            raise ValueError(
                "`schedule` must give sparsities that rise from 0 to the final one. "
                f"Received: {value!r} for progress {i / iterations:.4g}, after "
                f"{before:.4g} and with sparsity={sparsity}. Use 'exponential' or "
                "'linear', or a function such as `lambda progress, sparsity: sparsity "
                "* progress`."
            )
        before = float(value)
