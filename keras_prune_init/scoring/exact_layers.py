"""Layers as scoring needs them: exact derivatives, and flows without bounds."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.layers.patching import listener, patched, subsampled
from keras_prune_init.layers.types import Trait, has
from keras_prune_init.layers.walk import flatten
from keras_prune_init.scoring.batch_norm import batch_norm, group_norm

L = keras.layers

# What an output layer may end in, and a flow through it has no gradient in.
SQUASHING = (
    *(keras.activations.softmax, keras.activations.sigmoid),
    *(keras.activations.tanh, keras.activations.hard_sigmoid),
)


def scoring_layers(model: keras.Model, mode: str | None, twice: bool = False):
    """Open a scope in which layers are differentiable exactly, also `twice`.

    Batch normalization uses statistics of the batch (mode `"train"`) or running ones
    (`"eval"`), and updates nothing. `None`: it runs as it is, so that its own weights
    can be replaced too.
    """
    changes = []
    for layer in flatten(model):
        call = type(layer).call
        if call is keras.layers.BatchNormalization.call:
            if mode is None:
                continue
            changes.append((layer, "call", _batch_norm(layer, mode, twice)))
        elif call is keras.layers.GroupNormalization.call:
            changes.append((layer, "call", _group_norm(layer, twice)))
        elif type(layer) is L.Conv2D and (sliced := subsampled(layer)):
            changes.append((layer, "call", sliced))
    return patched(changes)


class Boundary(NamedTuple):
    """The layers at both ends of a model."""

    first: list[keras.layers.Layer]  # `Rescaling` and `Normalization` of the inputs
    last: list[keras.layers.Layer]  # those whose outputs are the model's


def unbounded(model: keras.Model, boundary: Boundary):
    """Open a scope in which a flow can grow through the network without bounds.

    Output layers do not squash, and ReLUs have no maximum. Layers that prepare inputs
    pass them on, because ReLUs would stop negative inputs.
    """
    changes = [(layer, "call", _passing(layer)) for layer in boundary.first]
    for layer in boundary.last:
        if isinstance(layer, L.Softmax):
            changes.append((layer, "call", lambda inputs, mask=None: inputs))
        elif getattr(layer, "activation", None) in SQUASHING:
            changes.append((layer, "activation", keras.activations.linear))
    for layer in flatten(model):
        if isinstance(layer, L.ReLU) and layer.max_value is not None:
            changes.append((layer, "max_value", None))
        elif getattr(layer, "activation", None) is keras.activations.relu6:
            changes.append((layer, "activation", keras.activations.relu))
    return patched(changes)


def _passing(layer):
    return lambda inputs: keras.ops.cast(inputs, layer.compute_dtype)


def boundary(model: keras.Model, inputs: Any) -> Boundary:
    """Find the first and last layers, also within blocks, by running on inputs.

    Layers that only reshape or drop their inputs are skipped.
    """
    calls = []

    def hear(layer, args, kwargs, outputs):
        # The tensors are kept, or another could get the id of one.
        calls.append((layer, keras.tree.flatten(args), keras.tree.flatten(outputs)))

    listening = [listener(layer, hear) for layer in flatten(model)]
    with patched(listening), keras.StatelessScope():
        outputs = keras.tree.flatten(model(inputs, training=False))
    ends, first, last = {id(v) for v in outputs}, [], []
    # By value, as layers cast what comes in to their own dtype.
    starts = keras.tree.flatten(inputs)
    for layer, given, made in calls:
        known = has(layer, Trait.PREPARES | Trait.SAME)
        tensors = [v for v in given if isinstance(v, tf.Tensor)]
        if known and any(_is_among(v, starts) for v in tensors):
            starts += made
            if has(layer, Trait.PREPARES, subclasses=False):
                first.append(layer)
    # A block gives what the last layer in it made.
    for layer, given, made in reversed(calls):
        if ends & {id(v) for v in made}:
            last.append(layer)
            if has(layer, Trait.SAME):
                ends |= {id(v) for v in given}
            elif has(layer, Trait.REPEATS):
                last.append(layer.layer)
    return Boundary(first, last)


def _is_among(value, others):
    same = (v for v in others if isinstance(v, tf.Tensor) and v.shape == value.shape)
    return any(np.array_equal(value, v) for v in same)


def _batch_norm(layer, mode, twice):
    """Return the layer's forward pass in one mode, whatever `training` says."""
    plain = layer.call

    def call(inputs, training=None, mask=None):
        if mask is not None:
            return plain(inputs, training=mode == "train", mask=mask)
        if mode == "train":
            factors = _affine(layer, inputs)
            return batch_norm(inputs, *factors, layer.epsilon, layer.axis, twice)
        with tf.init_scope():  # once, not in every run of a traced function
            gamma, beta = _affine(layer, inputs)
            variance = _value(layer.moving_variance, inputs)
            factor = gamma * tf.math.rsqrt(variance + layer.epsilon)
            offset = beta - _value(layer.moving_mean, inputs) * factor
            shape = [1] * len(inputs.shape)
            shape[layer.axis] = inputs.shape[layer.axis]
            factor, offset = (tf.reshape(v, shape) for v in (factor, offset))
        return inputs * factor + offset

    return call


def _group_norm(layer, twice):
    """Return the layer's forward pass, with its exact second derivative."""

    def call(inputs):
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        options = layer.epsilon, layer.groups, layer.axis, twice
        outputs = group_norm(x, *_affine(layer, x), *options)
        return tf.cast(outputs, layer.compute_dtype)

    return call


def _affine(layer, inputs):
    """Return factor and offset of a normalization, a vector each."""
    one = tf.ones(inputs.shape[layer.axis], inputs.dtype)
    gamma = _value(layer.gamma, inputs) if layer.scale else one
    return gamma, _value(layer.beta, inputs) if layer.center else 0 * one


def _value(variable, inputs):
    return tf.cast(tf.convert_to_tensor(variable.value), inputs.dtype)
