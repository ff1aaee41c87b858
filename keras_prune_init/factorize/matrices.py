"""The matrix of a kernel, and which layers of a model have one.

Its rows are what the layer reads, its columns what the layer makes: the transpose of
theta in the paper of Alvarez and Salzmann (2017, arXiv 1711.02638). A form says how the
kernel of a convolution becomes a matrix, and which two layers compute with its factors:

    "pointwise"  (k k inputs) x outputs: k x k to some channels, then 1 x 1
    "separable"  (k inputs) x (k outputs): k x 1 to some channels, then 1 x k
"""

from __future__ import annotations

import collections

import keras
import numpy as np

from keras_prune_init._arguments import check_choice, check_model
from keras_prune_init.layers.filters import Filters
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.prunable import NO_KERNEL, prunable
from keras_prune_init.layers.walk import flatten, held
from keras_prune_init.surgery.exchange import check_finished, masked_layers

L = keras.layers

FORMS = ("pointwise", "separable")
CONVOLUTIONS = (L.Conv1D, L.Conv2D, L.Conv3D)


def is_separable(shape: tuple[int, ...], form: str) -> bool:
    """Whether the form `"separable"` applies: to kernels of images alone."""
    return form == "separable" and len(shape) == 4


def to_matrix(values: np.ndarray, form: str) -> np.ndarray:
    """Return a kernel, of shape (*positions, inputs, outputs), as its matrix."""
    if is_separable(values.shape, form):
        down, _, inputs, _ = values.shape
        return values.transpose(0, 2, 1, 3).reshape(down * inputs, -1)
    return values.reshape(-1, values.shape[-1])


def from_matrix(matrix: np.ndarray, shape: tuple[int, ...], form: str) -> np.ndarray:
    """Undo `to_matrix`: return the kernel of this shape."""
    if is_separable(shape, form):
        down, right, inputs, outputs = shape
        return matrix.reshape(down, inputs, right, outputs).transpose(0, 2, 1, 3)
    return matrix.reshape(shape)


def factor_kernels(
    left: np.ndarray, right: np.ndarray, shape: tuple[int, ...], form: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernels of the two layers that compute with `left @ right`."""
    rank = left.shape[1]
    if is_separable(shape, form):
        return (
            left.reshape(shape[0], 1, shape[2], rank),
            right.reshape(rank, shape[1], shape[3]).swapaxes(0, 1)[None],
        )
    ones = (1,) * (len(shape) - 2)
    return left.reshape(*shape[:-1], rank), right.reshape(*ones, rank, shape[-1])


def matrix_kernels(
    function: str, model: keras.Model, form: str, filters: Filters
) -> tuple[list[Kernel], list[tuple[str, str]]]:
    """Return the kernels that a function treats as matrices, in definition order.

    Also return `(layer path, reason)` for every other layer with a kernel.

    Raises:
        ValueError: If a part of the model is pruned, or there is no such kernel.
    """
    check_model(model)
    check_choice("form", form, FORMS)
    check_finished(function, model)
    if masked := masked_layers(model):
        raise ValueError(
            f"`{function}` takes a model without masks: a matrix of low rank has no "
            f"zeros where a mask wants them. Received: model={model.name}, in which "
            f"{masked[0].name} is a MaskedLayer. Call `strip` first, or factorize "
            "first and prune the factors."
        )
    found, skipped = prunable(model, filters)
    holders = collections.Counter(
        key
        for layer in flatten(model)
        for key in {id(v) for _, v in held(layer, keras.Variable)}
    )
    kernels, refused = [], {}
    for kernel in found:
        if reason := _obstacle(kernel, holders[id(kernel.variable)]):
            refused[kernel.layer.path or kernel.layer.name] = reason
        else:
            kernels.append(kernel)
    if not kernels:
        named = "; ".join(f"{path} ({why})" for path, why in refused.items())
        raise ValueError(
            f"`{function}` needs a Dense or Conv1D to Conv3D layer. Received: "
            f"model={model.name}, filters={filters!r}, which choose "
            f"{named or 'no layer with a kernel'}. Choose other layers."
        )
    others = [row for row in skipped if row[1] != NO_KERNEL]
    return kernels, [*others, *refused.items()]


def _obstacle(kernel, holders) -> str | None:
    """Return why two layers cannot take the place of one; `None` if they can."""
    layer = kernel.layer
    if type(layer) not in (L.Dense, *CONVOLUTIONS):
        return f"its class, {type(layer).__name__}, stays as it is"
    if getattr(layer, "groups", 1) > 1:
        return "its groups are matrices of their own"
    if layer.kernel_constraint is not None:
        return "its kernel has a constraint, which factors would not meet"
    return "another layer has the same kernel" if holders > 1 else None
