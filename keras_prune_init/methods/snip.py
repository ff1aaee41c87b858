"""SNIP, the sensitivity criterion (SBP): score = |w * dL/dw|.

Deviations from the authors' code: biases are not pruned, and scores are not divided by
their sum, which does not change their order. Over several batches signed gradients are
summed before the absolute value, as in all later codes. Batch normalization uses batch
statistics, as Hayou et al. do.

Of a channel it is |sum w * dL/dw| over the weights that go with it, the sensitivity to
one gate for all of them, over what they cost: 3SP (van Amersfoort et al., "Single Shot
Structured Pruning Before Training", arXiv 2007.00389), whose gates are on activations.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_prune_init.methods.base import DataMethod


class SNIP(DataMethod):
    """Keep the weights whose removal changes the loss most, to first order.

    With `iterations` > 1 this is Iter-SNIP (de Jorge et al., arXiv 2006.09081).

    Args:
        **options: See `DataMethod`.

    Reference:
        Lee, Ajanthan, Torr, "SNIP: Single-shot Network Pruning", arXiv 1810.02340;
        Hayou et al., arXiv 2002.08797, who call it SBP.
    """

    def scores(self, network, weights):
        return [tf.abs(s) for s in self._sensitivities(network, weights)]

    def channel_scores(self, network, weights, channels):
        total = channels.total(self._sensitivities(network, weights))
        return np.abs(total) / channels.cost

    def _sensitivities(self, network, weights):
        gradients = network.gradients(weights, self.batch_norm)
        return [w * g for w, g in zip(weights, gradients, strict=True)]
