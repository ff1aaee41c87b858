"""Replace a layer in a copy: by a masked one, or by an ordinary one again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras

from keras_prune_init._arguments import check_choice, check_model, some
from keras_prune_init.layers import tracking
from keras_prune_init.layers.compact import COMPUTES, CompactLayer
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.penalized import PenalizedLayer
from keras_prune_init.layers.walk import walk
from keras_prune_init.sparse import conditions
from keras_prune_init.surgery.copier import Copier

Layer: TypeAlias = keras.layers.Layer
Change = Callable[[Layer, Copier], Layer | None]

# In the last three, a `CompactLayer` says how it computes.
LAYOUTS = ("masked", *COMPUTES)
# With those that users do not choose; rooms above add more.
WRAPPERS: dict[str, type[MaskedLayer]] = {
    "masked": MaskedLayer,
    **dict.fromkeys(COMPUTES, CompactLayer),
    "penalized": PenalizedLayer,
}
# What is in a model for a part of its training only, and what takes it out.
PASSING: dict[type[Layer], tuple[str, str]] = {
    PenalizedLayer: ("penalties of learning-compression", "callback.finish(model)")
}


def check_layout(layout: Any) -> None:
    """Raise an error unless an argument names a layout that can be made here."""
    check_choice("layout", layout, LAYOUTS)
    if layout == "sparse":
        conditions.check_installed()


def masked_layers(model: keras.Model) -> list[MaskedLayer]:
    """Return the `MaskedLayer`s of a model, each once, in definition order."""
    return [v for _, v in walk(model) if isinstance(v, MaskedLayer)]


def weights_of(model: keras.Model) -> list[keras.Variable]:
    """Return a model's weights without masks and scales.

    The order is the same in a model and in all its copies with other masks in place.
    """
    fixed = {id(v) for layer in masked_layers(model) for v in layer.fixed}
    return [v for v in model.weights if id(v) not in fixed]


def check_pruned(function: str, model: Any, advice: str = "Prune it first.") -> None:
    """Raise an error unless the argument of a function is a pruned Keras model."""
    check_model(model)
    if not masked_layers(model):
        raise ValueError(
            f"`{function}` takes a pruned model: one that `prune_at_init` returned. "
            f"Received: model={model.name}, which has no MaskedLayer. {advice}"
        )


def check_finished(function: str, model: keras.Model, *kinds: type[Layer]) -> None:
    """Raise a ValueError if a model has gates, hinges or penalties of a training.

    Some `kinds` of `PASSING`, or by default all.
    """
    for cls in kinds or PASSING:
        what, end = PASSING[cls]
        if found := [v.name for _, v in walk(model) if isinstance(v, cls)]:
            raise ValueError(
                f"`{function}` takes a model without {what}. Received: "
                f"model={model.name}, with {what} in {some(found)}. Call `{end}` first."
            )


def masking(options: Mapping[int, dict]) -> Change:
    """Put layers in wrappers: `{id of the layer: arguments and layout}`."""

    def change(layer, copier):
        if id(layer) not in options:
            return None
        given = options[id(layer)]
        absent = []
        if issubclass(WRAPPERS[given["layout"]], CompactLayer) and layer.built:
            absent = [get_kernel(layer, name) for name in given["kernels"]]
        return masked(copier.without_values(layer, absent), **given)

    return change


def folded(layer: Layer, copier: Copier) -> Layer | None:
    """Return the ordinary layer that computes the same as a masked one."""
    if not isinstance(layer, MaskedLayer):
        return None
    return unwrapped(layer, copier, layer.in_use())


def to_layout(layout: str) -> Change:
    """Change masked layers to a layout."""

    def change(layer, copier):
        if not isinstance(layer, MaskedLayer):
            return None
        stored = layer.kernels if layout == "masked" else ()
        values = {name: layer.kernel_value(name) for name in stored}
        return wrapped_like(layer, unwrapped(layer, copier, values), layout=layout)

    return change


def unwrapped(layer: MaskedLayer, copier: Copier, values: Mapping) -> Layer:
    """Return a copy of the layer in a wrapper, with these values of its variables.

    They are by attribute path; a kernel that is not among them gets no storage.
    """
    kernels = [get_kernel(layer.layer, name) for name in layer.kernels]
    copier.leave_out(layer.fixed)
    inner = copier.without_values(layer.layer, kernels)
    layer.release(inner)
    for name in layer.kernels:
        if path := layer.path_of(name):
            tracking.rename(get_kernel(inner, name), path)
    for name, value in values.items():
        tracking.initialize(get_kernel(inner, name), value)
    return inner


def masked(layer: Layer, layout: str, **options) -> MaskedLayer:
    """Return a layer in a wrapper that removes nothing yet."""
    if layout in COMPUTES:
        options["computes"] = layout
    wrapper = WRAPPERS[layout](layer, **options)
    if layer.built:
        wrapper.build()
    return wrapper


def options_of(layer: MaskedLayer) -> dict:
    """Return the options with which `masked` made a wrapper."""
    return {**_shared_options(layer), **layer.own_options()}


def _shared_options(layer):
    """Return the options that a wrapper of any class has."""
    if isinstance(layer, CompactLayer):
        layout = layer.computes
    else:
        [layout] = (name for name, cls in WRAPPERS.items() if type(layer) is cls)
    options: dict[str, Any] = {"layout": layout, "note": layer.note}
    options["kernels"] = list(layer.kernels)
    options["paths"] = list(layer.paths)
    return options


def wrapped_like(
    wrapper: MaskedLayer,
    layer: Layer,
    cut: Callable = lambda values: values,
    **options: Any,
) -> MaskedLayer:
    """Return a layer in a wrapper like another one, with `cut` of its kernels.

    `options` are those in which the wrappers differ.
    """
    new = masked(layer, **{**_shared_options(wrapper), **options})
    for name in wrapper.kernels:
        mask, value = wrapper.kept_mask(name), wrapper.kernel_value(name)
        new.install(name, cut(mask), cut(value))
        new.scales[name].assign(cut(wrapper.scales[name].value))
    return new
