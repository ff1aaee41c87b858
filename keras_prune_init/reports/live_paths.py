"""Which kept weights still lie on a path from input to output.

The model itself is run on an input of ones, with kernels of 0 and 1, and is
differentiated. For this run everything that could hide a path is simplified:
normalization and activations pass their input through, a maximum becomes a sum or mean,
and biases are 0. A weight is in use if its input and the gradient at its output are not
0. After each kernel, values and gradients are set back to 0 or 1, so that they do not
vanish in deep networks.
"""

from __future__ import annotations

import collections
import math

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.graph.inputs import ones_input
from keras_prune_init.layers.kernel_paths import kernel_names, owner
from keras_prune_init.layers.kernels import Kernel, find_kernels, is_float
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.patching import patched, subsampled
from keras_prune_init.layers.types import MEANS, Trait, has, type_of
from keras_prune_init.layers.walk import flatten, walk

L = keras.layers

# In these layers kernels also multiply tensors that are no outputs of layers.
WHOLE = Trait.LOOP | Trait.ATTENTION


def used_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Return `{kernel path: bool array}` of the weights that can change the output.

    They are kept and lie on a path from an input to an output. If this package does not
    know an operation, it assumes a path.
    """
    kernels = find_kernels(model)
    probes = {
        k.path: tf.cast(k.mask, model.compute_dtype) for k in kernels if k.wrapper
    }
    within = collections.defaultdict(list)
    for kernel in kernels:
        within[id(kernel.layer)].append(kernel)
    mapping = [(v, tf.abs(v.value)) for v in model.weights if is_float(v)]
    with tf.GradientTape() as tape:
        tape.watch(probes)
        leaves = [leaf for _, leaf in walk(model)]
        patches = [p for leaf in leaves for p in _patches(leaf, within, probes)]
        with patched(patches), keras.StatelessScope(mapping):
            outputs = tf.nest.flatten(model(ones_input(model), training=False))
        # With equal weights, a sum of probabilities would be constant.
        total = tf.add_n([tf.reduce_sum(v * _ramp(v)) for v in outputs])
    zero = tf.UnconnectedGradients.ZERO
    gradients = tape.gradient(total, probes, unconnected_gradients=zero)
    return {
        path: ((probe != 0) & (tf.convert_to_tensor(gradients[path]) != 0)).numpy()
        for path, probe in probes.items()
    }


def _ramp(x):
    size = x.shape[-1] or 1
    return tf.cast(tf.linspace(1.0, 2.0, size), x.dtype)


def _patches(leaf, within, probes):
    inner = leaf.layer if isinstance(leaf, MaskedLayer) else leaf
    units: dict[keras.layers.Layer, list[Kernel]] = {}
    for kernel in within[id(inner)]:
        units.setdefault(kernel.runner(WHOLE), []).append(kernel)
    if inner is not leaf:  # without masks, which are in the probes
        yield leaf, "call", leaf.bare_call
    for unit, found in units.items():
        kernels = [(k.variable, probes.get(k.path)) for k in found]
        yield unit, "call", _kernel_call(unit, kernels)
        if callable(getattr(unit, "activation", None)) and not has(unit, WHOLE):
            yield unit, "activation", keras.activations.linear
    whole = {id(v) for u in units if has(u, WHOLE) for v in flatten(u)}
    for part in flatten(inner):
        if part not in units and id(part) not in whole:
            yield from _passing(part)


def _passing(layer):
    if has(layer, Trait.IN_PLACE):
        yield layer, "call", lambda inputs, *args, **kwargs: inputs
    elif has(layer, Trait.COMBINES):
        yield layer, "call", lambda inputs: sum(inputs[1:], inputs[0])
    elif mean := MEANS.get(type(layer)):
        config = {k: v for k, v in layer.get_config().items() if k != "name"}
        yield layer, "call", mean(**config).call


def _kernel_call(layer, kernels):
    """Return the layer's call with 0/1 kernels and no biases.

    Kernels are averaged, so that no gate saturates.
    """
    mapping = [(v, tf.zeros_like(v.value)) for v in _offsets(layer)]
    for kernel, probe in kernels:
        if probe is None:
            probe = tf.ones(kernel.shape, layer.compute_dtype)
        mapping.append((kernel, probe * kernel.shape[-1] / math.prod(kernel.shape)))

    def call(*args, **kwargs):
        with keras.StatelessScope(mapping):
            outputs = _run(layer, *args, **kwargs)
        return keras.tree.map_structure(_binary, outputs)

    return call


def _offsets(layer):
    """Yield the biases, whatever their names; they would hide missing inputs."""
    kind = type_of(layer)
    weights = [v for v in layer.weights if is_float(v)]
    if not (kind and kind.registered):
        return weights
    return [v for v in weights if "bias" in v.name or v.name == "b"]


def _run(layer, *args, **kwargs):
    if isinstance(layer, L.Embedding) and not kwargs.get("reverse"):
        # Any row may be looked up, not only that of token 1.
        tokens = tf.shape(args[0])
        row = tf.reduce_mean(tf.convert_to_tensor(layer.embeddings.value), 0)
        return tf.broadcast_to(row, tf.concat([tokens, tf.shape(row)], 0))
    if sliced := subsampled(layer):
        return sliced(*args, **kwargs)
    plain = type(layer).call
    if not has(layer, Trait.ATTENTION):
        return plain(layer, *args, **kwargs)
    # Queries and keys only weigh the values, and equal values hide that.
    names = ("query", "value", "key")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    outputs = plain(layer, *args, **kwargs)
    query_dense, key_dense = (owner(layer, name) for name in kernel_names(layer)[:2])
    query = query_dense(given["query"])
    key = given.get("key")
    key = key_dense(given["value"] if key is None else key)
    link = 1 + tf.reduce_mean(query) * tf.reduce_mean(key)
    return keras.tree.map_structure(lambda v: v * link, outputs)


@tf.custom_gradient
def _binary(x):
    def gradient(upstream):
        return tf.cast(upstream != 0, x.dtype)

    return tf.cast(x != 0, x.dtype), gradient
