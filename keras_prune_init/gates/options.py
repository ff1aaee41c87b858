"""The arguments of gates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keras_prune_init._arguments import check_choice, check_whole, is_number
from keras_prune_init.gates.places import WHAT

# Each argument that is a number, or a dict of numbers: its bounds, and an example.
NUMBERS = {
    "penalty": (0, math.inf, 1.0),
    "drop": (0.01, 0.99, 0.5),  # between the bounds of log_alpha
    "weight_decay": (0, math.inf, 5e-4),
}


class Options(NamedTuple):
    """What is gated, and what an open gate costs."""

    what: str
    penalty: float | Mapping[str, float]
    data_size: int
    drop: float | Mapping[str, float]
    weight_decay: float
    seed: int


def check_kernels(options: Options, kernels: Sequence[str]) -> None:
    """Raise a ValueError unless dicts have a number for each kernel of a layer."""
    for argument in ("penalty", "drop"):
        value = getattr(options, argument)
        if isinstance(value, Mapping) and set(value) != set(kernels):
            raise ValueError(
                f"`{argument}` must be a number, or a dict with one for each kernel of "
                f"the layer: {', '.join(kernels)}. Received: {argument}={value!r}. "
                "Name each of them."
            )


def of(value: float | Mapping[str, float], name: str) -> float:
    """Return a number that may be given for each kernel."""
    return value[name] if isinstance(value, Mapping) else value


def check_options(options: Options) -> None:
    """Raise a ValueError unless the arguments of gates fit."""
    check_choice("what", options.what, WHAT)
    check_whole("data_size", options.data_size, 1)
    check_whole("seed", options.seed, 0)
    for argument, (low, high, example) in NUMBERS.items():
        value = getattr(options, argument)
        for number in value.values() if isinstance(value, Mapping) else [value]:
            if not is_number(number) or not low <= number <= high:
                raise ValueError(
                    f"`{argument}` must be a number from {low} to {high}. Received: "
                    f"{argument}={value!r}. Pass for example {argument}={example}."
                )
