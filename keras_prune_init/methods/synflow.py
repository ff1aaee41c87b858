"""SynFlow, iterative synaptic flow: score = |w| * dR/d|w|.

R is the sum of the outputs for one input of ones, in the network whose weights, biases
and normalization parameters are replaced by their absolute values. 100 iterations with
exponentially falling density; without iterations it collapses like the others.

Deviations from the authors' code: a final softmax or sigmoid and the maximum of a ReLU6
are left out, as the flow through them has no gradient (theirs have neither). Where R leaves the range in which
float32 is safe, scoring goes on in float64. A weight that an earlier iteration removed
stays removed, also if a kept one scores 0.
"""

from __future__ import annotations

import tensorflow as tf

from keras_prune_init import tape
from keras_prune_init.core.probe import SAMPLES, ones_input
from keras_prune_init.core.schedules import Schedule
from keras_prune_init.methods.base import Method

# Beyond these a factor of 1e8 between R and single terms would not fit float32.
SAFE_RANGE = (1e-25, 1e30)


class SynFlow(Method):
    """Keep the weights on the strongest paths; needs no data and empties no layer.

    For networks of ReLU-like activations. Attention, and activations that saturate or
    are not positive for positive inputs, break the positivity that it rests on.

    Args:
        iterations: Default 100, the authors' number.
        schedule: Default `"exponential"`, the authors'.

    Reference:
        Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by
        iteratively conserving synaptic flow", arXiv 2006.05467.
    """

    needs_data = False

    def __init__(self, *, iterations: int = 100, schedule: Schedule = "exponential"):
        super().__init__(iterations=iterations, schedule=schedule)

    def scores(self, network, weights):
        total, scores = self._flow(network, weights)
        low, high = SAFE_RANGE
        if network.dtype != "float64" and not low < abs(float(total)) < high:
            network.recast("float64")
            total, scores = self._flow(network, weights)
        return scores

    def _flow(self, network, weights):
        weights = [tf.cast(w, network.dtype) for w in weights]
        return network.compiled("flow", lambda: _flow_of(network))(weights)


def _flow_of(network):
    """The function from weights to R and scores."""
    inputs = ones_input(network.model)
    others = network.map_others(tf.abs)

    def flow(weights):
        weights = [tf.abs(w) for w in weights]
        with tf.GradientTape() as gradient_tape:
            gradient_tape.watch(weights)
            with tape.normalization(network.model, "eval"), tape.unbounded(network.model):
                outputs = network.forward(inputs, weights, others)
            sums = [tf.reduce_sum(v) for v in tf.nest.flatten(outputs)]
            total = tf.add_n(sums) / SAMPLES  # which are equal
        return total, tape.scores_of(weights, gradient_tape.gradient(total, weights))

    return flow
