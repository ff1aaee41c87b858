"""The second moments of what kernels are multiplied with, collected in one pass.

They are the Hessian of the squared error of a layer's outputs, for all rows of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.patching import listener, patched
from keras_prune_init.layers.roles import LOOKED_UP, REVERSE
from keras_prune_init.layers.walk import flatten
from keras_prune_init.scoring.products import CELLS, Product, bias_of, flat, product

# Bytes of the patches that are held at once.
PATCHES = 2**27


def is_looked_up(kernel: Kernel) -> bool:
    """Whether rows of the kernel are looked up, as of an embedding."""
    return kernel.role is LOOKED_UP


class Moments(NamedTuple):
    """Means over all positions of products of inputs."""

    # Of shape (groups, inputs, inputs), with a last input of 1 for a bias. If rows of
    # the kernel are looked up: those of the Hessian's diagonal, in the kernel's shape.
    matrix: np.ndarray
    product: Product | None
    bias: keras.Variable | None

    def energy(self, kernel: np.ndarray, bias: Any = 0.0) -> float:
        """Return the mean square of all outputs of a position together.

        Args:
            kernel: Float64 of the kernel's shape.
            bias: What is added to the outputs, an array of the shape of the bias.
        """
        if self.product is None:
            return float(np.sum(self.matrix * kernel**2))
        rows = self.product.split(kernel)
        if self.bias is not None:
            column = np.broadcast_to(np.reshape(bias, -1), rows[..., 0].size)
            column = column.reshape(*rows.shape[:2], 1)
            rows = np.concatenate([rows, column], -1)
        return float(np.sum((rows @ self.matrix) * rows))


def collect(
    model: keras.Model, run: Callable, batches: Sequence, kernels: Sequence[Kernel]
) -> list[Moments]:
    """Return the moments of the inputs of kernels, over batches.

    `run(x)` runs the model eagerly in inference. Patches are made a few samples at a
    time, so memory holds one batch and the moments.

    Raises:
        ValueError: If a layer was not called, or in a graph, where inputs have no
            values.
    """
    sums = [_Lookups(k) if is_looked_up(k) else _Sum(k) for k in kernels]
    heard: dict[int, list] = {}
    owners = {}
    for kernel, total in zip(kernels, sums, strict=True):
        owners[id(kernel.owner)] = kernel.owner
        heard.setdefault(id(kernel.owner), []).append(total)

    def hear(layer, args, kwargs, outputs):
        for total in heard[id(layer)]:
            total.add(args, kwargs)

    # Loops over time call their cells one by one.
    loops = [
        (v, "unroll", True) for v in flatten(model) if isinstance(v, keras.layers.RNN)
    ]
    with patched([*loops, *(listener(layer, hear) for layer in owners.values())]):
        for x, *_ in batches:
            run(x)
    return [total.mean() for total in sums]


class _Sum:
    def __init__(self, kernel):
        self.kernel, self.product = kernel, product(kernel)
        self.bias = bias_of(kernel, self.product)
        groups, _, inputs = self.product.sizes
        n = inputs + (self.bias is not None)
        self.total, self.count = np.zeros((groups, n, n)), 0

    def add(self, args, kwargs):
        if self.kernel.role is REVERSE and not _is_reversed(args, kwargs):
            return
        x = args if isinstance(self.kernel.owner, CELLS) else args[0]
        for part in _slices(self.kernel, x, self.product):
            rows = self.product.inputs(part)
            if self.bias is not None:
                rows = tf.pad(rows, [(0, 0), (0, 0), (0, 1)], constant_values=1)
            rows = tf.transpose(tf.cast(rows, _wide(rows)), (1, 0, 2))
            self.total += tf.matmul(rows, rows, transpose_a=True).numpy()
            self.count += rows.shape[1]

    def mean(self):
        if not self.count:
            raise _not_called(self.kernel)
        return Moments(self.total / self.count, self.product, self.bias)


class _Lookups:
    """How often each row is looked up, and the moments if it runs in reverse."""

    def __init__(self, kernel):
        self.kernel, self.count = kernel, 0
        self.total = np.zeros(kernel.shape)

    def add(self, args, kwargs):
        x = args[0]
        _check_known(self.kernel, x)
        if _is_reversed(args, kwargs):
            rows = flat(tf.cast(x, "float64"))[:, 0]
            self.total += tf.reduce_sum(rows * rows, 0).numpy()
            return
        indices = np.asarray(x).astype(int).ravel()
        counts = np.bincount(indices, minlength=self.kernel.shape[0])
        self.total += counts[:, None]
        self.count += indices.size

    def mean(self):
        if not self.count:
            raise _not_called(self.kernel)
        return Moments(self.total / self.count, None, None)


def _is_reversed(args, kwargs):
    """Whether an embedding is called to make logits."""
    return bool(kwargs.get("reverse", args[1:2] == (True,)))


def _slices(kernel, x, product):
    """Cut inputs so that their patches are not too large."""
    first = keras.tree.flatten(x)[0]
    _check_known(kernel, first)
    groups, _, inputs = product.sizes
    taps = groups * inputs // max(first.shape[-1], 1) + 1
    size = max(int(tf.size(first)) // first.shape[0], 1) * taps * 4
    step = max(1, PATCHES // size)
    for start in range(0, first.shape[0], step):
        part = slice(start, start + step)
        yield keras.tree.map_structure(lambda v, part=part: v[part], x)


def _check_known(kernel, value):
    if not hasattr(value, "numpy"):
        raise ValueError(
            "The inputs of a layer are collected while it runs eagerly. Received: "
            f"{kernel.path}, which runs within a `tf.function` or a loop of "
            "TensorFlow. Leave it out by `filters`, or use method 'obd'."
        )


def _not_called(kernel):
    return ValueError(
        "The inputs of a layer are collected while the model runs. Received: "
        f"{kernel.path}, which the model did not call on this data, or only within a "
        "`tf.function`. Leave it out by `filters`, or use method 'obd'."
    )


def _wide(value):
    return "float64" if value.dtype == tf.float64 else "float32"
