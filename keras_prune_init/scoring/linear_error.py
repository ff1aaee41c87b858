"""The linear error sum |t - o| of targets t and outputs o, for skeletonization.

For cross-entropies, t and o are probabilities: labels of classes become one-hot
vectors, and logits go through the softmax or sigmoid that the loss means. For other
losses, o is the output as it is. The error is summed over outputs, multiplied by the
sample weights, and is a mean over the samples of a batch.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_prune_init.scoring.inferred_loss import labels_by_output
from keras_prune_init.scoring.objective import Objective, get_keras_mask
from keras_prune_init.scoring.temperature import BINARY_LOGITS, LOGITS

PROBABILITIES = {LOGITS: tf.nn.softmax, BINARY_LOGITS: tf.sigmoid}


class LinearError(Objective):
    """The linear error of the outputs that another objective is a loss of.

    It is called like an `Objective`. Its sample weights are pairs of those of the data
    (or `None`) and a number, by which it multiplies the error of the batch.

    Raises:
        ValueError: If there are no labels that fit the outputs.
    """

    def __init__(self, objective: Objective):
        super().__init__()
        self.read = objective.kinds  # `None` where an output has no loss
        if not any(self.read):
            raise ValueError(
                "The linear error needs a loss of labels and outputs. Received: a loss "
                "that no output changes; it comes from layers only, or all sample "
                "weights are 0. Pass `loss=` or other weights, or use another method."
            )

    def __call__(
        self, model, x, y, outputs, sample_weight=None, temperature: float = 1.0
    ):
        sample_weight, factor = sample_weight
        if y is None:
            raise ValueError(
                "The linear error needs labels. Received: x alone. Pass a dataset of "
                "(x, y), or use another method."
            )
        flat = keras.tree.flatten(outputs)
        labels = labels_by_output(model, y, outputs)
        weights = [sample_weight] * len(flat)
        if isinstance(sample_weight, (dict, list, tuple)):
            weights = labels_by_output(model, sample_weight, outputs)
        parts = [
            _error(PROBABILITIES.get(kind, tf.identity), *values)
            for kind, *values in zip(self.read, flat, labels, weights, strict=True)
            if kind is not None and values[1] is not None
        ]
        total = tf.add_n(parts)
        return tf.cast(factor, total.dtype) * total


def _error(probabilities, output, label, weight) -> Any:
    mask = get_keras_mask(output)
    output = probabilities(output)
    rank = len(output.shape)
    error = tf.abs(_targets(label, output) - output)
    error = tf.reduce_sum(error, -1) if rank > 1 else error
    for factor in (weight, mask):
        if factor is not None:
            factor = tf.cast(factor, error.dtype)
            if len(factor.shape) > len(error.shape):
                factor = factor[..., 0]
            while len(factor.shape) < len(error.shape):
                factor = factor[..., None]
            error *= factor
    return tf.reduce_sum(error) / tf.cast(tf.shape(output)[0], error.dtype)


def _targets(label, output):
    """Return labels in the shape of the outputs; classes become one-hot vectors."""
    ranks, width = (len(label.shape), len(output.shape)), output.shape[-1]
    same = ranks[0] == ranks[1]
    if same and (ranks[0] == 1 or label.shape[-1] == width):
        return tf.cast(label, output.dtype)
    if width == 1 and ranks[0] == ranks[1] - 1:
        return tf.cast(label[..., None], output.dtype)
    if same and label.shape[-1] == 1:
        label = label[..., 0]
    elif ranks[0] != ranks[1] - 1:
        raise ValueError(
            "The linear error needs labels of the outputs' shape, or classes. Received:"
            f" labels of shape {tuple(label.shape)} for outputs of shape "
            f"{tuple(output.shape)}. Use another method."
        )
    return tf.one_hot(tf.cast(label, "int32"), width, dtype=output.dtype)
