"""GraNet: gradual magnitude pruning, with weights that grow again."""

from __future__ import annotations

from keras_prune_init.callbacks.moving import DENSE
from keras_prune_init.callbacks.rigl import RigL
from keras_prune_init.callbacks.rising import RisingSparsity, Rule


class GraNet(RigL):
    """Remove the smallest weights little by little, and let others grow as in `RigL`.

    Each change first removes the smallest weights, of all kernels together, as
    `GradualMagnitude` does. Then each kernel moves a fraction of what it has left as in
    `RigL`. Begin with the dense network, or with half of its weights (the authors' way
    with `initial` 0.5 and ERK), which is cheaper.

    Args:
        sparsity: Fraction of all weights that is removed in the end, 0 <= sparsity < 1.
        fraction: Of the kept weights, the part that the first changes move. It falls to
            0 along a cosine.
        every: Number of steps between changes.
        begin: Number of steps before the first change can be.
        end: Number of steps before the last change. Default: three quarters of the
            steps of `fit`, all epochs counted.
        power: Exponent of the polynomial along which the sparsity rises.
        allocation: How much each kernel loses, as in `prune_at_init`.
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
    >>> half = kpi.prune(model, None, "random", sparsity=0.5, allocation="erk")
    >>> half.compile("adam", "sparse_categorical_crossentropy")
    >>> rule = kpi.callbacks.GraNet(0.75, every=2)
    >>> _ = half.fit(x, y, epochs=3, verbose=0, callbacks=[rule])
    >>> kpi.report(half).sparsity
    0.75

    Reference:
        Liu et al., "Sparse Training via Boosting Pruning Plasticity with
        Neuroregeneration", 2021, arXiv 2106.10404.
    """

    fixed_counts = False
    advice = DENSE

    def __init__(
        self,
        sparsity: float,
        fraction: float = 0.5,
        every: int = 100,
        begin: int = 0,
        end: int | None = None,
        power: float = 3,
        allocation: Rule = "global",
        initial: float | None = None,
    ):
        super().__init__(fraction, every, begin, end)
        self.rising = RisingSparsity(sparsity, power, allocation, initial)

    def prepare(self, steps):
        super().prepare(steps)
        self.rising.begin(self.current_masks(), self.begin < self.steps < self.last)

    def due(self, step):
        return super().due(step) or step == self.last

    def masks(self, moment):
        progress = self.progress(moment.step)
        fewer = self.rising.masks(moment.weights, moment.masks, progress)
        return super().masks(moment._replace(masks=fewer))
