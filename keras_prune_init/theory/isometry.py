"""Approximate isometry: adjust the kept weights, without data, to preserve norms.

With V = mask * W reshaped to (positions * inputs, outputs), each kernel minimizes

    || V^T V - I ||_F

by gradient descent over its kept weights. Then the singular values of V are near 1, and
neither signals nor gradients shrink from layer to layer. || V V^T - I || has the same
minima, because its square differs by a constant, |rows - columns|; the smaller matrix
of the two is used. The kernel of a convolution then preserves norms of single patches,
and norms of images if all but its central weights are 0 (`Orthogonal`).

The norm is not squared, as in the authors' code. So its gradient does not fade near 0,
and steps of a fixed rate would oscillate at a penalty of twice the rate. A step is
therefore at most as long as it would take to reach 0 if the penalty fell linearly
(Polyak's step length). So the authors' 10,000 steps become a few hundred.
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
from keras_prune_init.surgery.exchange import check_finished
from keras_prune_init.theory import matrices

STEPS_A_CALL = 100
STACK, COUNT = tf.TensorSpec([None, None, None]), tf.TensorSpec([], tf.int32)


class SingularValues(NamedTuple):
    """Statistics of the singular values of one kernel, over all its groups."""

    mean: float
    min: float
    max: float
    std: float


class KernelIsometry(NamedTuple):
    """How far a kernel is from preserving norms.

    Attributes:
        path: Path of the kernel variable.
        shape: (groups, rows, columns) of V, the kernel as matrices.
        zeros: How many singular values must be 0, because rows or columns are all zero.
        penalty: The norm || V^T V - I ||_F, a pair of before and after.
        values: A pair of `SingularValues`, before and after.
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

    It needs no data. Use it on networks that are pruned so far that they train badly.
    It works best from orthogonal weights, because it restores what pruning took from
    them. It does for all directions what `rescale` does on average, so use one of the
    two. It suits tanh. Deep plain ReLU networks cannot preserve norms in all directions
    (Pennington, Schoenholz, Ganguli, 2017, arXiv 1711.04735).

    It changes only the masked kernels of dense and convolution layers. Each step of a
    kernel costs two products of matrices, rows * columns * min(rows, columns). This is
    little for CIFAR networks, and too much for dense layers of many thousand units.

    Args:
        pruned: A model from `prune_at_init` that is not trained yet.
        steps: Largest number of gradient steps for each kernel.
        learning_rate: Largest rate of a step.
        tolerance: A kernel is done when 100 steps lower its penalty by less than this.
        verbose: 1 shows a progress bar when it takes long, 0 never.

    Returns:
        An `IsometryReport`; `str()` gives a table. The penalty of a kernel cannot reach
        0 if its `zeros` is not 0: the mask empties rows or columns, or an orthogonal
        kernel leads from few channels to more. Of 3x3 weights from 16 to 32 channels,
        all but 16 rows are 0 from the start.

    Raises:
        ValueError: If the model has no masked dense or convolution kernel, was
            rescaled, or an argument does not fit. The model is unchanged then.
        TypeError: If `pruned` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((8,), classes=4, depth=2, width=8, init="orthogonal")
    >>> pruned = kpi.prune_at_init(model, method="random", sparsity=0.5)
    >>> done = kpi.approximate_isometry(pruned, steps=300)
    >>> before, after = done.kernels[0].penalty
    >>> after < before
    True

    Reference:
        Lee, Ajanthan, Gould, Torr, 2020, arXiv 1906.06307.
    """
    rates = is_number(learning_rate) and learning_rate > 0
    if not (is_whole(steps, 0) and rates and is_number(tolerance) and tolerance >= 0):
        raise ValueError(
            "`steps` must be a whole number, 0 or more, `learning_rate` positive, "
            f"`tolerance` 0 or more. Received: steps={steps!r}, "
            f"learning_rate={learning_rate!r}, tolerance={tolerance!r}. "
            "The authors take 10_000 steps of rate 0.1."
        )
    check_flag("verbose", verbose)
    rows, results = [], []
    kernels = _masked(pruned)
    for k in tqdm(kernels, "isometry", delay=3, disable=not verbose):
        before, mask = (_matrices(k, v) for v in (k.effective(), k.mask))
        after = _descend(before, mask, steps, learning_rate, tolerance)
        result = matrices.from_matrices(k, after).astype(k.variable.dtype)
        ends = before, _matrices(k, result)
        first, last = (float(_penalty(_upright(v))[0]) for v in ends)
        values = tuple(_summary(_singular_values(v)) for v in ends)
        zeros = _zeros(before)
        rows.append(KernelIsometry(k.path, before.shape, zeros, (first, last), values))
        results.append(result)
    for kernel, result in zip(kernels, results, strict=True):
        kernel.assign(result)
    return IsometryReport(rows)


def singular_values(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the singular values of the kernels of dense and convolution layers.

    Args:
        model: A built Keras model, pruned or not.

    Returns:
        `{path of the kernel variable: array}`, values that fall. They are those of
        mask * scale * weights reshaped to (positions * inputs, outputs), of all groups
        together. A depthwise convolution has one group for each channel.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, or has no dense or convolution layer.

    Example:

    >>> import keras
    >>> import keras_prune_init as kpi
    >>> dense = keras.layers.Dense(2, kernel_initializer="identity", name="logits")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> [values.tolist() for values in kpi.singular_values(model).values()]
    [[1.0, 1.0]]
    """
    kernels = matrices.matrix_kernels(model)
    return {k.path: _singular_values(_matrices(k, k.effective())) for k in kernels}


