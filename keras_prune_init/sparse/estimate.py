"""How long products take on this machine, with the kept weights and with all of them.

A training step multiplies each kernel three times: forward, and for the gradients of
inputs and weights. With the kept weights only, it also carries activations to the order
of the loops and back. So its time is a constant for the calls, a time for each number
that is carried, and one for each kept weight and sample. A dense one has a constant,
and a time for each weight and sample.
"""

from __future__ import annotations

import functools
import math
import time
from concurrent import futures
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from keras_prune_init.sparse.positions import Matrix, Windows
from keras_prune_init.sparse.products import MatrixProduct

SAMPLES = 128  # of the step whose time is estimated
IMAGES = 1.25  # how much longer a dense convolution takes than a product of matrices


class Speed(NamedTuple):
    """Seconds of one training step, of its parts."""

    call: float  # all calls for a sparse product
    number: float  # each input and each output of a sample
    kept: float  # each kept weight and sample
    dense_call: float
    weight: float  # each weight of a dense kernel, and sample


# Of two cores of an AMD EPYC with AVX-512, for runs that must be repeated exactly.
REFERENCE = Speed(0.65e-3, 1.4e-9, 27e-12, 0.24e-3, 22.5e-12)


class Expected(NamedTuple):
    """How a kernel computes, and the seconds of a training step that are expected."""

    computes: str  # "sparse" or "compact"
    seconds: float
    dense_seconds: float  # of a layer that is not pruned


def seconds(kernel: Matrix | Windows, positions: int, kept: int) -> tuple[float, float]:
    """Return the time of a training step for one kernel, sparse and dense.

    Args:
        kernel: The pruned kernel.
        positions: How often a sample is multiplied with it: once for each pixel or
            token of the output.
        kept: How many weights are kept.
    """
    speed = _measured()
    columns = SAMPLES * positions
    dense = speed.dense_call + speed.weight * columns * math.prod(kernel.shape)
    if isinstance(kernel, Windows):
        side = math.sqrt(positions)
        columns = int(SAMPLES * math.prod(side + more for more in kernel.reach))
        dense *= IMAGES
    carried = speed.number * (kernel.rows + kernel.columns)
    return speed.call + columns * (carried + speed.kept * kept), dense


def _measured() -> Speed:
    # A choice that differs from run to run would change sums.
    return REFERENCE if is_op_determinism_enabled() else _measure()


@functools.cache
def _measure():
    """Time some products, larger than caches: three seconds, once in a process."""
    sizes = (128, 64, 0.1), (1024, 1024, 0.1), (1024, 1024, 0.3), (8192, 256, 0.05)
    # In a thread of its own, which knows no graph, strategy or tape that is under way.
    with futures.ThreadPoolExecutor(1) as thread:
        times = list(thread.map(_timed, *zip(*sizes, strict=True)))
    (call, dense_call, _), (few, dense, least), (many, _, most), (long, _, left) = times
    kept = max(many - few, 1e-6) / (most - least)
    number = max(long - call - kept * left, 1e-6) / (2 * 256 * 8192)
    weight = max(dense - dense_call, 1e-6) / 1024**3
    return Speed(call, number, kept, dense_call, weight)


def _timed(columns, size, density):
    """Return the time of a sparse product, of a dense one, and the kept products."""
    rng = np.random.default_rng(0)
    index = np.flatnonzero(rng.random(size * size) < density)
    x = tf.constant(rng.normal(size=(columns, size)), "float32")
    product = MatrixProduct(Matrix((size, size), (0,), (1,)))
    places, scale = tf.constant(index, "int32"), tf.ones(size)

    def sparse(x, values):
        return product(x, values, places, scale)

    return (
        _seconds_of_a_step(sparse, x, tf.ones(len(index))),
        _seconds_of_a_step(tf.linalg.matmul, x, tf.ones((size, size))),
        len(index) * columns,
    )


def _seconds_of_a_step(function, *arguments, repeats=9):
    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = function(*arguments)
        return tape.gradient(y, arguments)

    times = []
    for _ in range(repeats + 1):  # the first traces and compiles
        begin = time.perf_counter()
        step()[0].numpy()
        times.append(time.perf_counter() - begin)
    return float(np.median(times[1:]))
