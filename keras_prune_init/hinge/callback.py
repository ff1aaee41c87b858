"""`callbacks.Hinge`: accelerated proximal gradient for the matrices of `add_hinges`."""

from __future__ import annotations

import keras
from absl import logging
from keras import ops

from keras_prune_init._arguments import check_weights
from keras_prune_init.hinge import limits
from keras_prune_init.hinge.attach import check_hinged
from keras_prune_init.hinge.groups import Hinges


class Hinge(keras.callbacks.Callback):
    """Make groups of the hinge matrices small, step by step, while a model trains.

    Use it in `fit` of a model from `add_hinges`, then call `merge_hinges`. After each
    step of the optimizer, the matrices take the accelerated proximal step of the paper.
    Everything else trains by the optimizer as usual. State is kept in the layers, so it
    is part of every file and checkpoint of the model.

    The paper's step for the matrices is plain SGD. With SGD without momentum this is
    exact; with another optimizer, its step for a matrix takes the place of the
    gradient's. Momentum of 0.9 makes steps about ten times as long: `strength` then
    must be as much larger for the same effect.

    Args:
        sparsity: Fraction of multiply-adds to remove, 0 to below 1. Training stops at
            the end of the epoch in which `threshold` removes it, less `stop_within`.
        strength: The factor lambda of the penalty.
        rate_ratio: The learning rate of all other weights over that of the matrices,
            above 0 to 1. The optimizer has that of the other weights.
        momentum: That of the proximal steps, 0 to below 1; 0 is plain proximal
            gradient.
        annealing: `strength` is divided by it once half of `sparsity` is reached, and
            again at three quarters. (The authors use limits of the penalty that they
            chose for each network.)
        threshold: Norms up to this are taken as removed, for the two above and the log.
        stop_within: See `sparsity`; `None`: never stop early.
        least: The fraction of groups that each matrix keeps, as in `merge_hinges`.

    Raises:
        ValueError: If an argument is out of its range; in `fit`, if the model has no
            hinges.
        FloatingPointError: In `fit`, if a weight of a hinge is NaN or infinite.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.cnn((8, 8, 3), classes=2, depth=3, width=4)
    >>> hinged = kpi.add_hinges(model)
    >>> hinged.compile("sgd", "mse")
    >>> hinge = kpi.callbacks.Hinge(sparsity=0.5, strength=0.01)
    >>> x, y = np.ones((8, 8, 8, 3)), np.ones((8, 2))
    >>> history = hinged.fit(x, y, epochs=2, callbacks=[hinge], verbose=0)
    >>> len(history.history["removed"])
    2
    >>> small = kpi.merge_hinges(hinged, sparsity=0.5)

    Reference:
        Li, Gu, Mayer, Van Gool, Timofte, 2020, arXiv 2003.08935.
    """

    def __init__(
        self,
        sparsity: float,
        strength: float = 1e-4,
        rate_ratio: float = 0.1,
        *,
        momentum: float = 0.1,
        annealing: float = 1.0,
        threshold: float = 5e-3,
        stop_within: float | None = 0.05,
        least: float = 0.2,
    ):
        super().__init__()
        limits.check(sparsity=sparsity, least=least, strength=strength)
        limits.check(rate_ratio=rate_ratio, momentum=momentum, annealing=annealing)
        limits.check(threshold=threshold)
        if stop_within is not None:
            limits.check(stop_within=stop_within)
        self.sparsity, self.strength, self.rate_ratio = sparsity, strength, rate_ratio
        self.momentum, self.annealing, self.threshold = momentum, annealing, threshold
        self.stop_within, self.least = stop_within, least

    def on_train_begin(self, logs=None):
        check_hinged("Hinge", self.model)
        self._hinges = Hinges(self.model)
        for pair in self._hinges.pairs:
            pair.matrix.start()

    def on_epoch_begin(self, epoch, logs=None):
        # From the model alone, so that a training that was stopped goes on the same.
        removed = self._removed()
        reached = [removed >= part * self.sparsity for part in (0.5, 0.75)]
        self._now = self.strength / self.annealing ** sum(reached)
        self._settings = None  # another callback may have loaded others

    def on_train_batch_begin(self, batch, logs=None):
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        gain = 1 / self.rate_ratio
        settings = gain, self._now * rate * gain, self.momentum
        if settings != self._settings:
            self._set(settings)

    def on_epoch_end(self, epoch, logs=None):
        kernels = [pair.matrix.kernel for pair in self._hinges.pairs]
        check_weights("Hinge", {kernel.path: kernel for kernel in kernels})
        removed = self._removed()
        if logs is not None:
            logs["removed"] = removed
        within = self.stop_within
        if within is not None and removed >= self.sparsity - within:
            logging.info("%.3f of the multiply-adds are removed; stopping", removed)
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self._set((0.0, 0.0, 0.0))

    def _set(self, settings):
        for pair in self._hinges.pairs:
            pair.matrix.settings.assign(settings)
        self._settings = settings

    def _removed(self):
        return self._hinges.removed(self.threshold, self.least)
