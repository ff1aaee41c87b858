"""The one record of a kernel: where it is, its name, and what pruning left of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_prune_init.layers import kernel_paths
from keras_prune_init.layers.kernel_paths import get_kernel, kernel_names
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.roles import Role
from keras_prune_init.layers.types import Trait
from keras_prune_init.layers.walk import Address, outermost


class Kernel(NamedTuple):
    """One kernel of a model, pruned or not.

    Attributes:
        path: Its name in scores, masks and reports: the path of its variable in the
            model that was pruned, with a number if that is not the first of its kind.
        address: Where its layer is in the model.
        layer: The layer, without the wrapper around it.
        name: The attribute path of the kernel in `layer`.
        wrapper: The `MaskedLayer` that holds its mask, or `None`.
    """

    path: str
    address: Address
    layer: keras.layers.Layer
    name: str
    wrapper: MaskedLayer | None = None

    @property
    def variable(self) -> keras.Variable:
        """The variable of the layer; in the layout "compact" it has a shape only."""
        return get_kernel(self.layer, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the variable."""
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
        """The layer whose call uses the kernel: one of a trait, or the owner."""
        return kernel_paths.runner(self.layer, self.name, traits)

    @property
    def mask(self) -> np.ndarray | None:
        """Which weights are kept, kernel-shaped and bool; `None` if not pruned."""
        return None if self.wrapper is None else self.wrapper.kept_mask(self.name)

    @property
    def scale(self) -> keras.Variable | None:
        """The rescaling factor; `None` if not pruned."""
        return None if self.wrapper is None else self.wrapper.scales[self.name]

    @property
    def value(self) -> np.ndarray:
        """The weights before `scale`, 0 where one was removed."""
        if self.wrapper is None:
            return np.asarray(self.variable.value)
        return self.wrapper.kernel_value(self.name)

    def effective(self) -> np.ndarray:
        """The kernel that the forward pass uses."""
        if self.wrapper is None:
            return np.asarray(self.variable.value)
        return np.asarray(self.wrapper.masked_kernel(self.name))

    def assign(self, values: np.ndarray) -> None:
        """Set the weights; what was removed stays 0."""
        if self.wrapper is None:
            self.variable.assign(values)
        else:
            self.wrapper.install(self.name, self.wrapper.kept_mask(self.name), values)


def find_kernels(model: keras.Model) -> list[Kernel]:
    """All kernels of a model, pruned or not, in definition order."""
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
    """A path, numbered if it is not the first: nested models may hold equal ones."""
    count = taken[path] = taken.get(path, 0) + 1
    return path if count == 1 else f"{path}_{count}"


def scoring_dtype(kernels: Iterable[Any]) -> str:
    """Scores are made in float32, or in float64 if the layers compute in it."""
    wide = any(k.layer.compute_dtype == "float64" for k in kernels)
    return "float64" if wide else "float32"


def is_float(variable: keras.Variable) -> bool:
    """Whether these are numbers that can be trained, not counts or quantized."""
    return "float" in keras.backend.standardize_dtype(variable.dtype)
