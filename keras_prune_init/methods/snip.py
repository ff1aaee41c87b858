"""SNIP, the sensitivity criterion (SBP): score = |w * dL/dw|.

Differences from the authors' code: biases are not pruned. Scores are not divided by
their sum, which does not change their order. Over several batches, signed gradients are
summed before the absolute value, as in all later code. Batch normalization uses batch
statistics, as in the code of Hayou et al.

The score of a channel is |sum w * dL/dw| over the weights that go with it, divided by
what they cost. The sum is the sensitivity to one gate for all of these weights. This is
3SP (van Amersfoort et al., 2020, arXiv 2007.00389), whose gates are on activations.
"""

import numpy as np
import tensorflow as tf

from keras_prune_init.methods.base import DataMethod


class SNIP(DataMethod):
    """Keep the weights whose removal changes the loss most, to first order.

    With `iterations` > 1 this is Iter-SNIP (de Jorge et al., arXiv 2006.09081).

    Args:
        **options: `batch_norm`, `iterations` and `schedule`, as in `DataMethod`.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> method = kpi.methods.SNIP(iterations=5, schedule="linear")
    >>> kpi.report(kpi.prune_at_init(model, (x, y), method, sparsity=0.5)).kept
    24

    Reference:
        Lee, Ajanthan, Torr, 2019, arXiv 1810.02340; Hayou, Ton, Doucet, Teh, 2021,
        arXiv 2002.08797 (there SBP).
    """

    def scores(self, network, weights):
        return [tf.abs(s) for s in self._sensitivities(network, weights)]

    def channel_scores(self, network, weights, channels):
        total = channels.total(self._sensitivities(network, weights))
        return np.abs(total) / channels.cost

    def _sensitivities(self, network, weights):
        gradients = network.gradients(weights, self.batch_norm)
        return [w * g for w, g in zip(weights, gradients, strict=True)]
