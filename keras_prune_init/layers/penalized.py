"""PenalizedLayer: a masked layer whose kernels are drawn to targets in training."""

from __future__ import annotations

from collections.abc import Callable

import keras

from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.layers.masked import PACKAGE, MaskedLayer


class Drawn:
    """A regularizer, or none, and the augmented Lagrangian of `kernel = target`.

    Without the multiplier's square, which is constant: so `mu` may be 0.
    """

    def __init__(
        self,
        regularizer: Callable | None,
        target: keras.Variable,
        multiplier: keras.Variable,
        mu: keras.Variable,
    ):
        self.regularizer = regularizer
        self.target, self.multiplier, self.mu = target, multiplier, mu

    def __call__(self, kernel):
        off = kernel - self.target.value
        half = self.mu.value / 2 * keras.ops.sum(keras.ops.square(off))
        loss = half - keras.ops.sum(self.multiplier.value * off)
        return loss if self.regularizer is None else loss + self.regularizer(kernel)


@keras.saving.register_keras_serializable(PACKAGE)
class PenalizedLayer(MaskedLayer):
    """Run a layer while learning-compression draws its kernels to sparse targets.

    `callbacks.LearningCompression` puts these layers into a model, and takes them out.
    What it must know to go on is in variables of theirs, so it is in all files.

    Args:
        layer: The layer to wrap, built or not.
        **kwargs: As for `MaskedLayer`.

    Attributes:
        targets: `{kernel attribute path: variable}`, the compressed weights.
        multipliers: `{kernel attribute path: variable}`, the Lagrange multipliers.
        lc_mu: The weight of the penalty; with 0 there is none.
        lc_done: How many compression steps were taken.
        lc_begun: The step of the optimizer after the last of them.

    Example:

    >>> import keras
    >>> from keras_prune_init.layers.penalized import PenalizedLayer
    >>> layer = PenalizedLayer(keras.layers.Dense(2, kernel_initializer="ones"))
    >>> layer.build((None, 3))
    >>> _ = layer.lc_mu.assign(0.5)
    >>> float(layer.losses[0])  # of six weights of 1, whose targets are 0
    1.5
    """

    def build(self, *args, **shapes):
        super().build(*args, **shapes)
        # Names that a wrapped layer of a user does not have.
        self.lc_mu = self._add_number("lc_mu")
        self.lc_done = self._add_number("lc_done", "int64")
        self.lc_begun = self._add_number("lc_begun", "int64")
        for name in self.kernels:
            kernel = get_kernel(self.layer, name)
            for kind in ("target", "multiplier"):
                self._add_factor(name, kind, kernel.shape, "zeros")
            parts = self.targets[name], self.multipliers[name], self.lc_mu
            kernel.regularizer = Drawn(kernel.regularizer, *parts)

    def _add_number(self, name, dtype=None):
        return self.add_weight(
            shape=(),
            initializer="zeros",
            dtype=dtype,
            trainable=False,
            name=name,
            aggregation="only_first_replica",
        )

    @property
    def targets(self) -> dict[str, keras.Variable]:
        return self._parts("target")

    @property
    def multipliers(self) -> dict[str, keras.Variable]:
        return self._parts("multiplier")

    @property
    def fixed(self) -> list[keras.Variable]:
        learned = [*self.targets.values(), *self.multipliers.values()]
        return [*super().fixed, *learned, self.lc_mu, self.lc_done, self.lc_begun]

    def release(self, layer):
        for name in self.kernels:
            kernel = get_kernel(layer, name)
            if isinstance(kernel.regularizer, Drawn):
                kernel.regularizer = kernel.regularizer.regularizer
        super().release(layer)
