"""The loss that data-driven methods differentiate: given, compiled, or inferred."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.core import selection

# What an output is, by the activation that made it.
LOGITS, SOFTMAX, SIGMOID, VALUES = "logits", "softmax", "sigmoid", "values"


class Part(NamedTuple):
    """The loss of one output: `function(y, output, sample_weight)`."""

    function: Callable
    kind: str
    weight: float = 1.0


class Loss:
    """Mean data loss of a batch over all outputs; regularization is no part of it.

    Args:
        parts: One `Part` (or `None`) an output.
        names: Keys of the outputs, for models and labels that are dicts.
    """

    def __init__(self, parts: list[Part | None], names: list[str]):
        self.parts = parts
        self.names = names

    def __call__(self, y, outputs, sample_weight=None, temperature: float = 1.0):
        total = 0.0
        labels, outputs = as_list(y, self.names), as_list(outputs, self.names)
        for part, label, output in zip(self.parts, labels, outputs, strict=True):
            if part is None:
                continue
            output = _tempered(output, part.kind, temperature)
            loss = tf.reduce_mean(part.function(label, output, sample_weight))
            total += part.weight * loss
        return total


class ComputeLoss:
    """The loss of a model class that defines `compute_loss` itself."""

    def __init__(self, model: keras.Model):
        self.model = model

    def __call__(self, y, outputs, sample_weight=None, temperature: float = 1.0):
        if temperature != 1.0:
            outputs = keras.tree.map_structure(lambda v: v / temperature, outputs)
        with keras.StatelessScope():  # metrics that the loss updates stay as they are
            return self.model.compute_loss(
                y=y, y_pred=outputs, sample_weight=sample_weight
            )


def as_list(value, names: list[str]) -> list:
    """Values of several outputs as a list, in the order of `names`."""
    if isinstance(value, dict):
        return [value[name] for name in names]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _tempered(outputs, kind, temperature):
    """Divide logits by a temperature, also those behind probabilities."""
    if temperature == 1.0 or kind == VALUES:
        return outputs
    if kind == LOGITS:
        return outputs / temperature
    # Keras clips probabilities so in its own cross-entropies.
    epsilon = keras.config.epsilon()
    outputs = tf.clip_by_value(outputs, epsilon, 1 - epsilon)
    if kind == SOFTMAX:
        return tf.nn.softmax(tf.math.log(outputs) / temperature)
    logits = tf.math.log(outputs) - tf.math.log(1 - outputs)
    return tf.sigmoid(logits / temperature)


def resolve(
    model: keras.Model, loss: Any, y: Any, shapes: Any, dtype: str = "float32"
) -> Loss | ComputeLoss:
    """The loss to differentiate.

    Args:
        model: The model to score.
        loss: A Keras loss, its name, a function `(y, outputs)`, or a list or dict of
            these by output. `None`: what the model was compiled with, else inferred
            from labels and last activation.
        y: One batch of labels, as numpy arrays.
        shapes: Shape of the model's output, or a list or dict of shapes.
        dtype: What the loss is computed in.

    Raises:
        ValueError: If the labels do not fit the outputs, or no loss can be inferred.
    """
    if isinstance(loss, (Loss, ComputeLoss)):
        return loss
    if loss is None and type(model).compute_loss is not keras.Model.compute_loss:
        return ComputeLoss(model)
    names = sorted(shapes) if isinstance(shapes, dict) else _output_names(model)
    single = isinstance(shapes, tuple)
    shapes = [shapes] if single else as_list(shapes, names)
    weights = [1.0] * len(shapes)
    if loss is None and model.loss is not None:
        loss = model.loss
        weights = model.get_compile_config().get("loss_weights") or weights
        weights = [weights] if single and np.isscalar(weights) else weights
    shared = loss is None or not isinstance(loss, (dict, list, tuple))
    losses = [loss] * len(shapes) if shared else as_list(loss, names)
    labels = as_list(y, names)
    if not len(losses) == len(labels) == len(shapes):
        raise ValueError(
            "Labels and losses must come one for each output of the model. Received: "
            f"{len(labels)} labels and {len(losses)} losses for {len(shapes)} outputs."
        )
    parts = []
    kinds = _output_kinds(model, len(shapes))
    for i, weight in enumerate(as_list(weights, names)):
        if losses[i] is None and not shared:
            parts.append(None)  # Keras trains such an output without a loss
        else:
            part = _part(losses[i], kinds[i], labels[i], shapes[i], dtype)
            parts.append(part._replace(weight=float(weight)))
    return Loss(parts, names)


def _output_names(model):
    return list(getattr(model, "output_names", ["output"]))


def _output_kinds(model, count):
    """What the output activations say; logits where that cannot be known."""
    layers = selection.output_layers(model)
    if len(layers) != count:
        return [LOGITS] * count
    return [_output_kind(layer) for layer in layers]


def _output_kind(layer):
    if isinstance(layer, keras.layers.Softmax):
        return SOFTMAX
    kinds = {keras.activations.softmax: SOFTMAX, keras.activations.sigmoid: SIGMOID}
    return kinds.get(getattr(layer, "activation", None), LOGITS)


def _part(loss, kind, y, shape, dtype) -> Part:
    y = np.asarray(y)
    classes = shape[-1]
    sparse = y.ndim == len(shape) - 1 or (y.shape[-1] == 1 and classes != 1)
    if loss is None:
        loss, kind = _inferred(kind, y, shape, sparse, dtype)
    else:
        loss = keras.losses.get(loss)
        if isinstance(loss, keras.losses.Loss):
            loss = _in_dtype(loss, dtype)
        kind = _kind_of(loss, kind)
    name = getattr(loss, "name", None) or getattr(loss, "__name__", "")
    if "crossentropy" in name and "binary" not in name:
        _check_labels(y, shape, "sparse" in name)
    if isinstance(loss, keras.losses.Loss):
        return Part(functools.partial(_keras_loss, loss), kind)

    def weighted(y, out, weight):
        values = loss(y, out)
        return values if weight is None else values * tf.cast(weight, values.dtype)

    return Part(weighted, kind)


def _keras_loss(loss, y, output, weight):
    value = loss(y, output, sample_weight=weight)
    # Keras divides means by the number of replicas, which would add up the gradients of
    # parts of one batch; here every replica has a batch.
    if loss.reduction in (None, "none", "sum"):
        return value
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return value * tf.cast(replicas, value.dtype)


def _inferred(kind, y, shape, sparse, dtype):
    integers = np.issubdtype(y.dtype, np.integer)
    zero_one = bool(np.isin(y, (0, 1)).all())
    logits = kind == LOGITS
    if shape[-1] == 1 and zero_one or (kind == SIGMOID and zero_one):
        return keras.losses.BinaryCrossentropy(from_logits=logits, dtype=dtype), kind
    if sparse and integers and shape[-1] > 1:
        cls = keras.losses.SparseCategoricalCrossentropy
        return cls(from_logits=logits, dtype=dtype), kind
    if y.shape[1:] == tuple(shape[1:]):
        if kind == SOFTMAX or (zero_one and (y.sum(-1) == 1).all()):
            cls = keras.losses.CategoricalCrossentropy
            return cls(from_logits=logits, dtype=dtype), kind
        return keras.losses.MeanSquaredError(dtype=dtype), VALUES
    raise ValueError(
        "No loss can be inferred: labels must be class indices, or have the shape of "
        f"the output. Received: labels of shape {y.shape} and dtype {y.dtype} for an "
        f"output of shape {shape}. Pass `loss=`, or labels that fit."
    )


def _check_labels(y, shape, sparse):
    if sparse and (y.min() < 0 or y.max() >= shape[-1]):
        raise ValueError(
            f"Labels must be class indices from 0 to {shape[-1] - 1}, as the model has "
            f"{shape[-1]} outputs. Received: labels from {y.min()} to {y.max()}. "
            "Check the number of classes."
        )
    if not sparse and y.shape[1:] != tuple(shape[1:]):
        raise ValueError(
            "Labels of a categorical cross-entropy must have the shape of the output. "
            f"Received: labels of shape {y.shape} for an output of shape {shape}. "
            "For class indices, use a sparse categorical cross-entropy."
        )


def _kind_of(loss, kind):
    """What a given loss takes its inputs for; a temperature needs to know."""
    name = getattr(loss, "name", None) or getattr(loss, "__name__", "")
    if "crossentropy" not in name:
        return VALUES
    config = loss.get_config() if hasattr(loss, "get_config") else {}
    if config.get("from_logits", False):
        return LOGITS
    return SIGMOID if "binary" in name else SOFTMAX


def _in_dtype(loss, dtype):
    """Keras losses cast to float32, which would spoil scores in float64."""
    if dtype != "float64" or loss.dtype == dtype:
        return loss
    try:
        return type(loss).from_config({**loss.get_config(), "dtype": dtype})
    except TypeError:  # a user's own class without this argument
        return loss
