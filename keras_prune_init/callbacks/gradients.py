"""Gradients with respect to effective kernels, also where a mask is 0."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.patching import patched
from keras_prune_init.scoring.objective import loss_of


class DenseGradients:
    """The gradient of what `fit` trains, for `kernel * mask * scale`.

    Args:
        model: A compiled model.
        kernels: The kernels with masks whose gradients are wanted.
    """

    def __init__(self, model: keras.Model, kernels: Sequence[Kernel]):
        self.model, self.kernels = model, list(kernels)
        self._local = threading.local()  # as every replica runs in a thread of its own
        self._run = self._on_all
        if not model.run_eagerly:
            self._run = tf.function(
                self._on_all, autograph=False, reduce_retracing=True
            )

    def __call__(self, data: Any) -> list[np.ndarray]:
        """Return the gradients of one batch, summed over the replicas.

        The model, its metrics and its statistics stay as they are.

        Args:
            data: What the iterator of `fit` yields: one batch, for all replicas.
        """
        return [gradient.numpy() for gradient in self._run(data)]

    def _on_all(self, data):
        strategy = self.model.distribute_strategy
        wrappers = {id(k.wrapper): k.wrapper for k in self.kernels}.values()
        with patched((w, "masked_kernel", self._weights_of(w)) for w in wrappers):
            parts = strategy.run(self._on_replica, args=(data,))
        return [strategy.reduce("SUM", part, axis=None) for part in parts]

    def _weights_of(self, wrapper):
        plain = wrapper.masked_kernel

        def masked_kernel(name):
            weights = self._local.weights
            key = id(wrapper), name
            return weights[key] if key in weights else plain(name)

        return masked_kernel

    def _on_replica(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
            keras.tree.map_structure(_or_none, data)
        )
        keys = [(id(k.wrapper), k.name) for k in self.kernels]
        self._local.weights = {}
        weights = [k.wrapper.masked_kernel(k.name) for k in self.kernels]
        self._local.weights = dict(zip(keys, weights, strict=True))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            with keras.StatelessScope(collect_losses=True):
                outputs = self.model(x, training=True)
                loss = loss_of(self.model, x, y, outputs, sample_weight)
                loss = self.model.optimizer.scale_loss(loss)  # of float16
        self._local.weights = {}
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in gradients]  # an Embedding has slices


def _or_none(value):
    """What Keras's data sets have in place of `None`."""
    return None if isinstance(value, tf.experimental.Optional) else value
