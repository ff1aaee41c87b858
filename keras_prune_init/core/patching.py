"""Layers that run in another way for a while, on the user's own model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_prune_init.core.batch_norm import batch_norm
from keras_prune_init.core.selection import flatten, output_layers


@contextlib.contextmanager
def patched(attributes: Iterable[tuple[keras.layers.Layer, str, Any]]):
    """Give layers other attributes (`call`, `activation`) for a while.

    Past Keras's attribute tracking, so that not a trace is left.
    """
    undo = []
    try:
        for layer, name, value in attributes:
            undo.append((layer, name, vars(layer).get(name, layer)))
            vars(layer)[name] = value
        yield
    finally:
        for layer, name, value in reversed(undo):
            if value is layer:  # the mark for: found on the class
                del vars(layer)[name]
            else:
                vars(layer)[name] = value


def is_strided_pointwise(layer: keras.layers.Layer) -> bool:
    """Whether the layer is a 1x1 convolution with a stride."""
    return (
        isinstance(layer, keras.layers.Conv2D)
        and set(layer.kernel_size) == {1}
        and set(layer.strides) != {1}
        and layer.data_format == "channels_last"
    )


def subsampled(layer: keras.layers.Conv2D) -> Callable:
    """The `call` of such a layer by slicing its input, which is the same function.

    TensorFlow 2.21 on oneDNN corrupts the heap in the gradient of a strided 1x1
    convolution of few channels: with 4 to 8 on 28x28, a crash in 30 calls.
    """
    down, right = layer.strides
    plain = type(layer).call

    def call(inputs, *args, **kwargs):
        with patched([(layer, "strides", (1, 1))]):
            return plain(layer, inputs[:, ::down, ::right], *args, **kwargs)

    return call


def scoring_layers(model: keras.Model, mode: str, twice: bool = False):
    """A scope in which layers are differentiable exactly, also `twice`.

    Batch normalization uses statistics of the batch (mode `"train"`) or running ones
    (`"eval"`), and updates nothing.
    """
    batch_norm = keras.layers.BatchNormalization
    changes = []
    for layer in flatten(model):
        if isinstance(layer, batch_norm) and type(layer).call is batch_norm.call:
            changes.append((layer, "call", _batch_norm(layer, mode, twice)))
        elif isinstance(layer, keras.layers.GroupNormalization):
            changes.append((layer, "call", _with_exact_moments(layer.call)))
        elif is_strided_pointwise(layer) and type(layer) is keras.layers.Conv2D:
            changes.append((layer, "call", subsampled(layer)))
    return patched(changes)


def _with_exact_moments(plain):
    def moments(x, axes, keepdims=False):
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
        return mean if keepdims else tf.squeeze(mean, axes), variance

    def call(*args, **kwargs):
        with patched([(tf.nn, "moments", moments)]):
            return plain(*args, **kwargs)

    return call


def unbounded(model: keras.Model):
    """A scope without what keeps a flow from growing through the network.

    Output layers have no softmax or sigmoid, ReLUs no maximum.
    """
    squash = (keras.activations.softmax, keras.activations.sigmoid)
    changes = []
    for layer in output_layers(model):
        if isinstance(layer, keras.layers.Softmax):
            changes.append((layer, "call", lambda inputs, mask=None: inputs))
        elif getattr(layer, "activation", None) in squash:
            changes.append((layer, "activation", keras.activations.linear))
    for layer in flatten(model):
        if isinstance(layer, keras.layers.ReLU) and layer.max_value is not None:
            changes.append((layer, "max_value", None))
        elif getattr(layer, "activation", None) is keras.activations.relu6:
            changes.append((layer, "activation", keras.activations.relu))
    return patched(changes)


def _batch_norm(layer, mode, twice):
    """The layer's forward pass in one of its two modes, whatever `training` says."""
    plain = layer.call

    def call(inputs, training=None, mask=None):
        if mask is not None:
            return plain(inputs, training=mode == "train", mask=mask)
        channels = inputs.shape[layer.axis]

        def value(variable):
            return tf.cast(tf.convert_to_tensor(variable.value), inputs.dtype)

        def affine():
            one = tf.ones(channels, inputs.dtype)
            gamma = value(layer.gamma) if layer.scale else one
            return gamma, value(layer.beta) if layer.center else 0 * one

        if mode == "train":
            return batch_norm(inputs, *affine(), layer.epsilon, layer.axis, twice)
        with tf.init_scope():  # once, not in every run of a traced function
            gamma, beta = affine()
            variance = value(layer.moving_variance)
            factor = gamma * tf.math.rsqrt(variance + layer.epsilon)
            offset = beta - value(layer.moving_mean) * factor
            shape = [1] * len(inputs.shape)
            shape[layer.axis] = channels
            factor, offset = (tf.reshape(v, shape) for v in (factor, offset))
        return inputs * factor + offset

    return call
