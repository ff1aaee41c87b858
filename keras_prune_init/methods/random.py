"""Random pruning: every weight has the same chance. It is the simplest baseline.

score = U(0, 1), independent of weights and data. The draws of a kernel depend only on
the seed and the kernel's path, so they do not change with the rest of the model.
"""

from __future__ import annotations

import numpy as np

from keras_prune_init._arguments import check_whole
from keras_prune_init.methods.base import Method


class Random(Method):
    """Score weights at random; with `allocation="erk"` the usual sparse baseline.

    Args:
        seed: Seed of the draws, a whole number. Default: the `seed` of `prune_at_init`.
        **options: `iterations` and `schedule`, as in `Method`.

    Raises:
        ValueError: If an option has no such value.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> method = kpi.methods.Random(seed=1)
    >>> pruned = kpi.prune_at_init(model, method=method, sparsity=0.5, allocation="erk")
    >>> kpi.report(pruned).kept
    24
    """

    needs_data = False

    def __init__(self, *, seed: int | None = None, **options):
        super().__init__(**options)
        if seed is not None:
            check_whole("seed", seed, 0)
        self.seed = seed

    def scores(self, network, weights):
        seed = network.seed if self.seed is None else int(self.seed)
        scores = []
        for k, w in zip(network.kernels, weights, strict=True):
            scores.append(k.generator(seed).random(tuple(w.shape), np.float32))
        return scores

    def channel_scores(self, network, weights, channels):
        # The fractional part of a sum is uniform again; costs must not matter.
        return channels.total(self.scores(network, weights)) % 1
