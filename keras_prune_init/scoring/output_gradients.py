"""Gradients of a network's outputs, scaled so that their squares sum to the curvature.

The Gauss-Newton matrix of a loss is J'AJ: J has the gradients of the outputs of a
sample, and A is the second derivative of the loss with respect to these outputs. With
A = UU', the columns of J'U are vectors X whose outer products sum to the matrix. For
squared errors these are the gradients of single outputs. For a cross-entropy they are
those of logits, also if the network ends in probabilities p: the logarithms of p have
the same A = diag(p) - pp' and the same J'U.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.scoring.exact_layers import scoring_layers
from keras_prune_init.scoring.fisher import quiet_vectorizing
from keras_prune_init.scoring.network import Network, Tensors, zeros_for_none
from keras_prune_init.scoring.temperature import SIGMOID, SOFTMAX

# Bytes of the gradients that are held at once.
HELD = 2**28


def curvature_vectors(
    network: Network, weights: Tensors, others: Sequence[keras.Variable]
) -> Iterator[np.ndarray]:
    """Yield vectors X whose outer products sum to the Gauss-Newton matrix.

    It is that of the mean loss over all batches, in inference, with respect to the
    kernels and then the other variables.

    Args:
        network: The model and its data.
        weights: Kernel values, a list of tensors in the order of `network.kernels`.
        others: Variables of the model that are no kernels.

    Returns:
        Float64 arrays of shape (number of weights, some vectors).
    """
    kinds = network.loss.kinds
    weights = [tf.cast(w, network.dtype) for w in weights]
    values = [tf.convert_to_tensor(network.value_of(v)) for v in others]
    size = sum(int(tf.size(v)) for v in (*weights, *values))

    def outputs(x, weights, values):
        """Return all outputs of a batch side by side, probabilities as logits."""
        pairs = [*zip(others, values, strict=True)]
        with scoring_layers(network.model, None):
            found = network.forward(x, weights, pairs)
        flat = zip(keras.tree.flatten(found), kinds, strict=True)
        logits = [_logits(v, kind) for v, kind in flat]
        return tf.concat([tf.reshape(v, (tf.shape(v)[0], -1)) for v in logits], 1)

    @tf.function(autograph=False, reduce_retracing=True)
    def scaled(x, factors, vectorized):
        def of_one(given):
            x, factor = given
            x = keras.tree.map_structure(lambda v: v[None], x)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch([weights, values])
                z = tf.linalg.matvec(factor, outputs(x, weights, values)[0], True)
            sources = [*weights, *values]
            slopes = tape.jacobian(z, sources, experimental_use_pfor=vectorized)
            found = zeros_for_none(slopes, _columns(sources, z))
            return tf.concat([tf.reshape(g, (tf.shape(z)[0], -1)) for g in found], 1)

        if vectorized:
            return tf.vectorized_map(of_one, (x, factors), warn=False)
        return tf.map_fn(of_one, (x, factors), fn_output_signature=network.dtype)

    vectorized = True

    for x, y, sample_weight in network.batches:
        factors = _factors(network, (x, y, sample_weight), outputs, weights, values)
        portion = network.portion((x, y, sample_weight)) / len(network.batches)
        factors *= np.sqrt(portion)
        step = max(1, HELD // (size * factors.shape[2] * 8))
        for start in range(0, len(factors), step):
            part = slice(start, start + step)
            some = keras.tree.map_structure(lambda v, part=part: v[part], x)
            given = some, tf.cast(factors[part], network.dtype)
            try:
                with quiet_vectorizing():
                    found = scaled(*given, vectorized)
            except Exception:  # an operation that TensorFlow cannot vectorize
                vectorized = False
                found = scaled(*given, vectorized)
            yield np.reshape(found, (-1, size)).T.astype("float64")


def _columns(sources, z):
    return [tf.zeros((tf.shape(z)[0], *v.shape), v.dtype) for v in sources]


def _logits(output, kind):
    if kind == SOFTMAX:
        return tf.math.log(output)
    if kind == SIGMOID:
        return tf.math.log(output) - tf.math.log(1 - output)
    return output


def _probabilities(z, kind):
    if kind == SOFTMAX:
        return tf.nn.softmax(z)
    return tf.sigmoid(z) if kind == SIGMOID else z


def _factors(network, batch, outputs, weights, values):
    """Return U of each sample, of shape (samples, outputs, outputs)."""
    x, y, sample_weight = batch
    kinds, model = network.loss.kinds, network.model
    given = network.forward(x, weights)
    shapes = [v.shape for v in keras.tree.flatten(given)]
    ends = np.cumsum([int(np.prod(s[1:])) for s in shapes])
    z = outputs(x, weights, values)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(z)
        with tf.GradientTape() as tape:
            tape.watch(z)
            parts = zip(tf.split(z, np.diff(ends, prepend=0), 1), shapes, strict=True)
            flat = [tf.reshape(v, shape) for v, shape in parts]
            flat = [_probabilities(*v) for v in zip(flat, kinds, strict=True)]
            made = keras.tree.pack_sequence_as(given, flat)
            with keras.StatelessScope(collect_losses=True):
                loss = network.loss(model, x, y, made, sample_weight)
        slopes = tf.unstack(tape.gradient(loss, z), axis=1)
    # The loss of one sample does not depend on the outputs of another.
    rows = [outer.gradient(slope, z) for slope in slopes]
    found = np.stack(zeros_for_none(rows, [z] * len(rows)), 1).astype("float64")
    if not np.isfinite(found).all():
        raise ValueError(
            "Second derivatives of the loss must be finite. Received: NaN or infinite "
            f"ones for the outputs of {model.name}. Check its weights and inputs."
        )
    sizes, vectors = np.linalg.eigh((found + found.transpose(0, 2, 1)) / 2)
    return vectors * np.sqrt(np.maximum(sizes, 0))[:, None]