def _masked(model) -> list[Kernel]:
    kernels = [k for k in matrices.matrix_kernels(model) if k.wrapper is not None]
    if not kernels:
        raise ValueError(
            "`approximate_isometry` takes a pruned model: one that `prune_at_init` "
            f"returned. Received: model={model.name}, without a masked dense or "
            "convolution layer. Prune it first."
        )
    check_finished("approximate_isometry", model)
    scaled = [k.path for k in kernels if k.scale is not None and np.any(k.scale != 1)]
    if scaled:
        raise ValueError(
            "Rescaling and approximate isometry are alternatives. "
            f"Received: {model.name}, rescaled in {', '.join(scaled)}. "
            "Prune without `rescale`."
        )
    return kernels


def _matrices(kernel, values):
    """Reshape kernel-shaped values to (groups, positions * inputs, outputs)."""
    groups, *_, outputs = matrices.matrices_shape(kernel)
    stack = matrices.to_matrices(kernel, values)
    return stack.reshape(groups, -1, outputs).astype(np.float32)


def _upright(stack):
    """Return the matrices, or their transposes if these have more rows."""
    return stack if stack.shape[1] >= stack.shape[2] else stack.swapaxes(1, 2)


def _descend(stack, mask, steps, rate, tolerance):
    """Return the weights with the lowest penalty of all steps."""
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
    return best.numpy() if best.shape == stack.shape else best.numpy().swapaxes(1, 2)


@tf.function(input_signature=[STACK, STACK, tf.TensorSpec([]), COUNT])
def _steps(v, kept, rate, count):
    for _ in tf.range(count):
        penalty, gradient = _penalty(v)
        gradient *= kept
        to_zero = penalty / tf.maximum(tf.reduce_sum(gradient**2), 1e-30)
        v -= tf.minimum(rate, to_zero) * gradient
    return v


def _penalty(v):
    """Return || V^T V - I ||_F of a block diagonal matrix, and its gradient."""
    excess = tf.matmul(v, v, transpose_a=True) - tf.eye(tf.shape(v)[2], dtype=v.dtype)
    penalty = tf.norm(excess)
    return penalty, 2 * tf.matmul(v, excess) / tf.maximum(penalty, 1e-12)


def _zeros(stack):
    rows, columns = (np.count_nonzero(stack.any(axis), axis=1) for axis in (2, 1))
    return int(np.sum(min(stack.shape[1:]) - np.minimum(rows, columns)))


def _singular_values(stack):
    return np.sort(np.linalg.svd(stack, compute_uv=False), axis=None)[::-1]


def _summary(values):
    numbers = values.mean(), values.min(), values.max(), values.std()
    return SingularValues(*map(float, numbers))
