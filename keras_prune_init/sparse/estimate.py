"""How long products take on this machine, with the kept weights and with all of them.

A training step multiplies each kernel three times: forward, and for the gradients of
inputs and weights. With the kept weights only, its time is a constant for the calls, a
time for each number of the inputs and outputs, and one for each kept weight and sample.
A dense one has a constant, too, and a time for each number and each weight and sample.
Convolutions of images have other times than matrices.
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

from keras_prune_init.sparse.convolution import Convolution
from keras_prune_init.sparse.positions import Matrix, Windows
from keras_prune_init.sparse.products import MatrixProduct

SAMPLES = 128  # of the step whose time is estimated


class Speed(NamedTuple):
    """Seconds of one training step, of its parts."""

    call: float  # all calls for a sparse product
    number: float  # each input and each output of a sample
    kept: float  # each kept weight and sample
    dense_call: float
    dense_number: float
    weight: float  # each weight of a dense kernel, and sample


# Of two cores of an AMD EPYC with AVX-512, for runs that must be repeated exactly.
REFERENCE = {
    Matrix: Speed(0.7e-3, 0.8e-9, 68e-12, 0.27e-3, 0.45e-9, 29e-12),
    Windows: Speed(0.7e-3, 0.62e-9, 56e-12, 0.27e-3, 0.8e-9, 26e-12),
}


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
    speed = _measured()[type(kernel)]
    parts = _parts(kernel, positions, kept)
    sparse = speed.call + speed.number * parts.numbers + speed.kept * parts.kept
    numbers, weights = parts.dense_numbers, parts.weights
    dense = speed.dense_call + speed.dense_number * numbers + speed.weight * weights
    return sparse, dense


class _Parts(NamedTuple):
    """How much of each there is in a step of `SAMPLES`."""

    numbers: float
    kept: float
    dense_numbers: float
    weights: float


def _parts(kernel, positions, kept):
    columns = live = SAMPLES * positions
    if isinstance(kernel, Windows):  # zeros around the images are carried, too
        side = math.sqrt(positions)
        columns = SAMPLES * math.prod(side + more for more in kernel.reach)
    features = kernel.rows + kernel.columns
    weights = math.prod(kernel.shape)
    return _Parts(columns * features, columns * kept, live * features, live * weights)


def _measured() -> dict[type, Speed]:
    # A choice that differs from run to run would change sums.
    return REFERENCE if is_op_determinism_enabled() else _measure()


@functools.cache
def _measure():
    """Time some products: a few seconds, once in a process."""
    # In a thread of its own, which knows no graph, strategy or tape that is under way.
    with futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_speeds).result()


def _speeds():
    tiny = _Matrices(64, 1)
    calls = tiny.sparse(0.1), tiny.dense()
    return {
        Matrix: _speed(_Matrices(64, 256), _Matrices(1024, 8), *calls),
        Windows: _speed(_Images(16, 32), _Images(64, 16), *calls),
    }


def _speed(narrow, wide, call, dense_call):
    """Return the time of the parts, from that of two kernels."""
    few, many = wide.parts(0.05), wide.parts(0.3)
    kept = (wide.sparse(0.3) - wide.sparse(0.05)) / (many.kept - few.kept)
    kept = max(kept, 1e-15)
    least = narrow.parts(0.05)
    number = (narrow.sparse(0.05) - call - kept * least.kept) / least.numbers
    rows = [[v.dense_numbers, v.weights] for v in (least, few)]
    times = [v.dense() - dense_call for v in (narrow, wide)]
    found = np.linalg.solve(rows, times)
    dense_number, weight = (float(max(v, 1e-15)) for v in found)
    return Speed(call, max(number, 1e-15), kept, dense_call, dense_number, weight)


class _Matrices:
    """Products whose time is measured."""

    def __init__(self, size, positions):
        self.positions = positions
        self.operation = MatrixProduct(Matrix((size, size), (0,), (1,)))
        self.shape = SAMPLES * positions, size

    def multiply(self, x, kernel):
        return x @ kernel

    def parts(self, density):
        kernel = self.operation.kernel
        kept = round(density * math.prod(kernel.shape))
        return _parts(kernel, self.positions, kept)

    def sparse(self, density):
        kernel = self.operation.kernel
        count = math.prod(kernel.shape)
        rng = np.random.default_rng(0)
        places = np.sort(rng.choice(count, round(density * count), replace=False))
        index, scale = tf.constant(places, "int32"), tf.ones(kernel.columns)

        def product(x, values):
            return self.operation(x, values, index, scale)

        return _seconds_of_a_step(product, self.shape, [len(places)])

    def dense(self):
        kernel = self.operation.kernel.shape
        return _seconds_of_a_step(self.multiply, self.shape, kernel)


class _Images(_Matrices):
    """Convolutions whose time is measured, with windows of 3 x 3 pixels."""

    def __init__(self, channels, side):
        self.positions = side**2
        kernel = Windows((3, 3, channels, channels), channels, (1, 1), (1, 1))
        self.operation = Convolution(kernel, "same")
        self.shape = SAMPLES, side, side, channels

    def multiply(self, x, kernel):
        return tf.nn.conv2d(x, kernel, 1, "SAME")


def _seconds_of_a_step(function, *shapes, repeats=9):
    arguments = [tf.ones(shape) for shape in shapes]

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = function(*arguments)
        return tape.gradient(y, arguments, y)  # or TensorFlow would leave `y` out

    times = []
    for _ in range(repeats + 1):  # the first traces and compiles
        begin = time.perf_counter()
        step()[0].numpy()
        times.append(time.perf_counter() - begin)
    return float(np.median(times[1:]))
