"""Batch-normalization statistics anew from data, as averages and without training.

Let n_b be how often a layer's inputs have a value in batch b: samples times positions,
without those that a mask hides. With means m_b and variances v_b of the batches,

    mean = sum_b n_b m_b / sum_b n_b,
    variance = sum_b n_b (v_b + m_b^2) / sum_b n_b - mean^2.

For the first layer these are the mean and the variance of the whole data. Sums are
taken in float64, because the variance is a difference.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_prune_init._arguments import check_model, some
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.distribute import replicas
from keras_prune_init.layers.kernels import find_kernels, scoring_dtype
from keras_prune_init.layers.patching import patched
from keras_prune_init.layers.walk import flatten
from keras_prune_init.scoring import checks, first_batch
from keras_prune_init.scoring.batches import size_for, stream


@one_at_a_time
def recalibrate(
    model: keras.Model, dataset: Any, *, batches: int | None = None
) -> keras.Model:
    """Set the statistics of batch normalization to those of data, without training.

    Use it on a trained model after pruning, because other weights make other
    activations. It changes the model in place, and nothing but the moving means and
    variances. They become the averages over all batches, each batch normalized by its
    own statistics as in training. All other layers run in inference mode, so dropout is
    off. Memory does not grow with the data, and any number of batches is one pass.

    Frozen layers keep their statistics, as in `fit`. Layers that are not frozen get new
    ones, also where the model calls them with `training=False`. A batch is normalized
    on one device, also with `synchronized=True`. So the result does not depend on how
    many replicas a `tf.distribute` strategy has.

    Args:
        model: A built Keras model, pruned or not.
        dataset: Inputs, in batches as large as those of training. All that
            `prune_at_init` takes, or an array. Labels and weights are ignored. All
            workers of a strategy must pass the same whole dataset.
        batches: Number of batches from the start of the dataset; `None`: all.

    Returns:
        The same model. Nothing is done if it has no `BatchNormalization`.

    Raises:
        ValueError: If `batches` or the dataset does not fit, all batch normalization is
            frozen, batches hold single numbers, or statistics are NaN or infinite. The
            model is unchanged then.
        TypeError: If `model` is no Keras model, or `dataset` none of these kinds.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> layer = keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((1,)), layer])
    >>> _ = kpi.recalibrate(model, np.array([[1.0], [2.0], [6.0]]))
    >>> layer.moving_mean.numpy(), layer.moving_variance.numpy().round(3)
    (array([3.], dtype=float32), array([4.667], dtype=float32))

    Reference:
        Ioffe, Szegedy, 2015, arXiv 1502.03167 (statistics of the population).
    """
    check_model(model)
    kind = keras.layers.BatchNormalization
    found = [v for v in flatten(model) if isinstance(v, kind) and v.built]
    layers = [v for v in found if v.trainable]
    if not found:
        logging.info("%s has no batch normalization to recalibrate.", model.name)
        return model
    if not layers:
        raise ValueError(
            "At least one BatchNormalization must have trainable=True, because frozen "
            f"ones keep their statistics. Received: {model.name}, in which all "
            f"{len(found)} are frozen. Set trainable=True on them first."
        )

    def inspect_first(batch):
        checks.check_workers(model, [batch[0]])
        with keras.StatelessScope():
            first_batch.run(model, batch[0])

    dtype = scoring_dtype(find_kernels(model))
    source = stream(dataset, inspect_first, batches, dtype, size_for(model))
    totals = _totals(model, layers, (x for x, *_ in source))
    pairs = [p for pair in zip(layers, totals, strict=True) for p in _statistics(*pair)]
    for variable, value in pairs:
        variable.assign(value)
    return model


def _totals(model, layers, inputs):
    """Return for each layer sums over its numbers and batches, rows of a matrix.

    Over numbers: of 1, of the mean and of the mean square. Over batches: of 1.
    """
    strategy = model.distribute_strategy
    step = replicas.summed(strategy, lambda _, x: _sums(model, layers, x))
    total = [0] * len(layers)
    for share in replicas.shares(strategy, inputs):
        try:
            part = step((), share)
        except Exception as e:  # the model's own code may need numbers
            if not hasattr(step, "python_function"):
                raise
            logging.info("%s runs eagerly, as tracing it failed: %s", model.name, e)
            step = step.python_function
            part = step((), share)
        total = [a + np.asarray(b) for a, b in zip(total, part, strict=True)]
    return total


def _sums(model, layers, x):
    """Return the sums of one batch, in the order of the layers."""
    sums = {id(v): tf.zeros((4, *v.moving_mean.shape), "float64") for v in layers}

    def hear(layer, count):
        mean, variance = (
            tf.cast(tf.convert_to_tensor(v.value), "float64")
            for v in (layer.moving_mean, layer.moving_variance)
        )
        ones = tf.ones_like(mean)
        rows = tf.stack([ones, mean, variance + tf.square(mean)])
        rows = tf.math.multiply_no_nan(rows, count)
        sums[id(layer)] += tf.concat([rows, ones[None]], 0)

    # Statistics that are infinite would stay so: 0 times infinity is NaN.
    variables = [v for w in layers for v in (w.moving_mean, w.moving_variance)]
    zeros = [(v, tf.zeros(v.shape, v.dtype)) for v in variables]
    changes = [change for layer in layers for change in _changes(layer, hear)]
    with patched(changes), keras.StatelessScope(zeros):
        model(x, training=False)
    return [*sums.values()]


def _changes(layer, hear: Callable) -> Iterator[tuple]:
    """Let a layer take a batch's statistics, and nothing of earlier ones.

    `hear(layer, count)` is called after each call that did.
    """
    plain = layer.call
    signature = inspect.signature(plain)

    def call(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        if "training" in signature.parameters:
            bound.arguments["training"] = True
        before = layer.moving_mean.value
        outputs = plain(*bound.args, **bound.kwargs)
        if layer.moving_mean.value is not before:
            first = next(iter(bound.arguments.values()))
            hear(layer, _count(layer, first, bound.arguments.get("mask")))
        return outputs

    yield layer, "call", call
    yield layer, "momentum", 0.0
    yield layer, "renorm", False
    yield layer, "synchronized", False


def _count(layer, inputs, mask):
    """Return how many numbers a channel has, those that a mask hides not counted."""
    if mask is None:
        count = tf.size(inputs, tf.int64) // inputs.shape[layer.axis]
    else:
        count = tf.math.count_nonzero(mask)
    return tf.cast(count, "float64")


def _statistics(layer, total) -> list[tuple[keras.Variable, np.ndarray]]:
    """Return pairs of a variable and its new value."""
    count, mean, square, batches = total
    if not count.all():
        logging.warning("%s saw no data and keeps its statistics.", layer.name)
        return []
    if np.array_equal(count, batches):
        raise ValueError(
            "Statistics are those of batches, which must hold more than one number of "
            f"a channel. Received: batches of one for {layer.name}. Nothing was "
            "changed; pass batches as large as those of training."
        )
    mean, square = mean / count, square / count
    variance = np.maximum(square - mean**2, 0)
    pairs = [(layer.moving_mean, mean), (layer.moving_variance, variance)]
    if layer.renorm:
        deviation = np.sqrt(variance + layer.epsilon)
        pairs += [(layer.renorm_mean, mean), (layer.renorm_stddev, deviation)]
        pairs.append((layer.moving_stddev, deviation))
    wrong = [v.path for v, value in pairs if not _fits(v, value)]
    if wrong:
        raise ValueError(
            "Statistics must be finite numbers. Received: data from which NaN or "
            f"infinite ones come, of {some(wrong)}. Nothing was changed; look for them "
            "in the data and in the weights."
        )
    return pairs


def _fits(variable, value):
    stored = tf.cast(tf.cast(value, variable.dtype), "float64")
    return np.isfinite(stored).all()
