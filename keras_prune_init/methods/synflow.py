"""SynFlow, iterative synaptic flow: score = |w| * dR/d|w|.

R is the sum of the outputs for one input of ones, in the network whose weights, biases
and normalization parameters are replaced by their absolute values. 100 iterations with
exponentially falling density; without iterations it collapses like the others.

Deviations from the authors' code: a final softmax or sigmoid and the maximum of a ReLU6
are left out, as the flow through them has no gradient (theirs have neither). A weight
that an earlier iteration removed stays removed, also if a kept one scores 0.

R grows exponentially with depth and soon leaves float32. Where it does, input and sum
are multiplied by powers of two, which changes all scores by one known factor, if the
network is homogeneous (ReLUs, no offsets); else scoring goes on in float64.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.core import kinds, selection
from keras_prune_init.core.patching import scoring_layers, unbounded
from keras_prune_init.core.probe import ones_input
from keras_prune_init.core.schedules import Schedule
from keras_prune_init.methods.base import Method
from keras_prune_init.tape import zeros_for_none

L = keras.layers

# R between 2^-SAFE and 2^SAFE leaves room in float32 for all that goes into it.
SAFE = 80
# Half of the powers of two go to the input, which must not underflow.
WIDEST = {"float32": 200, "float64": 1600}
# Layers f with f(a x) = a f(x) for a > 0, if their offsets are 0.
HOMOGENEOUS = (
    *kinds.LINEAR,
    L.BatchNormalization,
    L.ReLU,
    L.LeakyReLU,
    L.Activation,
    L.Add,
    L.Average,
    L.Maximum,
    L.Concatenate,
    L.Flatten,
    L.Reshape,
    L.Rescaling,
    L.Permute,
    L.Dropout,
    L.InputLayer,
    L.ZeroPadding1D,
    L.ZeroPadding2D,
    L.AveragePooling1D,
    L.AveragePooling2D,
    L.MaxPooling1D,
    L.MaxPooling2D,
    L.GlobalAveragePooling1D,
    L.GlobalAveragePooling2D,
    L.GlobalMaxPooling1D,
    L.GlobalMaxPooling2D,
    L.UpSampling2D,
)
LINEAR = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.leaky_relu,
)


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

    def start(self, network):
        return [tf.abs(w) for w in network.weights]

    def scores(self, network, weights):
        return network.once("flow", lambda: _Flow(network)).scores(weights)


class _Flow:
    """R and its gradient, in whatever range R lies; made once for a network."""

    def __init__(self, network):
        self.network = network
        self.homogeneous = _is_homogeneous(network.model)
        self.exponent = 0
        self._prepare()

    def _prepare(self):
        self.inputs = ones_input(self.network.model)
        self.others = self.network.map_others(tf.abs)
        self.step = self.network.graph_if_it_pays(self._gradient)

    def scores(self, weights):
        """Scores of weights >= 0; divided by 2^exponent where they would not fit."""
        total, scores = self._run(weights, self.exponent)
        if self._fits(total):
            return scores
        if self.homogeneous:
            widest = WIDEST[self.network.dtype]
            for exponent in sorted(range(-widest, widest + 1, SAFE), key=abs):
                total, _ = self._run(weights, exponent)
                if self._fits(total):
                    # Near 1, so that it will not have to change again.
                    self.exponent = exponent + round(math.log2(total))
                    return self._run(weights, self.exponent)[1]
        self.exponent = 0
        if self.network.dtype != "float64":
            self.network.recast("float64")
            self._prepare()
            return self.scores(weights)
        return self._run(weights, 0)[1]

    def _run(self, weights, exponent):
        """R as a number, and scores, both times 2^-exponent."""
        dtype = self.network.dtype
        half = exponent // 2
        powers = [2.0**-half, 2.0 ** (half - exponent)]
        factors = [tf.constant(v, dtype) for v in powers]
        total, scores = self.step([tf.cast(w, dtype) for w in weights], factors)
        return abs(float(total)), scores

    def _fits(self, total):
        if not self.homogeneous and self.network.dtype == "float64":
            return math.isfinite(total)
        return 2.0**-SAFE < total < 2.0**SAFE

    def _gradient(self, weights, factors):
        before, after = factors
        inputs = keras.tree.map_structure(
            lambda v: v * tf.cast(before, v.dtype), self.inputs
        )
        model = self.network.model
        with tf.GradientTape() as gradient_tape:
            gradient_tape.watch(weights)
            with scoring_layers(model, "eval"), unbounded(model):
                outputs = self.network.forward(inputs, weights, self.others)
            sums = [tf.reduce_sum(v * after) for v in tf.nest.flatten(outputs)]
            total = tf.add_n(sums)
        gradients = zeros_for_none(gradient_tape.gradient(total, weights), weights)
        return total, [tf.abs(w * g) for w, g in zip(weights, gradients, strict=True)]


def _is_homogeneous(model):
    """Whether R of a times the input is a times R, as far as the layers tell."""
    if not selection.is_graph(model):
        return False
    for _, layer in selection.walk(model):
        activation = getattr(layer, "activation", None) or keras.activations.linear
        offsets = [getattr(layer, n, None) for n in ("bias", "beta", "moving_mean")]
        offset = any(v is not None and np.any(v.numpy()) for v in offsets)
        offset = offset or np.any(getattr(layer, "offset", 0))  # of a Rescaling
        output = layer in selection.output_layers(model)
        if not isinstance(layer, HOMOGENEOUS) or offset:
            return False
        if activation not in LINEAR and not output:
            return False
    return True
