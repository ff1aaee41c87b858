"""What single layers do to channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init.graph.wiring import Node
from keras_prune_init.layers.kernels import Kernel, is_float

L = keras.layers

CONVOLUTIONS = (L.Conv1D, L.Conv2D, L.Conv3D)
MERGES = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Multiply": np.multiply,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
}


class ChannelMap(NamedTuple):
    """A dense or convolution layer, as a map from channels to channels."""

    record: Kernel
    # Of the forward pass, of shape (positions, inputs, outputs), or (positions,
    # channels, multiplier) for a depthwise kernel.
    weights: np.ndarray
    kept: np.ndarray  # which of the weights pruning kept
    # Whether a constant input makes a constant output. Padding can break this at the
    # border.
    even: bool

    @property
    def layer(self) -> keras.layers.Layer:
        """The layer, without a wrapper around it."""
        return self.record.layer


def channel_map(
    node: Node, record: Kernel | None, inputs: int, first: bool
) -> ChannelMap | None:
    layer = node.layer
    dense = type(layer) is L.Dense and (not first or len(node.given[0]) == 2)
    depthwise = type(layer) is L.DepthwiseConv2D
    plain = type(layer) in CONVOLUTIONS and layer.groups == 1
    if not (dense or plain or depthwise) or not as_model(layer, first):
        return None
    if record is None or not is_float(record.variable) or record.shape[-2] != inputs:
        return None
    weights, kept = record.effective(), record.mask
    kept = np.ones(weights.shape, bool) if kept is None else kept
    shape = (-1, *weights.shape[-2:])
    even = dense or layer.padding == "valid" or math.prod(layer.kernel_size) == 1
    return ChannelMap(record, weights.reshape(shape), kept.reshape(shape), even)


def is_depthwise(layer):
    return isinstance(layer, L.DepthwiseConv2D)


def is_first(nodes):
    """Whether images in this model have their channels first."""
    return any(
        getattr(node.layer, "data_format", None) == "channels_first"
        and len(next(iter(node.made), ())) > 2
        for node in nodes
    )


def as_model(layer, first):
    """Whether a layer and the model agree on the axis of channels in images."""
    if first and isinstance(layer, (L.Cropping1D, L.UpSampling1D)):
        return False  # they know one order only
    found = getattr(layer, "data_format", None)
    return found is None or (found == "channels_first") == first


def channel_axis(shape, first):
    """Return the axis of channels in a tensor."""
    return 1 if first and len(shape) > 2 else len(shape) - 1


def is_channel_axis(axis, node, first):
    """Whether an `axis` argument names the axis of channels."""
    shape = node.made[0]
    return axis % len(shape) == channel_axis(shape, first)


def width(node, first):
    """Return the number of channels of a node's output, 0 if it is not known."""
    shape = node.made[0] if node.made else ()
    return (shape[channel_axis(shape, first)] or 0) if len(shape) > 1 else 0


def is_vector(node):
    """Whether a Reshape turns vectors into images of one pixel, or back."""
    return all(
        math.prod(n or 0 for n in s[1:-1]) == 1 for s in (node.given[0], node.made[0])
    )


def by_number(layer):
    """Whether the activation is a function of single numbers, unlike softmax."""
    if isinstance(layer, L.Rescaling):
        return np.ndim(layer.scale) == np.ndim(layer.offset) == 0
    activation = getattr(layer, "activation", None)
    softmax = keras.activations.softmax, keras.activations.log_softmax
    return activation not in softmax


def applied(function: Callable | None, constant):
    if function is None:
        return constant
    known = ~np.isnan(constant)
    result = np.full(len(constant), np.nan)
    if known.any():
        values = keras.ops.convert_to_tensor(constant[known][None], "float32")
        result[known] = keras.ops.convert_to_numpy(function(values))[0]
    return result


def normalized(layer, constant):
    def value(variable, otherwise):
        return otherwise if variable is None else variable.numpy().astype("float64")

    scale = value(layer.gamma if layer.scale else None, 1)
    offset = value(layer.beta if layer.center else None, 0)
    mean, variance = value(layer.moving_mean, 0), value(layer.moving_variance, 1)
    return (constant - mean) / np.sqrt(variance + layer.epsilon) * scale + offset


def flattened(node, groups, constant, first):
    shape = node.given[0][1:]
    if None in shape or not as_model(node.operation, first):
        return None
    times = math.prod(shape) // len(groups)
    return np.tile(groups, times), np.tile(constant, times)
