"""Magnitude pruning: score = |w|.

At initialization the layer with the largest fan-in has the smallest weights and is
emptied first. `allocation="uniform"` avoids that (arXiv 2002.08797, appendix E).
"""

import tensorflow as tf

from keras_prune_init.methods.base import Method


class Magnitude(Method):
    """Keep the largest weights; needs no data.

    Args:
        **options: `iterations` and `schedule`, as in `Method`. One iteration is enough,
            because the scores of the remaining weights do not change.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method=kpi.methods.Magnitude(), sparsity=0.5)
    >>> kpi.report(pruned).kept
    24

    Reference:
        Han, Pool, Tran, Dally, 2015, arXiv 1506.02626.
    """

    needs_data = False

    def scores(self, network, weights):
        return [tf.abs(w) for w in weights]
