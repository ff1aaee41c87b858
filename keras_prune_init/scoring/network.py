"""The gradients that saliency methods are made of.

A `Network` is a Keras model seen as a function of its kernels. It runs the given
model itself, with other tensors in place of the kernels (`keras.StatelessScope`), so
nothing is ever assigned: weights, batch statistics, seeds and optimizer stay as they
are, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_prune_init.distribute import replicas
from keras_prune_init.layers.kernels import (
    Kernel,
    find_kernels,
    is_float,
    scoring_dtype,
)
from keras_prune_init.scoring.exact_layers import scoring_layers
from keras_prune_init.scoring.objective import Objective
from keras_prune_init.surgery import rebuild

# Tracing a network takes as long as about three eager passes on a batch.
EAGER_CALLS = 2

Tensors = list[tf.Tensor]


class Network:
    """A model as a function of its kernels, on fixed batches of data.

    Args:
        model: A built model; it is only read.
        kernels: The kernels to differentiate with respect to.
        batches: List of `(x, y, sample_weight)`, tensors with the batch axis first.
            Empty for methods that need no data.
        loss: What `gradients` and `hessian_gradient` differentiate.
        iterations: How often the method will ask for the same quantity.
        seed: For methods that draw random numbers.

    Attributes:
        weights: The kernel values, a list of tensors in the order of `kernels`.
        dtype: What the network computes in.
        seed: The `seed` that was given; methods that draw random numbers start from it.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: Sequence[Kernel],
        batches: Sequence[tuple] = (),
        loss: Objective | None = None,
        iterations: int = 1,
        seed: int = 0,
    ):
        self.model = model
        self.kernels = list(kernels)
        self.batches = list(batches)
        self.loss = loss
        self.seed = seed
        self._calls = iterations * max(len(self.batches), 1)
        self._made: dict = {}
        self.dtype = scoring_dtype(kernels)
        if any(k.layer.compute_dtype != self.dtype for k in self.kernels):
            self.recast(self.dtype)  # half floats would lose small gradients
        self.weights: Tensors = [
            tf.convert_to_tensor(k.variable.value) for k in self.kernels
        ]

    def recast(self, dtype: str) -> None:
        """Go on with a copy of the model in another dtype."""
        keys = [(k.address, k.name) for k in self.kernels]
        self.model = rebuild.copy_model(self.model, dtype)
        found = {(k.address, k.name): k for k in find_kernels(self.model)}
        # The paths stay those of the given model.
        self.kernels = [
            k._replace(layer=found[key].layer)
            for k, key in zip(self.kernels, keys, strict=True)
        ]
        self.dtype = dtype

    def map_others(self, function: Callable) -> list[tuple]:
        """Pairs of each float variable that is no kernel, and `function` of it."""
        kernels = {id(k.variable) for k in self.kernels}
        return [
            (v, function(v.value))
            for v in self.model.weights
            if id(v) not in kernels and is_float(v)
        ]

    def forward(self, x, weights: Tensors, others: Sequence[tuple] = ()):
        """Outputs for inputs `x` with `weights` as kernels, in inference mode.

        `others` are pairs of another variable of the model and its value.
        """
        with self._scope(weights, others):
            return self.model(x, training=False)

    def _scope(self, weights, others=()):
        variables = [k.variable for k in self.kernels]
        mapping = [*zip(variables, weights, strict=True), *others]
        return keras.StatelessScope(mapping, collect_losses=True)

    def gradients(
        self, weights: Tensors, batch_norm: str = "train", temperature: float = 1.0
    ) -> Tensors:
        """Gradient of the objective of each batch, summed over the batches.

        Args:
            weights: Kernel values, as `Network.weights`.
            batch_norm: `"train"` normalizes with the statistics of the batch,
                `"eval"` with the running ones.
            temperature: What logits are divided by before the loss.

        Returns:
            Kernel-shaped tensors, in the order of `weights`.
        """

        def gradients(weights, batch):
            return self._loss_gradients(weights, batch, batch_norm, temperature)

        return self._summed(("g", batch_norm, temperature), gradients, weights)

    def hessian_gradient(
        self, weights: Tensors, batch_norm: str = "train", temperature: float = 1.0
    ) -> Tensors:
        """The product H g of Hessian and gradient, both summed over the batches.

        Exact, by differentiating twice. Arguments and result as `gradients`.
        """

        def product(weights, batch, total):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                gradients = self._loss_gradients(
                    weights, batch, batch_norm, temperature, twice=True
                )
                if total is None:  # one batch: its own gradient, without a second pass
                    total = [tf.stop_gradient(g) for g in gradients]
                flow = _inner(gradients, total)
            return zeros_for_none(tape.gradient(flow, weights), weights)

        total = None
        if len(self.batches) > 1:
            total = self.gradients(weights, batch_norm, temperature)
        return self._summed(("hg", batch_norm, temperature), product, weights, total)

    def once(self, key, make: Callable[[], Any]) -> Any:
        """What `make` returned when it was first asked for under this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def graph_if_it_pays(self, function: Callable) -> Callable:
        """`function` as a `tf.function`, or as it is if it will run too rarely."""
        if self._calls <= EAGER_CALLS:
            return function
        # Keras runs layers without AutoGraph too, and its analysis takes a second.
        return tf.function(function, reduce_retracing=True, autograph=False)

    def _loss_gradients(self, weights, batch, batch_norm, temperature, twice=False):
        x, y, sample_weight = batch
        with tf.GradientTape() as tape:
            tape.watch(weights)
            # The loss, too: it may read weights, and run layers again.
            with scoring_layers(self.model, batch_norm, twice), self._scope(weights):
                outputs = self.model(x, training=False)
                loss = self.loss(self.model, x, y, outputs, sample_weight, temperature)
        return zeros_for_none(tape.gradient(loss, weights), weights)

    def _summed(self, key, function, weights, *args) -> Tensors:
        """The sum of `function(weights, batch, *args)` over the batches."""
        if key[-1] != 1.0 and self.loss is not None:
            _ = self.loss.kinds  # what a temperature needs, before anything is traced
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync > 1:
            step = self.once(key, lambda: replicas.summed(strategy, function))
            batches = self.once(
                "shares", lambda: [*replicas.shares(strategy, self.batches)]
            )
        else:
            step = self.once(key, lambda: self.graph_if_it_pays(function))
            batches = self.batches
        total: Tensors = []
        for batch in batches:
            part = step(weights, batch, *args)
            if total:
                part = [a + b for a, b in zip(total, part, strict=True)]
            total = part
        return total


def _inner(a, b):
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(a, b, strict=True)])


def zeros_for_none(gradients, weights) -> Tensors:
    """The gradients, 0 where none reaches a kernel."""
    return [
        tf.zeros_like(w) if g is None else tf.convert_to_tensor(g)
        for g, w in zip(gradients, weights, strict=True)
    ]
