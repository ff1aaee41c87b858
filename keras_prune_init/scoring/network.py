"""The gradients that saliency methods use.

A `Network` runs the given model itself, with other tensors in place of the kernels
(`keras.StatelessScope`). So nothing is ever assigned: weights, batch statistics, seeds
and optimizer stay exactly as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import keras
import tensorflow as tf
from tqdm.auto import tqdm

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
# Variables of a model, and what stands in place of their values.
Values = list[tuple[keras.Variable, Any]]


class Network:
    """A model as a function of its kernels, on fixed batches of data.

    `prune_at_init` and `score` make it and pass it to the functions of a `Method`.

    Args:
        model: A built model; it is only read.
        kernels: The kernels to differentiate with respect to. Each has a `path`.
        batches: List of `(x, y, sample_weight)`, tensors with the batch axis first.
            Empty for methods that need no data.
        loss: The objective that `gradients` and `hessian_gradient` differentiate.
        iterations: How often the method will ask for the same quantity.
        seed: The seed for methods that draw random numbers.
        quiet: Whether `progress` shows nothing.

    Attributes:
        weights: The kernel values, a list of tensors in the order of `kernels`.
        dtype: The dtype of the computation, `"float32"` or `"float64"`.
        seed: The seed; methods that draw random numbers start from it.
        others: Pairs of a variable that is no kernel and what stands in its place.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> class Gradients(kpi.DataMethod):
    ...     def scores(self, network, weights):
    ...         print([k.path for k in network.kernels], len(network.batches))
    ...         return [abs(g) for g in network.gradients(weights, self.batch_norm)]
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> scores = kpi.score(model, (x, y), Gradients())
    ['dense1/kernel', 'logits/kernel'] 1
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: Sequence[Kernel],
        batches: Sequence[tuple] = (),
        loss: Objective | None = None,
        iterations: int = 1,
        seed: int = 0,
        quiet: bool = True,
    ):
        self.model = model
        self.kernels = list(kernels)
        self.batches = list(batches)
        self.loss = cast(Objective, loss)  # `None` for methods that need no data
        self.seed = seed
        self._quiet = quiet
        self._calls = iterations * max(len(self.batches), 1)
        self._made: dict = {}
        self.others: Values = []
        self.dtype = scoring_dtype(kernels)
        if any(k.layer.compute_dtype != self.dtype for k in self.kernels):
            self.recast(self.dtype)  # half floats would lose small gradients
        self.weights: Tensors = [
            tf.convert_to_tensor(k.variable.value) for k in self.kernels
        ]

    def recast(self, dtype: str) -> None:
        """Continue with a copy of the model in `"float32"` or `"float64"`."""
        self.model = rebuild.copy_model(self.model, dtype)
        layers = {k.address: k.layer for k in find_kernels(self.model)}
        # The paths stay those of the given model.
        self.kernels = [k._replace(layer=layers[k.address]) for k in self.kernels]
        self.dtype = dtype

    def set_others(self, values: Values) -> None:
        """Run with other values of variables that are no kernels, from now on."""
        kernels = {id(k.variable) for k in self.kernels}
        self.others = [(v, value) for v, value in values if id(v) not in kernels]
        self._made.clear()  # it was made with those before

    def value_of(self, variable: keras.Variable) -> Any:
        """Return the value that a variable that is no kernel has in this network."""
        found = (value for v, value in self.others if v is variable)
        return next(found, variable.value)

    def map_others(self, function: Callable) -> list[tuple]:
        """Return pairs of variable and `function(value)`, for `forward`.

        They are those of the float variables that are no kernels.
        """
        kernels = {id(k.variable) for k in self.kernels}
        return [
            (v, function(v.value))
            for v in self.model.weights
            if id(v) not in kernels and is_float(v)
        ]

    def forward(self, x, weights: Tensors, others: Sequence[tuple] = ()):
        """Run the model in inference mode and return its outputs.

        Args:
            x: Inputs.
            weights: Kernel values, a list of tensors in the order of `kernels`.
            others: Pairs of another variable of the model and its value.
        """
        with self.scope(weights, others):
            return self.model(x, training=False)

    def scope(self, weights: Tensors, others: Sequence[tuple] = ()):
        """Open a scope in which the model has other weights, as in `forward`."""
        variables = [k.variable for k in self.kernels]
        mapping = [*zip(variables, weights, strict=True), *self.others, *others]
        return keras.StatelessScope(mapping, collect_losses=True)

    def gradients(
        self, weights: Tensors, batch_norm: str = "train", temperature: float = 1.0
    ) -> Tensors:
        """Return the gradient of the objective, summed over the batches.

        A batch with fewer samples than others counts less.

        Args:
            weights: Kernel values, a list of tensors in the order of `kernels`.
            batch_norm: `"train"` normalizes with the statistics of the batch, `"eval"`
                with the running ones.
            temperature: Number that logits are divided by before the loss.

        Returns:
            A list of tensors with the shapes of the kernels, in the same order.
        """

        def gradients(weights, batch):
            return self.batch_gradients(weights, batch, batch_norm, temperature)

        return self.summed(("g", batch_norm, temperature), gradients, weights)

    def hessian_gradient(
        self, weights: Tensors, batch_norm: str = "train", temperature: float = 1.0
    ) -> Tensors:
        """Return the product H g of Hessian and gradient, both summed over the batches.

        It is exact, because the objective is differentiated twice.

        Args:
            weights: Kernel values, a list of tensors in the order of `kernels`.
            batch_norm: `"train"` normalizes with the statistics of the batch, `"eval"`
                with the running ones.
            temperature: Number that logits are divided by before the loss.

        Returns:
            A list of tensors with the shapes of the kernels, in the same order.
        """

        vectors = None  # one batch: its own gradient, without a second pass
        if len(self.batches) > 1:
            vectors = self.gradients(weights, batch_norm, temperature)
        return self.hessian_vector(weights, vectors, batch_norm, temperature)

    def hessian_vector(
        self,
        weights: Tensors,
        vectors: Tensors | None,
        batch_norm: str = "train",
        temperature: float = 1.0,
        times: int = 1,
    ) -> Tensors:
        """Return the product H v of the Hessian, summed over the batches, and vectors.

        It is exact, because the objective is differentiated twice.

        Args:
            weights: Kernel values, a list of tensors in the order of `kernels`.
            vectors: v, a list of tensors with the shapes of the kernels. `None`: the
                gradient of each batch.
            batch_norm: `"train"` normalizes with the statistics of the batch, `"eval"`
                with the running ones.
            temperature: Number that logits are divided by before the loss.
            times: How many products the method asks for in each iteration. Many are
                worth a trace, which serves them all.

        Returns:
            A list of tensors with the shapes of the kernels, in the same order.
        """

        def product(weights, batch, vectors):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                gradients = self.batch_gradients(
                    weights, batch, batch_norm, temperature, twice=True
                )
            vectors = gradients if vectors is None else vectors
            found = tape.gradient(gradients, weights, output_gradients=vectors)
            return zeros_for_none(found, weights)

        key = "hv", batch_norm, temperature
        return self.summed(key, product, weights, vectors, times=times)

    def progress(self, items: Sequence, what: str) -> Iterable:
        """Return the items one by one, with a progress bar if that takes long."""
        return tqdm(items, what, delay=3, disable=self._quiet, leave=False)

    def once(self, key, make: Callable[[], Any]) -> Any:
        """Return what `make()` returned for this key; it is called once for each."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def graph_if_it_pays(self, function: Callable, times: int = 1) -> Callable:
        """Return a function of tensors as a `tf.function` if it runs often enough.

        It runs `times` times for each batch and iteration.
        """
        if self._calls * times <= EAGER_CALLS:
            return function
        # Keras runs layers without AutoGraph too, and its analysis takes a second.
        return tf.function(function, reduce_retracing=True, autograph=False)

    def batch_gradients(
        self,
        weights: Tensors,
        batch: tuple,
        batch_norm: str,
        temperature: float = 1.0,
        twice: bool = False,
    ) -> Tensors:
        """Return the gradient of the objective on one batch, as `gradients` does.

        `twice` says whether it will be differentiated again.
        """
        x, y, sample_weight = batch
        with tf.GradientTape() as tape:
            tape.watch(weights)
            # The loss, too: it may read weights, and run layers again.
            with scoring_layers(self.model, batch_norm, twice), self.scope(weights):
                outputs = self.model(x, training=False)
                loss = self.loss(self.model, x, y, outputs, sample_weight, temperature)
        return zeros_for_none(tape.gradient(loss, weights), weights)

    def portion(self, batch: tuple):
        """Return how much a batch counts, 1 on average: its loss is a mean of samples.

        A number, or a tensor in a graph.
        """
        sizes = [_rows(x).shape[0] for x, *_ in self.batches]
        if len(set(sizes)) < 2 or self.loss.is_sum:
            return 1.0
        rows = tf.cast(tf.shape(_rows(batch[0]))[0], self.dtype)
        return rows * (len(sizes) / sum(sizes))

    def summed(
        self,
        key: tuple,
        function: Callable,
        weights: Tensors,
        *args,
        times: int = 1,
        means: bool = True,
    ) -> Tensors:
        """Return the sum of `function(weights, batch, *args)` over the batches.

        Args:
            key: A name for `once`, the mode of batch normalization and a temperature.
            function: It returns a list of tensors, and may be traced.
            weights: Kernel values, a list of tensors in the order of `kernels`.
            *args: What else the function is called with, tensors.
            times: As in `graph_if_it_pays`.
            means: Whether the results are means over the samples of a batch, so that a
                batch of fewer samples counts less.
        """

        def counted(weights, batch, *args):
            portion, found = self.portion(batch), function(weights, batch, *args)
            return found if isinstance(portion, float) else [portion * v for v in found]

        each = counted if means else function
        if key[-1] != 1.0 and self.loss is not None:
            _ = self.loss.kinds  # what a temperature needs, before anything is traced
        strategy, batches = self.model.distribute_strategy, self.batches
        if strategy.num_replicas_in_sync > 1:
            step = self.once(key, lambda: replicas.summed(strategy, each))
            batches = self.once("shares", lambda: [*replicas.shares(strategy, batches)])
        else:
            step = self.once(key, lambda: self.graph_if_it_pays(each, times))
        total: Tensors = []
        for batch in batches:
            part = step(weights, batch, *args)
            if total:
                part = [a + b for a, b in zip(total, part, strict=True)]
            total = part
        return total


def _rows(x):
    return keras.tree.flatten(x)[0]


def zeros_for_none(gradients, weights) -> Tensors:
    """Return gradients, with 0 in place of `None` (no gradient reaches a kernel)."""
    return [
        tf.zeros_like(w) if g is None else tf.convert_to_tensor(g)
        for g, w in zip(gradients, weights, strict=True)
    ]
