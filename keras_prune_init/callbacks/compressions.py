"""What learning-compression may ask of the weights: one of four compressions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_prune_init._arguments import is_number
from keras_prune_init.masks import c_steps
from keras_prune_init.masks.selection import check_sparsity
from keras_prune_init.masks.top_k import removed_count

NAMES = ("sparsity", "l0_penalty", "l1_penalty", "l1_ball")


class Compression:
    """One of the four, by its name and number.

    Args:
        **given: Each of `NAMES` with a number or `None`; exactly one has a number.
    """

    def __init__(self, **given: Any):
        chosen = {name: v for name, v in given.items() if v is not None}
        if len(chosen) != 1:
            raise ValueError(
                f"Pass one of {', '.join(f'`{name}`' for name in NAMES)}, which say "
                f"how to compress. Received: {chosen or 'none of them'}. For 5 % of "
                "the weights, pass sparsity=0.95."
            )
        [(self.name, self.number)] = chosen.items()
        if self.name == "sparsity":
            check_sparsity(self.number)
        elif not is_number(self.number) or self.number <= 0:
            raise ValueError(
                f"`{self.name}` must be a number above 0. Received: {self.name}="
                f"{self.number!r}. Pass for example {self.name}=1e-5."
            )

    def count(self, sizes: Mapping[str, int]) -> int | None:
        """Return how many weights of kernels of these sizes stay; `None`: it varies."""
        total = sum(sizes.values())
        exact = self.name == "sparsity"
        return total - removed_count(self.number, total) if exact else None

    def check(self, kept: Mapping[str, np.ndarray]) -> None:
        """Raise a ValueError if a sparsity is less than that of the masks now."""
        count = self.count({path: mask.size for path, mask in kept.items()})
        left = sum(int(np.count_nonzero(mask)) for mask in kept.values())
        if count is not None and count > left:
            raise ValueError(
                "A pruned model keeps its zeros, so `sparsity` cannot be lower now. "
                f"Received: sparsity={self.number}, which keeps {count} weights, for "
                f"kernels that have {left}. Pass more, or `strip` the model."
            )

    def nearest(self, values: Mapping[str, np.ndarray], mu: float) -> c_steps.Arrays:
        """Return what the compression makes of some weights; `mu` may be 0."""
        count = self.count({path: v.size for path, v in values.items()})
        if count is not None:
            return c_steps.keep_largest(values, count)
        if self.name == "l1_ball":
            return c_steps.project_l1(values, self.number)
        penalties = {"l0": c_steps.hard_threshold, "l1": c_steps.soft_threshold}
        return penalties[self.name[:2]](values, self.number, mu)

    def support(
        self, weights: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray]
    ) -> c_steps.Arrays:
        """Return the masks of compressed weights, with the exact count if there is one.

        A weight that stays may happen to be 0.
        """
        count = self.count({path: w.size for path, w in weights.items()})
        if count is None:
            return {path: w != 0 for path, w in weights.items()}
        return c_steps.largest(weights, count, kept)


def check_schedule(mu: Any, growth: Any, steps: int) -> None:
    """Raise a ValueError unless `mu` can grow so many times."""
    for name, value, least in (("mu", mu, 0), ("growth", growth, 1)):
        if not is_number(value) or value < least or not value:
            rule = "above 0" if name == "mu" else "1 or more"
            raise ValueError(
                f"`{name}` must be a number, {rule}. Received: {name}={value!r}. Pass "
                f"for example {name}={1.1 if least else 1e-4}."
            )
    if math.log(mu) + steps * math.log(growth) > math.log(1e30):
        raise ValueError(
            "The last `mu * growth**k` must be a number below 1e30. Received: "
            f"mu={mu}, growth={growth} and steps={steps}. Pass less of one of them."
        )
