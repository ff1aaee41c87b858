"""Single layers of sparse.py: where sparse ones break even, what their time grows with.

A step is one of a layer in the midst of a network: forward, the gradients of inputs
and weights, and an update of the weights.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import common

REPEATS = 15
SAMPLES = 128  # in a batch
LEAST = 0.002  # density at which a layer must pay
HALVINGS = 7


class Layer(NamedTuple):
    make: Callable[[], Any]
    shape: tuple[int, ...]  # of its input
    weights: int


def dense(width, *batch):
    import keras

    return Layer(lambda: keras.layers.Dense(width), (*batch, width), width**2)


def convolution(channels, pixels=16):
    import keras

    return Layer(
        lambda: keras.layers.Conv2D(channels, 3, padding="same"),
        (SAMPLES, pixels, pixels, channels),
        9 * channels**2,
    )


LAYERS = {
    "Dense 256": lambda: dense(256, SAMPLES),
    "Dense 1024": lambda: dense(1024, SAMPLES),
    "Dense 4096": lambda: dense(4096, SAMPLES),
    "4096 tokens of width 512": lambda: dense(512, 8, 512),
    "3x3 convolution, 64 channels": lambda: convolution(64),
    "3x3 convolution, 256 channels": lambda: convolution(256),
}
# What varies: samples, width, and percent of kept weights of Dense layers.
GROWTH = {
    "batch": [(n, 4096, 2) for n in (16, 32, 64, 128, 256, 512, 1024)],
    "width": [(128, n, 1) for n in (512, 1024, 2048, 4096, 8192, 16_384)],
    "kept": [(128, 4096, percent) for percent in (0.5, 1, 2, 5, 10, 20)],
    "kept of 20,000": [(128, 20_000, percent) for percent in (0.05, 0.1, 0.2)],
}


def normal(*shape):
    import numpy as np

    return np.random.default_rng(0).normal(size=shape).astype("float32")


def sparse_layer(layer, density):
    """A layer with kept weights at random places; its whole kernel is never made."""
    import numpy as np

    import keras_prune_init as kpi

    count = round(density * layer.weights)
    rng = np.random.default_rng(0)
    places = np.sort(rng.choice(layer.weights, count, replace=False))
    wrapper = kpi.CompactLayer(
        layer.make(), counts={"kernel": count}, computes="sparse"
    )
    wrapper.build(layer.shape)
    kept = wrapper.kept["kernel"]
    kept.index.assign(places)
    kept.values.assign(0.1 * normal(count))
    # Convolutions would choose by an estimate.
    vars(wrapper.layer)["call"].always = True
    return wrapper


def timed(layer, x):
    """A function that measures a step."""
    import tensorflow as tf

    x = tf.constant(x)

    @tf.function(autograph=False, jit_compile=False)
    def step(x):
        weights = [w.value for w in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        dx, *slopes = tape.gradient(y, [x, *weights], y)
        for weight, slope in zip(weights, slopes, strict=True):
            weight.assign_sub(1e-9 * slope)
        return dx

    return lambda: common.seconds(lambda: step(x))


def bisected(is_less):
    """Up to which density something holds; `None` if it does not at the least one."""
    low, high = LEAST, 1.0
    if not is_less(low):
        return None
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_less(middle) else (low, middle)
    return math.sqrt(low * high)


def break_even(layer):
    """The density at which a step takes as long as with all weights."""
    from keras_prune_init.sparse import estimate

    single = LAYERS[layer]()
    x = normal(*single.shape)
    whole = single.make()
    whole.build(single.shape)
    plain = timed(whole, x)

    def is_faster(density):
        measures = {"dense": plain, "sparse": timed(sparse_layer(single, density), x)}
        return common.ratios(measures, REPEATS)["sparse"]["ratio"] < 1

    kernel = vars(sparse_layer(single, LEAST).layer)["call"].operation.kernel
    positions = math.prod(single.shape[:-1]) // estimate.SAMPLES

    def should_be(density):
        kept = round(density * single.weights)
        sparse, dense = estimate.seconds(kernel, positions, kept)
        return sparse < dense

    found = {"measured": bisected(is_faster), "estimated": bisected(should_be)}
    return [{f"kept %, {k}": v and 100 * v for k, v in found.items()}]


def growth(of, batch, width, percent):
    """The time of a step of a Dense layer."""
    layer = dense(width, batch)
    measure = timed(sparse_layer(layer, percent / 100), normal(*layer.shape))
    ms = 1000 * median(measure)
    kept = round(percent / 100 * layer.weights)
    row = {"kept": kept, "ms": ms, "ps a weight and sample": 1e9 * ms / kept / batch}
    return [{**row, "peak GiB": common.peak_gigabytes()}]


def median(measure):
    return statistics.median([measure() for _ in range(REPEATS + 2)][2:])


def rates(sparsity, width=4096):
    """How fast the loops alone are, without the calls and the order of activations.

    The limit is set by what they read and write at least: weights with their positions
    once, and activations once.
    """
    import numpy as np

    from keras_prune_init.sparse.positions import Matrix
    from keras_prune_init.sparse.products import MatrixProduct

    rng = np.random.default_rng(0)
    count = round((1 - sparsity) * width**2)
    index = np.sort(rng.choice(width**2, count, replace=False)).astype("int32")
    product = MatrixProduct(Matrix((width, width), (0,), (1,)))
    x, values = normal(SAMPLES, width), normal(count)
    dy = x[::-1].copy()
    given = values, index, np.ones(width, "f")
    forward = median_of(lambda: product._forward(x, *given))
    backward = median_of(lambda: product._backward(x, dy, *given))
    by_row, by_unit = product._seen[1]
    once = [values, x, dy, by_unit.others, by_unit.places]
    twice = [values, values, x, x, dy, by_row.others, by_row.places]
    plain, bandwidth = dense_seconds(width), copied_bytes_a_second()
    rows = []
    for name, products, seconds, arrays in (
        ("forward", 1, forward, once),
        ("backward", 2, backward, twice),
    ):
        limit = sum(v.nbytes for v in arrays) / bandwidth
        flops = 2 * products * SAMPLES  # a weight
        rows.append(rate(name, flops, count, seconds, width, plain[name], limit))
    return rows


def rate(name, flops, count, seconds, width, dense_seconds, limit):
    return {
        "loop": name,
        "ms": 1000 * seconds,
        "GFLOP/s": flops * count / seconds / 1e9,
        "dense ms": 1000 * dense_seconds,
        "dense GFLOP/s": flops * width**2 / dense_seconds / 1e9,
        "memory limit GFLOP/s": flops * count / limit / 1e9,
        # Each weight reads a row of a tile, from a cache.
        "GB/s of rows": 4 * SAMPLES * count / seconds / 1e9,
    }


def dense_seconds(width):
    """TensorFlow's products of matrices in a step of a layer."""
    import tensorflow as tf

    x, kernel = tf.constant(normal(SAMPLES, width)), tf.constant(normal(width, width))
    dy = x[::-1]
    forward = tf.function(lambda: x @ kernel)
    backward = tf.function(
        lambda: (tf.matmul(dy, kernel, transpose_b=True), tf.matmul(x, dy, True))
    )
    return {"forward": median_of(forward), "backward": median_of(backward)}


def median_of(run):
    return median(lambda: common.seconds(run))


def copied_bytes_a_second(size=2**28):
    """Bytes that all processors read and write in a second, beyond their caches."""
    import numpy as np

    cores = os.cpu_count()
    sources, targets = np.ones((2, cores, size // cores // 4), "f")
    with ThreadPoolExecutor(cores) as pool:
        seconds = []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            seconds.append(time.perf_counter() - begin)
    return 2 * size / statistics.median(seconds)
