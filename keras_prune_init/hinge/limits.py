"""The ranges of the numbers that users give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_prune_init._arguments import is_number

RANGES: dict[str, tuple[Callable[[float], bool], str, float]] = {
    "sparsity": (lambda v: 0 <= v < 1, "0 to below 1", 0.5),
    "least": (lambda v: 0 < v <= 1, "above 0 to 1", 0.2),
    "strength": (lambda v: v >= 0, "0 or more", 1e-4),
    "rate_ratio": (lambda v: 0 < v <= 1, "above 0 to 1", 0.1),
    "momentum": (lambda v: 0 <= v < 1, "0 to below 1", 0.1),
    "annealing": (lambda v: v >= 1, "1 or more", 2.0),
    "threshold": (lambda v: v >= 0, "0 or more", 5e-3),
    "stop_within": (lambda v: 0 <= v < 1, "0 to below 1, or None", 0.05),
}


def check(**values: Any) -> None:
    """Raise a ValueError unless each of these arguments is in its range."""
    for name, value in values.items():
        fits, text, example = RANGES[name]
        if not is_number(value) or not fits(value):
            raise ValueError(
                f"`{name}` must be a number, {text}. Received: {name}={value!r}. Pass "
                f"for example {name}={example}."
            )
