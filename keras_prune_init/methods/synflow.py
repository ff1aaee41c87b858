"""SynFlow, iterative synaptic flow: score = |w| * dR/d|w|.

R is the sum of the outputs for one input of ones. For this, the weights, biases and
normalization parameters of the network are replaced by their absolute values. There are
100 iterations with exponentially falling density; with a single one, SynFlow empties
layers as other methods do.

Differences from the authors' code: a final softmax, sigmoid or tanh and the maximum of
a ReLU6 are left out, because the flow has no gradient through them. Layers that shift
and scale the inputs are left out too, because they could make the ones negative. (The
authors' networks have none of these.) A weight that an earlier iteration removed stays
removed, even if a kept one scores 0.

R grows exponentially with depth and soon exceeds the range of float32. Then the sum is
multiplied by a power of two, which changes all scores by this factor. In networks of
ReLUs, inputs and offsets (biases, means) are multiplied too, because R is homogeneous
in both together. If that is not enough, the scores are computed in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_prune_init.graph.inputs import ones_input
from keras_prune_init.graph.wiring import graph_with_outputs
from keras_prune_init.layers.kernels import is_float
from keras_prune_init.layers.patching import patched
from keras_prune_init.layers.types import Trait, has
from keras_prune_init.layers.walk import is_graph
from keras_prune_init.masks.schedules import Schedule
from keras_prune_init.methods.base import Method
from keras_prune_init.scoring.exact_layers import (
    SQUASHING,
    boundary,
    scoring_layers,
    unbounded,
)
from keras_prune_init.scoring.network import zeros_for_none

L = keras.layers

# R between 2^-SAFE and 2^SAFE leaves room in float32 for all that goes into it.
SAFE = 80
# With these powers of two, inputs and the gradient of the sum do not underflow.
WIDEST = {"float32": 100, "float64": 800}
# Homogeneous operations of tensors, by the number of their tensor arguments.
OPERATIONS = {
    1: ("Relu", "GetItem", "Reshape", "Transpose", "Squeeze", "ExpandDims", "Mean"),
    2: ("Add", "Subtract", "Maximum", "Minimum", "Concatenate"),
}
LINEAR = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,  # `unbounded` takes its maximum away
    keras.activations.leaky_relu,
)
# Attributes that layers add to their input.
OFFSETS = ("bias", "beta", "moving_mean", "offset", "mean")


class SynFlow(Method):
    """Keep the weights on the strongest paths; needs no data and empties no layer.

    Use it for networks of ReLU-like activations. The method assumes that all signals
    are positive. Attention breaks this, and so do activations that saturate or that are
    not positive for positive inputs.

    Args:
        iterations: Number of steps in which weights are removed.
        schedule: How density falls. Both defaults are the authors'.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> method = kpi.methods.SynFlow(iterations=10)
    >>> pruned = kpi.prune_at_init(model, method=method, sparsity=0.5)
    >>> kpi.report(pruned).collapsed
    []

    Reference:
        Tanaka, Kunin, Yamins, Ganguli, 2020, arXiv 2006.05467.
    """

    needs_data = False

    def __init__(self, *, iterations: int = 100, schedule: Schedule = "exponential"):
        super().__init__(iterations=iterations, schedule=schedule)

    def start(self, network):
        return [tf.abs(w) for w in network.weights]

    def scores(self, network, weights):
        return network.once("flow", lambda: _Flow(network)).scores(weights)


class _Scaled(NamedTuple):
    """What is multiplied by a factor so that R and the scores are, too."""

    inputs: set[int]  # positions; not of tokens, which only name the rows of a table
    variables: set[int]  # ids of offsets and of the tables of embeddings
    numbers: list[tuple[keras.layers.Layer, str]]  # attributes: the other offsets


class _Flow:
    """R and its gradient, in whatever range R lies. One object serves one network."""

    def __init__(self, network):
        self.network = network
        self._look()

    def _look(self):
        model = self.network.model
        self.inputs = ones_input(model)
        self.boundary = boundary(model, self.inputs)
        scaled = _scaled(model, self.boundary.first)
        self.homogeneous = scaled is not None
        self.scaled = scaled or _Scaled(set(), set(), [])
        self._prepare(0)

    def _prepare(self, exponent):
        """Multiply inputs, offsets and sum so that scores are divided by 2^exponent."""
        network = self.network
        half = exponent // 2 if self.homogeneous else 0
        self.before, self.after = 2.0**-half, 2.0 ** (half - exponent)
        inputs = enumerate(keras.tree.flatten(self.inputs))
        inputs = [self._multiplied(v, i in self.scaled.inputs) for i, v in inputs]
        self.x = keras.tree.pack_sequence_as(self.inputs, inputs)
        others = network.map_others(tf.abs)
        self.others = [(v, self._multiplied(x, self._is_scaled(v))) for v, x in others]
        self.step = network.graph_if_it_pays(self._gradient)

    def scores(self, weights):
        """Return the scores of weights >= 0, divided by 2^exponent if needed."""
        total, plain = self._run(weights, self.step)
        lowest, highest = (2.0**-SAFE, 2.0**SAFE) if self.homogeneous else (0, math.inf)
        if lowest < total < highest:
            return plain
        # If inputs are multiplied too, each of the two gets half of the factor.
        widest = WIDEST[self.network.dtype] * (1 + self.homogeneous)
        for exponent in sorted(range(-widest, widest + 1, SAFE), key=abs):
            self._prepare(exponent)
            total, _ = self._run(weights, self._gradient)
            if 2.0**-SAFE < total < 2.0**SAFE:
                # Near 1, so that it will not have to change again.
                exponent += round(math.log2(total))
                self._prepare(min(max(exponent, -widest), widest))
                return self._run(weights, self.step)[1]
        self._prepare(0)
        if self.network.dtype == "float64":
            return self._run(weights, self.step)[1]
        try:
            self.network.recast("float64")
            self._look()
            return self.scores(weights)
        except Exception as e:  # users' own layers may do anything in another dtype
            raise ValueError(
                "SynFlow needs float64 where its flow leaves the range of float32. "
                f"Received: {self.network.model.name}, which does not run in float64. "
                "Scale its weights, or have its layers compute in `self.compute_dtype`."
                f" Keras says: {e}"
            ) from e

    def _run(self, weights, step):
        """Return R as a number, NaN if scores are not finite, and the scores."""
        dtype = self.network.dtype
        total, finite, scores = step([tf.cast(w, dtype) for w in weights])
        return abs(float(total)) if finite else math.nan, scores

    def _is_scaled(self, variable):
        return id(variable) in self.scaled.variables

    def _multiplied(self, value, if_this):
        return value * tf.constant(self.before, value.dtype) if if_this else value

    def _gradient(self, weights):
        model, kernels = self.network.model, self.network.kernels
        with tf.GradientTape() as gradient_tape:
            gradient_tape.watch(weights)
            values = [
                self._multiplied(w, self._is_scaled(k.variable))
                for k, w in zip(kernels, weights, strict=True)
            ]
            numbers = [
                (layer, name, getattr(layer, name) * self.before)
                for layer, name in self.scaled.numbers
            ]
            with (
                scoring_layers(model, "eval"),
                unbounded(model, self.boundary),
                patched(numbers),
            ):
                outputs = self.network.forward(self.x, values, self.others)
            dtype = self.network.dtype  # layers may compute in their own
            outputs = [tf.cast(v, dtype) for v in tf.nest.flatten(outputs)]
            total = tf.add_n([tf.reduce_sum(v * self.after) for v in outputs])
        gradients = zeros_for_none(gradient_tape.gradient(total, weights), weights)
        scores = [tf.abs(w * g) for w, g in zip(weights, gradients, strict=True)]
        finite = tf.stack([tf.reduce_all(tf.math.is_finite(s)) for s in scores])
        return total, tf.reduce_all(finite), scores


def _scaled(model: keras.Model, passing: list[keras.layers.Layer]) -> _Scaled | None:
    """Return what R is homogeneous in; `None` if the graph does not show that it is."""
    if not is_graph(model):
        return None
    nodes, ends = graph_with_outputs(model)
    tokens = {p for n in nodes if isinstance(n.layer, L.Embedding) for p in n.parents}
    sources, variables, numbers = set(), set(), []
    for i, node in enumerate(nodes):
        layer = node.layer
        if not node.parents:
            if i not in tokens:
                sources.add(id(getattr(layer, "output", None)))
        elif isinstance(layer, L.Embedding):
            if any(nodes[p].parents for p in node.parents):
                return None  # what it reads was computed
            variables.add(id(layer.embeddings))
        elif tokens & set(node.parents) or not _is_homogeneous(node, i in ends):
            return None
        for name in () if layer in passing else OFFSETS:
            offset = getattr(layer, name, None)
            if isinstance(offset, keras.Variable):
                variables.add(id(offset))
            elif has(layer, Trait.PREPARES) and offset is not None:
                numbers.append((layer, name))
            elif isinstance(layer, L.Layer) and offset is not None:
                return None  # a number of the user's own
    inputs = {i for i, v in enumerate(model.inputs) if id(v) in sources}
    if not all(is_float(model.inputs[i]) for i in inputs):
        return None
    return _Scaled(inputs, variables, numbers)


def _is_homogeneous(node, is_end):
    """Whether a call's output scales with its inputs and offsets."""
    layer = node.layer
    if not isinstance(layer, L.Layer):
        return type(layer).__name__ in OPERATIONS.get(len(node.parents), ())
    if isinstance(layer, L.Softmax):
        return is_end
    if not has(layer, Trait.HOMOGENEOUS) or getattr(layer, "threshold", 0):
        return False
    activation = getattr(layer, "activation", None) or keras.activations.linear
    return activation in LINEAR or (is_end and activation in SQUASHING)
