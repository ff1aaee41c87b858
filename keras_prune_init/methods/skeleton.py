"""Skeletonization: the relevance of a unit, from the gradient of the linear error.

Let every unit have a gate a, which its outputs are multiplied by. Its relevance
E(a = 0) - E(a = 1) is -dE/da to first order, at a = 1. E is the linear error, the sum
of |t - o| over outputs, because the gradient of a squared error vanishes near its
minimum. The relevance is averaged over the batches in their order: from 0 on, it
becomes 0.8 of itself plus 0.2 of that of the next batch.

`what="channels"` is the paper's method. The gate of a channel is where others read it,
so that -dE/da is the sum of -w dE/dw over the weights that read the channel. The
weights that make it do not count. A depthwise convolution passes a channel on. It is
not divided by what the weights cost: the paper removes the least relevant unit.

For single weights the score is -w dE/dw, for a gate on each weight. SNIP is its
absolute value, with the loss in place of the linear error.

Differences from the paper: the average is over batches, not over patterns. Input units
are not removed.
"""

import tensorflow as tf

from keras_prune_init.methods.base import DataMethod
from keras_prune_init.scoring.linear_error import LinearError
from keras_prune_init.scoring.network import Network

# How much of the running average the next batch replaces.
RATE = 0.2


class Skeleton(DataMethod):
    """Keep the units of trained models that the linear error depends on most.

    Use it with `what="channels"`, which removes whole units as in the paper. The linear
    error is the mean over samples of the sum of |t - o|, of probabilities if the loss
    is a cross-entropy. Scores are signed: what makes the error larger goes first.

    Args:
        batch_norm: The statistics that batch normalization uses, as in `DataMethod`.
        **options: `iterations` and `schedule`, as in `Method`.

    Raises:
        ValueError: If an option has no such value, or if the data have no labels.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> data = np.random.rand(32, 4), np.arange(32) % 2
    >>> method = kpi.methods.Skeleton()
    >>> small = kpi.prune(model, data, method, sparsity=0.5, what="channels", batches=1)
    >>> small.get_layer("dense1").units
    4

    Reference:
        Mozer, Smolensky, "Skeletonization", NIPS 1, 1989.
    """

    batches = 8

    def __init__(self, *, batch_norm: str = "eval", **options):
        super().__init__(batch_norm=batch_norm, **options)

    def remark(self, network):
        error = LinearError(network.loss)
        model, (x, y, sample_weight), outputs = network.loss.example
        error(model, x, y, outputs, (sample_weight, 1.0))  # refuses what does not fit
        return ""

    def scores(self, network, weights):
        made = network.once("relevance", lambda: self._averaging(network))
        slopes = made.gradients(weights, self.batch_norm)
        return [-w * g for w, g in zip(weights, slopes, strict=True)]

    def channel_scores(self, network, weights, channels):
        return channels.readers(self.scores(network, weights))

    def _averaging(self, network):
        """Return a network whose sum over batches is the running average.

        The average is linear, so each batch has a factor, that of the last is largest.
        """
        count = len(network.batches)
        batches = []
        for i, (x, y, sample_weight) in enumerate(network.batches):
            factor = tf.constant(RATE * (1 - RATE) ** (count - 1 - i), network.dtype)
            batches.append((x, y, (sample_weight, factor)))
        error = LinearError(network.loss)
        given = network.model, network.kernels, batches, error
        return Network(*given, self.iterations, network.seed)
