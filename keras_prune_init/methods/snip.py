"""SNIP, the sensitivity criterion (SBP): score = |w * dL/dw|.

Deviations from the authors' code: biases are not pruned, and scores are not divided by
their sum, which does not change their order. Over several batches signed gradients are
summed before the absolute value, as in all later codes. Batch normalization uses batch
statistics, as Hayou et al. do.
"""

from __future__ import annotations

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
        gradients = network.gradients(weights, self.batch_norm)
        return [tf.abs(w * g) for w, g in zip(weights, gradients, strict=True)]
