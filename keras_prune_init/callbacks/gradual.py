"""GradualMagnitude: remove the smallest weights little by little."""

from __future__ import annotations

from keras_prune_init.callbacks.checks import check_single
from keras_prune_init.callbacks.moving import DENSE, MovingMasks
from keras_prune_init.callbacks.rising import RisingSparsity, Rule


class GradualMagnitude(MovingMasks):
    """Remove the smallest weights little by little, while the network learns.

    The way that most practitioners take if the training of the dense network can be
    paid. After t steps the sparsity is `sparsity + (initial - sparsity) *
    (1 - (t - begin) / (end - begin)) ** power`. Weights that are removed do not come
    back.

    Args:
        sparsity: Fraction of all weights that is removed in the end, 0 <= sparsity < 1.
        begin: Number of steps before the first change.
        end: Number of steps before the last change. Default: three quarters of the
            steps of `fit`, all epochs counted.
        every: Number of steps between changes.
        power: Exponent of the polynomial.
        allocation: How much each kernel loses, as in `prune_at_init`. The authors
            remove the same fraction of every kernel: `"uniform"`.
        initial: Sparsity before the first change. Default: that of the model. Needed
            only if training goes on with a model that is between `begin` and `end`.

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
    >>> rule = kpi.callbacks.GradualMagnitude(0.75, every=1)
    >>> _ = dense.fit(x, y, epochs=3, verbose=0, callbacks=[rule])
    >>> kpi.report(dense).sparsity
    0.75

    Reference:
        Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for
        model compression", 2017, arXiv 1710.01878.
    """

    advice = DENSE
    at_ends = True

    def __init__(
        self,
        sparsity: float,
        begin: int = 0,
        end: int | None = None,
        every: int = 100,
        power: float = 3,
        allocation: Rule = "global",
        initial: float | None = None,
    ):
        super().__init__(every, begin, end)
        self.rising = RisingSparsity(sparsity, power, allocation, initial)

    def prepare(self, steps):
        super().prepare(steps)
        check_single(type(self).__name__, self._movable)
        self.rising.begin(self.current_masks(), self.begin < self.steps < self.last)

    def masks(self, moment):
        progress = self.progress(moment.step)
        return self.rising.masks(moment.weights, moment.masks, progress)
