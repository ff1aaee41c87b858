"""Rules that drop weights of a kernel and grow as many others: SET and RigL."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping

import numpy as np

from keras_prune_init._arguments import is_number
from keras_prune_init.callbacks.checks import check_single
from keras_prune_init.callbacks.moment import Moment
from keras_prune_init.callbacks.moving import MovingMasks
from keras_prune_init.masks.top_k import top_k_of_all


class DropAndGrow(MovingMasks):
    """Base class of rules that drop some weights and grow as many in their place.

    Each kernel keeps its number of weights. At a change after t steps, the fraction
    `fraction / 2 * (1 + cos(pi * t / end))` of its weights is dropped, rounded down.
    A weight that was just dropped can grow again, and has its value then.

    A rule of your own needs one method or two:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> class Momentum(kpi.callbacks.DropAndGrow):
    ...     needs_gradients = True
    ...     def grow(self, moment):
    ...         return {p: abs(g) for p, g in moment.gradients.items()}
    >>> rule = Momentum(fraction=0.3, every=100)

    Args:
        fraction: Of the kept weights, the part that the first changes drop, 0 to 1.
        every: Number of steps between changes.
        begin: Number of steps before the first change can be.
        end: Number of steps after which masks stay. Default: three quarters of the
            steps of `fit`, all epochs counted.
        seed: Seed of what is random.

    Raises:
        ValueError: If an argument is out of range.
    """

    fixed_counts = True

    def __init__(
        self,
        fraction: float = 0.3,
        every: int = 100,
        begin: int = 0,
        end: int | None = None,
        seed: int = 0,
    ):
        super().__init__(every, begin, end, seed)
        if not is_number(fraction) or not 0 < fraction <= 1:
            raise ValueError(
                "`fraction` is the part of the kept weights that moves, a number with "
                f"0 < fraction <= 1. Received: fraction={fraction!r}. Pass for example "
                "0.3."
            )
        self.fraction = fraction

    def prepare(self, steps):
        super().prepare(steps)
        check_single(type(self).__name__, self._movable)

    def drop(self, moment: Moment) -> Mapping[str, np.ndarray]:
        """Return scores; of the kept weights those with the lowest go."""
        return {path: np.abs(w) for path, w in moment.weights.items()}

    @abc.abstractmethod
    def grow(self, moment: Moment) -> Mapping[str, np.ndarray]:
        """Return scores; of the weights that are not kept those with the highest come.

        These are all weights without a mask of 1 after the drop.
        """

    def fraction_at(self, step: int) -> float:
        """Return the fraction of the kept weights that a change drops."""
        return self.fraction / 2 * (1 + math.cos(math.pi * step / self.last))

    def masks(self, moment):
        fraction = self.fraction_at(moment.step)
        kept = {p: int(np.count_nonzero(mask)) for p, mask in moment.masks.items()}
        moved = {path: int(fraction * count) for path, count in kept.items()}
        rule, found = type(self).__name__, {}
        scores = moment.checked(rule, "drop", self.drop(moment))
        for path, mask in moment.masks.items():
            count = kept[path] - moved[path]
            [found[path]] = top_k_of_all([scores[path]], count, [mask])
        del scores  # as large as the kernels, and so are those that come
        scores = moment.checked(rule, "grow", self.grow(moment))
        for path, stays in found.items():
            [comes] = top_k_of_all([scores[path]], moved[path], [~stays])
            found[path] = stays | comes
        return found
