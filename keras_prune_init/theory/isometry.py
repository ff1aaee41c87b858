"""Approximate isometry: train the kept weights, without data, to preserve norms.

With V = mask * W reshaped to (positions * inputs, outputs), each kernel minimizes

    || V^T V - I ||_F

by gradient descent over its kept weights. Then the singular values of V are near 1, and
neither signals nor gradients shrink from layer to layer. || V V^T - I || has the same
minima, as its square differs by a constant, |rows - columns|; of the two the smaller
matrix is used. The kernel of a convolution preserves norms of single patches then, and
the convolution those of images where all but its central weights are 0 (`Orthogonal`).

The norm is not squared, as in the authors' code, so its gradient does not fade near 0,
and steps of a fixed rate would jump about at a penalty of twice the rate. A step is
therefore at most the one to 0 if the penalty fell linearly (Polyak's step length), and
the authors' 10,000 steps become a few hundred.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_prune_init._arguments import check_flag, is_number, is_whole
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.reports.table import aligned
from keras_prune_init.theory.matrices import (
    from_matrices,
    matrices_shape,
    matrix_kernels,
    to_matrices,
)

STEPS_A_CALL = 100
STACK, COUNT = tf.TensorSpec([None, None, None]), tf.TensorSpec([], tf.int32)


class SingularValues(NamedTuple):
    """Of one kernel, over all its groups."""

    mean: float
    min: float
    max: float
    std: float


class KernelIsometry(NamedTuple):
    """How far a kernel is from preserving norms.

    Attributes:
        path: That of the kernel variable.
        shape: (groups, rows, columns) of V.
        zeros: How many singular values rows and columns of only zeros force to be 0.
        penalty: Pair of the norms above, before and after.
        values: Pair of `SingularValues`, before and after.
    """

    path: str
    shape: tuple[int, int, int]
    zeros: int
    penalty: tuple[float, float]
    values: tuple[SingularValues, SingularValues]


class IsometryReport(NamedTuple):
    """What `approximate_isometry` did; `str()` gives a table."""

    kernels: list[KernelIsometry]

    def __str__(self) -> str:
        names = ("penalty", *(f"sv {name}" for name in SingularValues._fields))
        rows = [("kernel", "matrix", *names, "sv stuck at 0")]
        for k in self.kernels:
            groups, *sides = k.shape
            matrix = "x".join(map(str, sides if groups == 1 else k.shape))
            pairs = [k.penalty, *zip(*k.values, strict=True)]
            numbers = [f"{before:.3f} > {after:.3f}" for before, after in pairs]
            rows.append((k.path, matrix, *numbers, str(k.zeros)))
        return "\n".join(aligned(rows))


def approximate_isometry(
    pruned: keras.Model,
    *,
    steps: int = 10_000,
    learning_rate: float = 0.1,
    tolerance: float = 1e-3,
    verbose: int = 1,
) -> IsometryReport:
    """Bring a pruned network near to preserving norms, in place, before it is trained.

    Use it, without data, on networks pruned so far that they train badly; best from
    orthogonal weights, which it brings back to what pruning took from them. It does for
    all directions what `rescale` does on average: use one of the two. It suits tanh;
    deep plain ReLU networks cannot preserve norms in all directions, whatever their
    weights (Pennington, Schoenholz, Ganguli, arXiv 1711.04735).

    It changes the masked kernels of dense and convolution layers; embeddings, recurrent
    layers, biases and masks stay as they are. Each step of a kernel costs two products
    of matrices, rows * columns * min(rows, columns): little for CIFAR networks, too
    much for dense layers of many thousand units.

    Args:
        pruned: A model from `prune_at_init`, not trained yet.
        steps: Gradient steps for each kernel, at most.
        learning_rate: The largest rate of a step.
        tolerance: A kernel is done when 100 steps lower its penalty by less than this.
        verbose: 1 shows a progress bar when it takes long, 0 never.

    Returns:
        An `IsometryReport`. Where `zeros` is not 0 the penalty cannot come down to 0:
        the mask empties rows or columns, or an orthogonal kernel goes from few channels
        to more (of 3x3 weights from 16 to 32 all but 16 rows are 0 from the start).

    Raises:
        ValueError: If the model has no masked dense or convolution kernel, was
            rescaled, or an argument does not fit. The model is unchanged then.

    Example:

    >>> reinitialize(model, "orthogonal")
    >>> pruned = prune_at_init(model, data, "snip", sparsity=0.9)
    >>> print(approximate_isometry(pruned))
    >>> pruned.fit(x, y)

    Reference:
        Lee, Ajanthan, Gould, Torr, "A Signal Propagation Perspective for Pruning Neural
        Networks at Initialization", arXiv 1906.06307.
    """
    _check(steps, learning_rate, tolerance)
    check_flag("verbose", verbose)
    rows, results = [], []
    kernels = _masked(pruned)
    for k in tqdm(kernels, "isometry", delay=3, disable=not verbose):
        before, mask = (_matrices(k, v) for v in (k.effective(), k.mask))
        after = from_matrices(
            k, _descend(before, mask, steps, learning_rate, tolerance)
        )
        results.append(after.astype(k.variable.dtype))
        ends = before, _matrices(k, results[-1])
        first, last = (float(_penalty(_upright(v))[0]) for v in ends)
        values = tuple(_summary(_singular_values(v)) for v in ends)
        rows.append(
            KernelIsometry(k.path, before.shape, _zeros(before), (first, last), values)
        )
    for kernel, result in zip(kernels, results, strict=True):
        kernel.assign(result)
    return IsometryReport(rows)


def singular_values(model: keras.Model) -> dict[str, np.ndarray]:
    """Singular values of the kernels of dense and convolution layers, with their masks.

    Args:
        model: A built Keras model, pruned or not.

    Returns:
        `{path of the kernel variable: array}`, falling; of mask * scale * weights
        reshaped to (positions * inputs, outputs), of all groups together. A depthwise
        convolution has a group for each channel.

    Raises:
        TypeError, ValueError: If the model is none, not built, or has no such layer.
    """
    kernels = matrix_kernels(model)
    return {k.path: _singular_values(_matrices(k, k.effective())) for k in kernels}


def _check(steps, learning_rate, tolerance):
    rates = is_number(learning_rate) and learning_rate > 0
    if not (is_whole(steps, 0) and rates and is_number(tolerance) and tolerance >= 0):
        raise ValueError(
            "`steps` must be a whole number, 0 or more, `learning_rate` positive, "
            f"`tolerance` 0 or more. Received: steps={steps!r}, "
            f"learning_rate={learning_rate!r}, tolerance={tolerance!r}. "
            "The authors take 10_000 steps of rate 0.1."
        )


def _masked(model) -> list[Kernel]:
    kernels = [k for k in matrix_kernels(model) if k.wrapper is not None]
    if not kernels:
        raise ValueError(
            "`approximate_isometry` takes a pruned model: one that `prune_at_init` "
            f"returned. Received: model={model.name}, without a masked dense or "
            "convolution layer. Prune it first."
        )
    scaled = [
        k.path for k in kernels if k.scale is not None and np.any(k.scale.numpy() != 1)
    ]
    if scaled:
        raise ValueError(
            "Rescaling and approximate isometry are alternatives. "
            f"Received: {model.name}, rescaled in {', '.join(scaled)}. "
            "Prune without `rescale`."
        )
    return kernels


def _matrices(kernel, values):
    """Kernel-shaped values as (groups, positions * inputs, outputs)."""
    groups, *_, outputs = matrices_shape(kernel)
    return to_matrices(kernel, values).reshape(groups, -1, outputs).astype(np.float32)


def _upright(stack):
    """The matrices, or their transposes, with at least as many rows as columns."""
    return stack if stack.shape[1] >= stack.shape[2] else stack.swapaxes(1, 2)


def _descend(stack, mask, steps, rate, tolerance):
    """The weights of the lowest penalty met on the way."""
    v, kept = (tf.constant(_upright(a)) for a in (stack, mask))
    best, lowest = v, float(_penalty(v)[0])
    for done in range(0, steps, STEPS_A_CALL):
        count = min(steps - done, STEPS_A_CALL)
        v = _steps(v, kept, rate, count)
        penalty, before = float(_penalty(v)[0]), lowest
        if penalty < lowest:
            best, lowest = v, penalty
        if not lowest < before - tolerance:
            break
    wide = stack.shape[1] < stack.shape[2]
    return best.numpy().swapaxes(1, 2) if wide else best.numpy()


@tf.function(input_signature=[STACK, STACK, tf.TensorSpec([]), COUNT])
def _steps(v, kept, rate, count):
    for _ in tf.range(count):
        penalty, gradient = _penalty(v)
        gradient *= kept
        to_zero = penalty / tf.maximum(tf.reduce_sum(gradient**2), 1e-30)
        v -= tf.minimum(rate, to_zero) * gradient
    return v


def _penalty(v):
    """|| V^T V - I ||_F of a block diagonal matrix, and its gradient, 0 at 0."""
    excess = tf.matmul(v, v, transpose_a=True) - tf.eye(tf.shape(v)[2], dtype=v.dtype)
    penalty = tf.norm(excess)
    return penalty, 2 * tf.matmul(v, excess) / tf.maximum(penalty, 1e-12)


def _zeros(stack):
    rows, columns = (np.count_nonzero(stack.any(axis), axis=1) for axis in (2, 1))
    return int(np.sum(min(stack.shape[1:]) - np.minimum(rows, columns)))


def _singular_values(stack):
    return np.sort(np.linalg.svd(stack, compute_uv=False), axis=None)[::-1]


def _summary(values):
    return SingularValues(
        *(float(f(values)) for f in (np.mean, np.min, np.max, np.std))
    )
