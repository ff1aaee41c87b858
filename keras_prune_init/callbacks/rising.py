"""The sparsity of a model in training, and how it rises."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_prune_init._arguments import is_number
from keras_prune_init.masks.allocation import Allocation
from keras_prune_init.masks.densities import Densities
from keras_prune_init.masks.selection import check_sparsity

Rule = str | Densities | Mapping[str, float] | Allocation


class RisingSparsity:
    """Masks of the largest weights, which become fewer along a polynomial.

    Args:
        sparsity: The final sparsity of all kernels that are trained.
        power: Exponent of the polynomial, above 0.
        allocation: How much each kernel loses.
        initial: Sparsity before the first change; `None`: that of the model.
    """

    def __init__(
        self, sparsity: float, power: float, allocation: Rule, initial: float | None
    ):
        check_sparsity(sparsity)
        if not is_number(power) or power <= 0:
            raise ValueError(
                f"`power` must be a number above 0. Received: power={power!r}. "
                "Pass for example 3."
            )
        self.sparsity, self.power = sparsity, power
        self.allocation = Allocation.of(allocation)
        self.initial = self._given = initial
        if initial is not None:
            self._check(initial)

    def begin(self, masks: Mapping[str, np.ndarray], started: bool) -> None:
        """Check the masks of a model whose sparsity is to rise.

        Args:
            masks: `{kernel path: bool array}`.
            started: Whether it has begun to rise.
        """
        shapes = {path: mask.shape for path, mask in masks.items()}
        self.allocation.check(shapes, self.sparsity)
        if self._given is None and started:
            raise ValueError(
                "A model whose sparsity rises already does not tell where it began. "
                "Received: initial=None. Pass `initial`, the sparsity before all "
                "training; 0.0 if it was dense."
            )
        total = sum(mask.size for mask in masks.values())
        now = 1 - sum(map(np.count_nonzero, masks.values())) / total
        if self._given is None:
            self._check(now)
            self.initial = now
        elif not started and now < self._given - 0.01:
            raise ValueError(
                "`initial` is the sparsity before the first change. Received: "
                f"initial={self._given} for masks of {now:.4g}. Leave it out."
            )

    def _check(self, initial):
        if not is_number(initial) or not 0 <= initial <= self.sparsity:
            raise ValueError(
                "A sparsity can only rise, from `initial` to `sparsity`. Received: "
                f"{initial} before, and sparsity={self.sparsity}. Begin with a model "
                "that has more weights."
            )

    def masks(
        self,
        weights: Mapping[str, np.ndarray],
        masks: Mapping[str, np.ndarray],
        progress: float,
    ) -> dict[str, np.ndarray]:
        """Return the masks of the largest weights, at a part of the way (0 to 1)."""
        rest = (1 - progress) ** self.power

        def now(sparsity):
            return sparsity + (self.initial - sparsity) * rest

        scores = {path: np.abs(w) for path, w in weights.items()}
        within = [masks[path] for path in scores]
        return self.allocation.masks(scores, self.sparsity, within, now)
