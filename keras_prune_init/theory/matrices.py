"""Kernels of dense and convolution layers, as the matrices of the theory."""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_prune_init._arguments import check_model
from keras_prune_init.layers import roles
from keras_prune_init.layers.kernels import Kernel, find_kernels, is_float
from keras_prune_init.layers.types import Trait, has


def matrix_kernels(model: keras.Model) -> list[Kernel]:
    """Return the kernels of dense and convolution layers, masked or not, in order."""
    check_model(model)
    found = [
        k
        for k in find_kernels(model)
        # Recurrent layers use a kernel many times, embeddings look its rows up.
        if has(k.owner, Trait.LINEAR) and is_float(k.variable)
    ]
    if not found:
        raise ValueError(
            "The model must be built and have a dense or convolution layer. "
            f"Received: {model.name}, built: {model.built}. Give it an `Input` layer, "
            "call `model.build(input_shape)`, or call it once on data."
        )
    return found


def matrices_shape(kernel: Kernel) -> tuple[int, ...]:
    """Return the shape of `to_matrices`: (groups, *positions, inputs, outputs)."""
    view, axes = _axes(kernel)
    groups, positions, inputs, outputs = ([view[i] for i in a] for a in axes)
    return math.prod(groups), *positions, math.prod(inputs), math.prod(outputs)


def to_matrices(kernel: Kernel, values: np.ndarray) -> np.ndarray:
    """Return kernel-shaped values as matrices, one for each group and position."""
    view, axes = _axes(kernel)
    matrices = np.reshape(values, view).transpose(sum(axes, []))
    return matrices.reshape(matrices_shape(kernel))


def from_matrices(kernel: Kernel, matrices: np.ndarray) -> np.ndarray:
    """Undo `to_matrices`: return values of the kernel's shape."""
    view, axes = _axes(kernel)
    order: list[int] = sum(axes, [])
    values = np.reshape(matrices, [view[i] for i in order])
    return values.transpose(np.argsort(order)).reshape(kernel.shape)


def _axes(kernel):
    """Return a shape of the kernel; its axes of groups, positions, inputs, outputs."""
    shape, last = kernel.shape, len(kernel.shape) - 1
    positions = list(range(last - 1))
    role = kernel.role
    if role is roles.EINSUM:
        return shape, _einsum_axes(kernel.owner.equation)
    if role is roles.TRANSPOSED:
        return shape, ([], positions, [last], [last - 1])
    if role is roles.DEPTHWISE:
        return shape, ([last - 1], positions, [], [last])
    groups = getattr(kernel.owner, "groups", 1)
    view = (*shape[:last], groups, shape[last] // groups)
    return view, ([last], positions, [last - 1], [last + 1])


def _einsum_axes(equation):
    given, kernel, made = roles.einsum_parts(equation)
    places = [(axis in given, axis in made) for axis in kernel]

    def axes(*place):
        return [i for i, p in enumerate(places) if p == place]

    return axes(True, True), [], axes(True, False), axes(False, True)
