"""The diagonal of the empirical Fisher matrix: squared gradients of single examples."""

from __future__ import annotations

import contextlib
import math

import keras
import tensorflow as tf

from keras_prune_init.scoring.network import EAGER_CALLS, Network, Tensors

# The gradients of so many examples as fit are in memory at a time.
MOST_BYTES = 2**28


def fisher_diagonal(network: Network, weights: Tensors) -> Tensors:
    """Return the mean over all examples of the squared gradients of their losses.

    Batch normalization uses the running statistics. An example of weight w counts as w
    examples.

    Args:
        network: The model, its data and its gradients.
        weights: Kernel values, a list of tensors in the order of `network.kernels`.

    Returns:
        A list of tensors with the shapes of the kernels, in the same order.
    """
    size = sum(math.prod(w.shape) for w in weights) * weights[0].dtype.size

    def total(chunk):
        key = f"fisher by {chunk}", "eval", 1.0
        # Eager loops would trace the gradients of every chunk anew.
        options = {"times": EAGER_CALLS + 1, "means": False}
        return network.summed(key, _Sum(network, chunk), weights, **options)

    chunk = network.once("chunk", lambda: [max(1, MOST_BYTES // size)])
    try:
        with quiet_vectorizing():
            sums = total(*chunk)
    except Exception:  # an operation that TensorFlow cannot vectorize
        chunk[:] = [0]
        sums = total(*chunk)
    count = sum(keras.tree.flatten(x)[0].shape[0] for x, _, _ in network.batches)
    return [s / count for s in sums]


@contextlib.contextmanager
def quiet_vectorizing():
    """Leave out what TensorFlow says of single operations that it cannot vectorize."""

    def wanted(record):
        text = record.getMessage()
        return "uses a while_loop" not in text and "pfor" not in text

    logger = tf.get_logger()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


class _UnsafeError(Exception):
    """The examples of this network must not be vectorized."""


class _Sum:
    """The sum of squared gradients over a batch, in chunks; 0: one by one."""

    def __init__(self, network, chunk):
        self.network, self.chunk = network, chunk

    def __call__(self, weights, batch):
        count = tf.shape(keras.tree.flatten(batch[0])[0])[0]
        step = max(1, self.chunk)

        def add(start, totals):
            if self.chunk:
                rows = tf.range(start, tf.minimum(start + step, count))
                squares = tf.vectorized_map(
                    lambda row: self._squares(weights, batch, row), rows, warn=False
                )
                squares = [tf.reduce_sum(s, 0) for s in squares]
            else:
                squares = self._squares(weights, batch, start)
            return start + step, [t + s for t, s in zip(totals, squares, strict=True)]

        zeros = [tf.zeros_like(w) for w in weights]
        return tf.while_loop(
            lambda start, _: start < count, add, (0, zeros), parallel_iterations=1
        )[1]

    def _squares(self, weights, batch, row):
        x, y, sample_weight = keras.tree.map_structure(
            lambda v: tf.gather(v, [row]), batch, none_is_leaf=False
        )
        factor = tf.ones((), weights[0].dtype)
        if _is_one_number(sample_weight):
            # Outside of the loss, which may divide by the sum of the weights.
            factor = tf.cast(tf.reshape(sample_weight, ()), factor.dtype)
            sample_weight = None
        else:
            sample_weight = keras.tree.map_structure(
                lambda v: tf.sqrt(tf.cast(v, factor.dtype)),
                sample_weight,
                none_is_leaf=False,
            )
        example = x, y, sample_weight
        gradients = self.network.batch_gradients(weights, example, "eval")
        if self.chunk and _is_unsafe(tf.compat.v1.get_default_graph()):
            raise _UnsafeError
        return [factor * tf.square(g) for g in gradients]


def _is_unsafe(graph):
    """Whether a graph has products that TensorFlow cannot vectorize.

    TensorFlow 2.21 with oneDNN corrupts the heap in float32 products of stacked
    matrices, where a batch of one example meets a matrix without a batch.
    """
    definition = graph.as_graph_def()
    bodies = [definition.node, *(f.node_def for f in definition.library.function)]
    return any(
        node.op == "BatchMatMulV2"
        and node.attr["T"].type == tf.float32.as_datatype_enum
        for body in bodies
        for node in body
    )


def _is_one_number(sample_weight):
    return tf.is_tensor(sample_weight) and sample_weight.shape in ((1,), (1, 1))
