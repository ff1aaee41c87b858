"""The record of a kernel: where it is, its name, and what pruning left of it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_prune_init.layers import kernel_paths
from keras_prune_init.layers.kernel_paths import get_kernel, kernel_names
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.roles import Role
from keras_prune_init.layers.types import Trait, has
from keras_prune_init.layers.walk import Address, outermost


class Kernel(NamedTuple):
    """One kernel of a model, pruned or not."""

    # Its name in scores, masks and reports. This is the path of its variable in the
    # model that was pruned. If paths are equal, all but the first get a number.
    path: str
    address: Address  # where its layer is in the model
    layer: keras.layers.Layer  # without the wrapper around it
    name: str  # the attribute path of the kernel in `layer`
    wrapper: MaskedLayer | None = None  # what holds its mask

    @property
    def variable(self) -> keras.Variable:
        """The variable of the layer; in the layout `"compact"` it has only a shape."""
        return get_kernel(self.layer, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return tuple(self.variable.shape)

    @property
    def owner(self) -> keras.layers.Layer:
        """The layer that holds the variable: `layer` itself or one inside it."""
        return kernel_paths.owner(self.layer, self.name)

    @property
    def role(self) -> Role:
        """What the kernel does in its owner."""
        return kernel_paths.role(self.layer, self.name)

    @property
    def input_axes(self) -> tuple[int, ...]:
        """The axes that are summed over to make one output unit."""
        return kernel_paths.input_axes(self.layer, self.name)

    def runner(self, traits: Trait = Trait.LOOP) -> keras.layers.Layer:
        """Return the layer whose call uses the kernel: with a trait, or the owner."""
        layers = kernel_paths.around(self.layer, self.name)
        return next((v for v in layers if has(v, traits)), layers[-1])

    @property
    def mask(self) -> np.ndarray | None:
        """Which weights are kept, a bool array; `None` if not pruned."""
        return None if self.wrapper is None else self.wrapper.kept_mask(self.name)

    @property
    def scale(self) -> keras.Variable | None:
        """The rescaling factor; `None` if not pruned."""
        return None if self.wrapper is None else self.wrapper.scales[self.name]

    @property
    def value(self) -> np.ndarray:
        """The weights before they are multiplied by `scale`; removed weights are 0."""
        if self.wrapper is None:
            return np.asarray(self.variable.value)
        return self.wrapper.kernel_value(self.name)

    def generator(self, seed: int) -> np.random.Generator:
        """Return a source of random numbers, by the seed and the path alone."""
        return np.random.default_rng([seed, zlib.crc32(self.path.encode())])

    def effective(self) -> np.ndarray:
        """Return the kernel that the forward pass uses."""
        if self.wrapper is None:
            return np.asarray(self.variable.value)
        return np.asarray(self.wrapper.masked_kernel(self.name))

    def assign(self, values: np.ndarray) -> None:
        """Set the weights; removed weights stay 0."""
        if self.wrapper is None:
            self.variable.assign(values)
        else:
            self.wrapper.set_kernel(self.name, values)


def find_kernels(model: keras.Model) -> list[Kernel]:
    """Return all kernels of a model, pruned or not, in definition order."""
    found: list[Kernel] = []
    taken: dict[str, int] = {}
    for address, leaf in outermost(model, composites=False):
        outer = leaf if isinstance(leaf, MaskedLayer) else None
        layer = leaf if outer is None else outer.layer
        for name in kernel_names(layer) if layer.built else ():
            variable = get_kernel(layer, name)
            wrapper = outer if outer is not None and name in outer.kernels else None
            noted = None if wrapper is None else wrapper.path_of(name)
            path = unique(noted or str(getattr(variable, "path", "")), taken)
            if isinstance(variable, keras.Variable):  # and not made in each call
                found.append(Kernel(path, address, layer, name, wrapper))
    return found


def unique(path: str, taken: dict[str, int]) -> str:
    """Return a path, with a number if it is taken; those of nested models may be."""
    count = taken[path] = taken.get(path, 0) + 1
    return path if count == 1 else f"{path}_{count}"


def scoring_dtype(kernels: Iterable[Any]) -> str:
    """Return the dtype of scores: float64 if a layer computes in it, else float32."""
    wide = any(k.layer.compute_dtype == "float64" for k in kernels)
    return "float64" if wide else "float32"


def is_float(variable: keras.Variable) -> bool:
    """Whether a variable holds floats, which can be trained; counts and int8 do not."""
    return keras.backend.is_float_dtype(variable.dtype)
