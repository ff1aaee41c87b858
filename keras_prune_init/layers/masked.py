"""MaskedLayer: a layer whose kernels are multiplied by a mask and a scale."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_prune_init.layers import spectral, types
from keras_prune_init.layers.kernel_paths import get_kernel, input_axes, kernel_names
from keras_prune_init.layers.stand_in import (
    KernelInUse,
    OnKept,
    UpdatesNoted,
    refuse_quantization,
)

PACKAGE = "keras_prune_init"


def _checked_names(layer, given):
    """Return the names of the kernels to mask."""
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            "`layer` must be a keras.layers.Layer. Received: "
            f"layer={layer!r}. Pass one, such as keras.layers.Dense(10)."
        )
    known = kernel_names(layer)
    listed = isinstance(given, (list, tuple)) and all(isinstance(n, str) for n in given)
    if not (given is None or listed):
        raise TypeError(
            "`kernels` must be a list of attribute paths. Received: kernels="
            f"{given!r}. Pass for example kernels=['kernel'], or leave it out."
        )
    # A class that is not yet registered in this process has no known kernels.
    unknown = [name for name in given or () if known and name not in known]
    if unknown:
        raise ValueError(
            f"`kernels` must name kernels of the layer: {', '.join(known)}. Received: "
            f"kernels={given!r} for {layer.name}. Choose some of these."
        )
    return tuple(given or known)


def _checked_paths(given, kernels):
    """Return the names of the kernels in reports, or an empty tuple."""
    paths = () if given is None else given
    listed = isinstance(paths, (list, tuple)) and all(isinstance(p, str) for p in paths)
    if not listed or len(paths) not in (0, len(kernels)):
        raise ValueError(
            "`paths` must be as many names as there are kernels. Received: paths="
            f"{given!r} for the kernels {', '.join(kernels)}. Leave it out."
        )
    return tuple(paths)


def part_name(kernel, kind):
    return f"{kernel}_{kind}".replace(".", "_")


@keras.saving.register_keras_serializable(PACKAGE)
class MaskedLayer(keras.layers.Wrapper):
    """Run a layer with `kernel * mask * scale` in place of each of its kernels.

    `prune_at_init` puts these layers into a model. Nothing is assigned during a call,
    so any optimizer, any training loop, mixed precision and XLA work. A pruned weight
    gets a gradient of exactly 0.

    It stands in for the layer: `units`, `activation`, `bias` and all other attributes
    are those of the layer, and `kernel` is what the forward pass uses. `get_weights()`
    returns the mask and scale of each kernel first, then the weights of the layer.

    Args:
        layer: The layer to mask, built or not. It may be any Keras layer with a kernel,
            a layer that contains such layers, or one of a class that was given to
            `register_layer`.
        kernels: Attribute paths of the kernels to mask, such as `["kernel"]` or
            `["cell.kernel"]`. Default: every kernel of the layer. The methods get such
            a path as `name`.
        note: How the masks were chosen, for `report`.
        paths: Names of the kernels in reports, in the order of `kernels`. Default: the
            paths of their variables.
        **kwargs: `name` (default: the layer's) and other `keras.layers.Layer`
            arguments.

    Attributes:
        masks: `{kernel attribute path: variable}` of the kernel's shape; 1 keeps a
            weight and 0 removes it.
        scales: `{kernel attribute path: variable}`, the rescaling factors. They have
            size 1 along the kernel's input axes, and the kernel's shape otherwise.
        mask: The mask of a layer with one kernel.
        scale: The rescaling factor of a layer with one kernel.

    Raises:
        ValueError: If the layer has no kernel that can be masked, or an argument does
            not fit.
        TypeError: If `layer` is no layer, or `kernels` are no names.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> layer = kpi.MaskedLayer(keras.layers.Dense(2, kernel_initializer="ones"))
    >>> layer.build((None, 3))
    >>> _ = layer.mask.assign([[1, 0], [1, 1], [0, 0]])
    >>> layer(np.array([[1.0, 10.0, 100.0]])).numpy()
    array([[11., 10.]], dtype=float32)

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", 2021,
        arXiv 2002.08797 (mask and rescaling factor).
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kernels: Sequence[str] | None = None,
        note: str = "",
        paths: Sequence[str] | None = None,
        **kwargs,
    ):
        kernels = _checked_names(layer, kernels)
        paths = _checked_paths(paths, kernels)
        if not kernels:
            known = (c.__name__ for c, row in types.TYPES.items() if row.kernels)
            raise ValueError(
                "A MaskedLayer needs a layer with a kernel. "
                f"Received: layer={layer}. "
                f"Supported: {', '.join(known)}, and what `register_layer` adds."
            )
        # Keras reads from the signatures which arguments (masks, training, initial
        # states...) and shapes to pass. They must be those of the wrapped layer.
        call: Any = functools.partial(self._masked_call)
        build: Any = self.build
        call.__signature__ = self._signature(layer)
        object.__setattr__(self, "call", call)
        build.__signature__ = inspect.signature(layer.build)
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        kwargs.setdefault("trainable", layer.trainable)
        super().__init__(layer, **kwargs)
        self.supports_masking = layer.supports_masking
        self.kernels = kernels
        self.note = note
        self.paths = paths
        refuse_quantization(layer, layer.name)

    @staticmethod
    def _signature(layer):
        return inspect.signature(layer.call)

    def build(self, *args, **shapes):
        if not self.layer.built:
            self.layer.build(*args, **shapes)
        for name in self.kernels:
            kernel = get_kernel(self.layer, name)
            self._add_factor(name, "mask", kernel.shape)
            self._add_scale(name)
            if kernel.regularizer is not None:
                kernel.regularizer = OnKept(kernel.regularizer, self.masks[name])

    def _add_scale(self, name):
        inputs = input_axes(self.layer, name)
        sizes = enumerate(get_kernel(self.layer, name).shape)
        self._add_factor(name, "scale", [1 if i in inputs else n for i, n in sizes])

    def _add_factor(self, kernel, kind, shape, initializer="ones"):
        name = part_name(kernel, kind)
        variable = self.add_weight(
            shape=shape,
            initializer=initializer,
            trainable=False,
            name=name,
            # If replicas ever assign on their own, they must not drift apart.
            aggregation="only_first_replica",
        )
        # Separate attributes, because tf.train.Checkpoint follows no dict that grows.
        setattr(self, name, variable)

    def _parts(self, kind):
        found = {n: getattr(self, part_name(n, kind), None) for n in self.kernels}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def masks(self) -> dict[str, keras.Variable]:
        return self._parts("mask")

    @property
    def scales(self) -> dict[str, keras.Variable]:
        return self._parts("scale")

    @property
    def mask(self) -> keras.Variable:
        return self._single(self.masks)

    @property
    def scale(self) -> keras.Variable:
        return self._single(self.scales)

    def _single(self, variables):
        if len(variables) != 1:
            raise AttributeError(
                "`mask` and `scale` are for a built layer with one kernel. "
                f"Received: {self.name} with kernels {list(variables)}. "
                "Use `masks[name]` and `scales[name]`."
            )
        return next(iter(variables.values()))

    @property
    def fixed(self) -> list[keras.Variable]:
        """The variables that say what was pruned; they are the same on all workers."""
        return [*self.masks.values(), *self.scales.values()]

    def path_of(self, name: str) -> str | None:
        """Return the name of a kernel in reports; `None`: its variable's path."""
        return dict(zip(self.kernels, self.paths, strict=False)).get(name)

    def kept_mask(self, name: str) -> np.ndarray:
        """Return which weights of kernel `name` are kept, a bool array of its shape."""
        return np.asarray(self.masks[name].value) != 0

    def kernel_value(self, name: str) -> np.ndarray:
        """Return kernel `name` before `scale`, an array with 0 for removed weights."""
        kernel = np.asarray(get_kernel(self.layer, name).value)
        return np.where(self.kept_mask(name), kernel, 0)

    def install(self, name: str, mask: np.ndarray, values) -> None:
        """Set the mask of a kernel, and its kept weights.

        Removed weights become 0 in the kernel itself, too. So weight decay and
        regularizers see what the forward pass uses.

        Args:
            name: Attribute path of the kernel, such as `"kernel"`.
            mask: Array of the kernel's shape, 1 keeps a weight and 0 removes it.
            values: Array of the kernel's shape; entries of removed weights are ignored.
        """
        self.masks[name].assign(mask)
        self.set_kernel(name, values)

    def set_kernel(self, name: str, values) -> None:
        """Set the kept weights of the kernel `name`, also during a call.

        `values` has its shape; entries of removed weights are ignored.
        """
        kernel = get_kernel(self.layer, name)
        kernel.assign(values * self.masks[name].value)

    def masked_kernel(self, name: str):
        """Return kernel `name` as the forward pass uses it, a tensor of its shape."""
        # In this order backpropagation multiplies once, not twice.
        factor = self.masks[name].value * self.scales[name].value
        return get_kernel(self.layer, name).value * factor

    def in_use(self) -> dict[str, Any]:
        """Return what a call in inference uses in place of variables of the layer.

        These are tensors by attribute path: of every kernel, and of what a subclass
        changes beside.
        """
        return {name: self.masked_kernel(name) for name in self.kernels}

    def own_options(self) -> dict[str, Any]:
        """Return the arguments that the constructor of this class has beside ours."""
        return {}

    def release(self, layer: keras.layers.Layer) -> None:
        """Undo, in a copy of the wrapped layer, what wrapping did to it."""
        vars(layer).pop("enable_lora", None)
        for name in self.kernels:
            kernel = get_kernel(layer, name)
            if isinstance(kernel.regularizer, OnKept):
                kernel.regularizer = kernel.regularizer.regularizer

    # --- standing in for the layer ----------------------------------------------------

    def __getattr__(self, name):
        # Called only for attributes that a wrapper does not have itself.
        if hasattr(type(self), name):
            return object.__getattribute__(self, name)
        kernels = vars(self).get("kernels")
        if kernels is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if name in kernels and self.layer.built:
            return KernelInUse.of(self, name)
        return getattr(self.layer, name)

    def __setattr__(self, name, value):
        made = "kernels" in vars(self)
        own = name.startswith("_") or name in vars(self) or hasattr(type(self), name)
        if made and not own and name in vars(self.layer):
            setattr(self.layer, name, value)  # on the wrapper it would do nothing
        else:
            super().__setattr__(name, value)

    # --- running it -------------------------------------------------------------------

    def _masked_call(self, *args, **kwargs):
        if isinstance(self.layer, keras.layers.SpectralNormalization):
            args, kwargs = spectral.normalized(self, args, kwargs)
        return self._run(self.in_use(), args, kwargs)

    def _run(self, values, args, kwargs):
        """Call the layer with these values, by attribute path, of its variables."""
        # All variables are mapped, because a scope does not see the scopes around it.
        mapping = [(get_kernel(self.layer, path), v) for path, v in values.items()]
        replaced = {id(variable) for variable, _ in mapping}
        mapping += [(v, v.value) for v in self.layer.variables if id(v) not in replaced]
        with UpdatesNoted(mapping, collect_losses=True) as scope:
            outputs = self.layer(*args, **kwargs)
        for loss in scope.losses:
            # A copy, or the wrapped layer would claim the loss a second time.
            self.add_loss(keras.ops.copy(loss))
        # What the layer updated: the seed of a dropout, the state of a recurrent layer,
        # which Keras does not count among its variables.
        for variable in scope.updated.values():
            variable.assign(scope.get_current_value(variable))
        return outputs

    def bare_call(self, *args, **kwargs):
        """Run the `call` of the layer, with its own kernels, for these arguments."""
        return self.layer.call(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, inputs, previous_mask=None):
        return self.layer.compute_mask(inputs, previous_mask)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        for name, mask in self.masks.items():
            values = keras.ops.convert_to_numpy(mask)
            if not np.isin(values, (0, 1)).all():
                raise self._damaged(f"a mask of {name} with other values than 0 and 1")
        self._check_scales()

    def _check_scales(self):
        for name, scale in self.scales.items():
            if not np.isfinite(keras.ops.convert_to_numpy(scale)).all():
                raise self._damaged(f"a scale of {name} that is no finite number")

    def _damaged(self, what):
        return ValueError(
            "A pruned layer loads what one saved. Received: "
            f"{what}, for {self.name}. The file is damaged: take another copy of it."
        )

    def get_build_config(self):
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config):
        if config and not self.layer.built:
            self.layer.build_from_config(config["layer"])
        self.build()

    def get_config(self):
        names = {"kernels": list(self.kernels), "paths": list(self.paths)}
        return {
            **super().get_config(),
            **names,
            "note": self.note,
            **self.own_options(),
        }
