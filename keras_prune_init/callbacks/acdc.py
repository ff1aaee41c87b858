"""AC/DC: phases with all weights and phases with few take turns."""

from __future__ import annotations

from keras_prune_init.callbacks.moving import DENSE, MovingMasks
from keras_prune_init.callbacks.rising import RisingSparsity, Rule


class ACDC(MovingMasks):
    """Let phases with all weights and phases with the largest ones take turns.

    It ends with one network of each kind: the sparse one that you have, and a dense one
    at the end of each dense phase. A warm-up with all weights comes first. In a dense
    phase removed weights begin at 0. The last phase is sparse.

    Args:
        sparsity: Fraction of all weights that sparse phases remove, 0 <= sparsity < 1.
        begin: Number of steps of the warm-up.
        every: Number of steps of each phase.
        end: Number of steps after which the network stays sparse. Default: three
            quarters of the steps of `fit`, all epochs counted.
        allocation: How much each kernel loses, as in `prune_at_init`.

    Raises:
        ValueError: If an argument is out of range, or the model cannot be trained in
            this way.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> x, y = np.random.rand(64, 8), np.arange(64) % 2
    >>> model = kpi.models.mlp((8,), classes=2, depth=2, width=16)
    >>> dense = kpi.prune(model, method="magnitude", sparsity=0.0)  # all weights
    >>> dense.compile("adam", "sparse_categorical_crossentropy")
    >>> rule = kpi.callbacks.ACDC(0.75, begin=1, every=1)
    >>> _ = dense.fit(x, y, epochs=3, verbose=0, callbacks=[rule])
    >>> kpi.report(dense).sparsity
    0.75

    Reference:
        Peste, Iofinova, Vladu, Alistarh, "AC/DC: Alternating Compressed/DeCompressed
        Training of Deep Neural Networks", 2021, arXiv 2106.12379.
    """

    advice = DENSE
    at_ends = True

    def __init__(
        self,
        sparsity: float,
        begin: int,
        every: int,
        end: int | None = None,
        allocation: Rule = "global",
    ):
        super().__init__(every, begin, end)
        self.rising = RisingSparsity(sparsity, 1, allocation, 0.0)

    def prepare(self, steps):
        super().prepare(steps)
        masks = self.current_masks()
        self.rising.begin(masks, False)
        if self.steps <= self.begin and not all(m.all() for m in masks.values()):
            raise ValueError(
                "AC/DC warms up with all weights. Received: "
                f"{self.model.name}, of which some are removed. {self.advice}"
            )

    def masks(self, moment):
        odd = (moment.step - self.begin) // self.every % 2
        if odd and moment.step < self.last:
            return {path: mask | True for path, mask in moment.masks.items()}
        return self.rising.masks(moment.weights, moment.masks, 1.0)
