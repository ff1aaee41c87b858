"""Kernels of dense and convolution layers, as the matrices that theory speaks of."""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init._arguments import check_model
from keras_prune_init.layers import kernels, types
from keras_prune_init.layers.masked import MaskedLayer

L = keras.layers

# Recurrent layers use a kernel many times, embeddings look its rows up.
LAYERS = types.LINEAR


class MatrixKernel(NamedTuple):
    """A kernel that maps inputs to outputs, by one matrix a group and position.

    Attributes:
        path: Its unique name in the model.
        layer: The layer, without the `MaskedLayer` around it.
        name: The attribute path of the kernel in `layer`.
        masked: The `MaskedLayer`, or `None`.
    """

    path: str
    layer: keras.layers.Layer
    name: str
    masked: MaskedLayer | None

    @property
    def owner(self) -> keras.layers.Layer:
        return kernels.owner(self.layer, self.name)

    @property
    def variable(self) -> keras.Variable:
        return kernels.get_kernel(self.layer, self.name)

    @property
    def mask(self) -> np.ndarray | None:
        """Which weights are kept, kernel-shaped and bool."""
        return self.masked and self.masked.kept_mask(self.name)

    @property
    def value(self) -> np.ndarray:
        """The weights before `scale`, 0 where one was removed."""
        if self.masked is None:
            return self.variable.numpy()
        return self.masked.kernel_value(self.name)

    def assign(self, values: np.ndarray) -> None:
        """Set the weights; what was removed stays 0."""
        if self.masked is None:
            self.variable.assign(values)
        else:
            self.masked.install(self.name, self.mask, values)

    @property
    def scale(self) -> keras.Variable | None:
        return self.masked and self.masked.scales[self.name]

    def effective(self) -> np.ndarray:
        """The kernel that the forward pass uses."""
        if self.masked is None:
            return self.variable.numpy()
        return np.asarray(self.masked.masked_kernel(self.name))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of `stack`: (groups, *positions, inputs, outputs)."""
        view, axes = self._axes()
        groups, positions, inputs, outputs = ([view[i] for i in a] for a in axes)
        return math.prod(groups), *positions, math.prod(inputs), math.prod(outputs)

    def stack(self, values: np.ndarray) -> np.ndarray:
        """Kernel-shaped values as a stack of matrices, of shape `shape`."""
        view, axes = self._axes()
        return np.reshape(values, view).transpose(sum(axes, [])).reshape(self.shape)

    def unstack(self, stack: np.ndarray) -> np.ndarray:
        """The opposite of `stack`."""
        view, axes = self._axes()
        order = sum(axes, [])
        values = np.reshape(stack, [view[i] for i in order])
        return values.transpose(np.argsort(order)).reshape(self.variable.shape)

    def _axes(self):
        """A shape of the kernel; its axes of groups, positions, inputs and outputs."""
        shape, last = tuple(self.variable.shape), len(self.variable.shape) - 1
        positions = list(range(last - 1))
        role = kernels.role(self.layer, self.name)
        if role is types.EINSUM:
            return shape, _einsum_axes(self.owner.equation)
        if role is types.TRANSPOSED:
            return shape, ([], positions, [last], [last - 1])
        if role is types.DEPTHWISE:
            return shape, ([last - 1], positions, [], [last])
        groups = getattr(self.owner, "groups", 1)
        view = (*shape[:last], groups, shape[last] // groups)
        return view, ([last], positions, [last - 1], [last + 1])


def _einsum_axes(equation):
    given, kernel, made = types.einsum_parts(equation)
    places = [(axis in given, axis in made) for axis in kernel]

    def axes(*place):
        return [i for i, p in enumerate(places) if p == place]

    return axes(True, True), [], axes(True, False), axes(False, True)


def matrix_kernels(model: keras.Model) -> list[MatrixKernel]:
    """The kernels of dense and convolution layers, masked or not, in order.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, or has none.
    """
    check_model(model)
    found, taken = [], {}
    for _, outer in kernels.walk(model):
        masked = outer if isinstance(outer, MaskedLayer) else None
        layer = masked.layer if masked else outer
        for name in kernels.kernel_names(layer) if layer.built else ():
            variable = kernels.get_kernel(layer, name)
            if not isinstance(kernels.owner(layer, name), LAYERS):
                continue
            if not isinstance(variable, keras.Variable) or not kernels.is_float(
                variable
            ):
                continue  # quantized, or with LoRA weights
            # Nested models may hold equal paths; a key must name one tensor.
            count = taken[variable.path] = taken.get(variable.path, 0) + 1
            path = variable.path if count == 1 else f"{variable.path}_{count}"
            own = masked if masked and name in masked.kernels else None
            found.append(MatrixKernel(path, layer, name, own))
    if not found:
        raise ValueError(
            "The model must be built and have a dense or convolution layer. "
            f"Received: {model.name}, built: {model.built}. Give it an `Input` layer, "
            "call `model.build(input_shape)`, or call it once on data."
        )
    return found
