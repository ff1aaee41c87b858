"""Divide the logits of a cross-entropy by a temperature.

The gradient of a cross-entropy with respect to logits z is w (p(z) - y), where p is a
softmax or sigmoid. This holds for all labels, smoothing, ignored classes and weights.
So its gradients at two points differ by w (p(z) - p(z')), with one w >= 0 for each
position or element. If this holds for a loss at random points, it is a cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

# What a loss takes an output for.
LOGITS, BINARY_LOGITS = "logits", "binary logits"
SOFTMAX, SIGMOID, OTHER = "softmax", "sigmoid", "other"

# Kinds of probabilities p and of their logits z, with p(z) and the axes of gradients
# that share one w.
PROBABILITIES = (
    (SOFTMAX, LOGITS, tf.nn.softmax, (0, -1)),
    (SIGMOID, BINARY_LOGITS, tf.sigmoid, (0,)),
)

POINTS = 4
TOLERANCE = 1e-3


def kind_of(loss: Callable[[tf.Tensor], tf.Tensor], output: tf.Tensor) -> str | None:
    """Return how a loss treats an output of such a shape and dtype.

    `None`: it does not depend on this output. All else that the loss reads is fixed.
    """
    draw = np.random.default_rng(0)
    dtype = output.dtype if output.dtype.size >= 4 else tf.float32
    points = [
        tf.convert_to_tensor(draw.normal(size=output.shape), dtype)
        for _ in range(POINTS)
    ]
    slopes = _slopes(loss, points, tf.identity)
    if slopes is None or not np.any(slopes):
        return None
    for _, kind, p, axis in PROBABILITIES:
        if _is_cross_entropy(slopes, points, p, axis):
            return kind
    for kind, _, p, axis in PROBABILITIES:
        if _is_cross_entropy(_slopes(loss, points, p), points, p, axis):
            return kind
    return OTHER


def _slopes(loss, points, function):
    """Return the gradients of the loss of `function` at each point."""
    found = []
    for point in points:
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = loss(function(point))
        found.append(tape.gradient(value, point))
    if any(slope is None for slope in found):
        return None
    return np.stack([np.asarray(slope, "float64") for slope in found])


def _is_cross_entropy(slopes, points, p, axis):
    changes = np.diff(slopes, axis=0)
    expected = np.diff([np.asarray(p(z), "float64") for z in points], axis=0)
    size = np.sum(expected**2, axis, keepdims=True)
    weights = np.sum(changes * expected, axis, keepdims=True)
    weights = np.divide(weights, size, out=np.zeros_like(weights), where=size != 0)
    largest = np.abs(changes).max()
    return (
        largest > 0
        and np.abs(changes - weights * expected).max() <= TOLERANCE * largest
        and weights.min() >= -TOLERANCE * weights.max()
    )


def confirmed(kinds, suspects, otherwise, model: keras.Model, x) -> list[str | None]:
    """Run a model, and replace a suspect kind whose outputs are no probabilities."""
    if not set(suspects) & set(kinds):
        return kinds
    with keras.StatelessScope():
        outputs = keras.tree.flatten(model(x, training=False))
    return [
        otherwise if kind in suspects and not _are_probabilities(output, kind) else kind
        for kind, output in zip(kinds, outputs, strict=True)
    ]


def _are_probabilities(output, kind):
    output = np.asarray(output, "float64")
    inside = output.min() >= 0 and output.max() <= 1
    return inside and (kind == SIGMOID or np.allclose(output.sum(-1), 1, atol=1e-2))


def tempered(output, kind: str | None, temperature: float):
    """Divide logits by a temperature, also those of given probabilities."""
    if kind in (OTHER, None):
        return output
    if kind in (LOGITS, BINARY_LOGITS):
        return output / temperature
    # Keras clips probabilities so in its own cross-entropies.
    epsilon = keras.config.epsilon()
    output = tf.clip_by_value(output, epsilon, 1 - epsilon)
    if kind == SOFTMAX:
        return tf.nn.softmax(tf.math.log(output) / temperature)
    logits = tf.math.log(output) - tf.math.log(1 - output)
    return tf.sigmoid(logits / temperature)
