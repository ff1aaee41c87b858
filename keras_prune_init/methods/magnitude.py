"""Magnitude pruning: score = |w|.

At initialization the layer with the largest fan-in has the smallest weights and is
emptied first; `allocation="uniform"` avoids that (arXiv 2002.08797, appendix E).
"""

from __future__ import annotations

import tensorflow as tf

from keras_prune_init.methods.base import Method


class Magnitude(Method):
    """Keep the largest weights. Needs no data.

    Reference:
        Han, Pool, Tran, Dally, "Learning both Weights and Connections",
        arXiv 1506.02626.
    """

    needs_data = False

    def scores(self, network, weights):
        return [tf.abs(w) for w in weights]
