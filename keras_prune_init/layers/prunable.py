"""Which kernels of a model can be pruned, and why the others cannot.

Only kernels are pruned: biases, normalization and other vectors never are.
"""

from __future__ import annotations

import collections

import keras

from keras_prune_init.layers import types
from keras_prune_init.layers.filters import Filters, check_filters, passes_filters
from keras_prune_init.layers.kernel_paths import get_kernel, input_axes, kernel_names
from keras_prune_init.layers.kernels import Kernel, find_kernels, is_float
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.walk import (
    children,
    flatten,
    held,
    is_builtin,
    is_composite,
    is_graph,
    outermost,
)

# Reasons, as `PruningReport.skipped` gives them, beside `_how_to_register`.
NO_KERNEL = "has only vectors (biases, normalization), which are never pruned"
FILTERED = "left out by `filters` or `what`"
NOT_PLAIN = "its kernel is quantized or has LoRA weights"


def prunable(
    model: keras.Model, filters: Filters = None
) -> tuple[list[Kernel], list[tuple[str, str]]]:
    """Find the kernels of a built model that can be pruned, in definition order.

    Also return `(layer path, reason)` for every layer with weights that is not pruned.
    Wrong `filters` are refused, and layers without the kernels that their class was
    registered with.
    """
    check_filters(filters)
    _check_registered(model)
    found = collections.defaultdict(list)
    for kernel in find_kernels(model):
        found[id(kernel.layer)].append(kernel)
    kernels, skipped = [], []
    for _, layer in outermost(model):
        layer = layer.layer if isinstance(layer, MaskedLayer) else layer
        if not layer.weights:
            continue
        holds = is_graph(layer) or is_composite(layer)
        parts = [layer] if holds else flatten(layer)
        lines = ((v.path or v.name, _how_to_register(v)) for v in parts)
        unknown = [(path, line) for path, line in lines if line]
        skipped += unknown
        reason = None if holds else _reason(layer, filters)
        if reason and not (unknown and reason == NO_KERNEL):
            skipped.append((layer.path or layer.name, reason))
        if not reason:
            every = filters != "trainable"
            kernels += [k for k in found[id(layer)] if every or k.variable.trainable]
    return kernels, skipped


def _own_matrices(layer) -> tuple[str, ...]:
    """Return the names of a layer's float matrices; `""` for one in no attribute."""
    inside = {id(v) for _, child in children(layer) for v in child.weights}
    attributes = {id(v): ".".join(key) for key, v in held(layer, keras.Variable)}
    own = [v for v in layer.weights if id(v) not in inside and is_float(v)]
    # A token of shape (1, 1, n) is a vector.
    matrices = [v for v in own if sum(n > 1 for n in v.shape) > 1]
    return tuple(attributes.get(id(v), "") for v in matrices)


def _how_to_register(layer) -> str | None:
    """Return code that registers a layer's class; `None` if it has no matrices."""
    unknown = not (is_builtin(layer) or is_graph(layer) or types.holds_kernels(layer))
    names = _own_matrices(layer) if unknown else ()
    cls = type(layer).__name__
    if isinstance(layer, keras.Model) and names:
        return f"`{cls}` is a model; weights of its own are pruned if a layer has them"
    if "" in names:
        return f"`{cls}` has a matrix in no attribute; name it by `self.w = add_weight`"
    listed = ", ".join(f'"{name}"' for name in names) + "," * (len(names) == 1)
    line = f"`{cls}` is not known; keras_prune_init.register_layer({cls}, kernels="
    return f"{line}({listed}))" if names else None


def _reason(layer, filters) -> str | None:
    """Return why a leaf cannot be pruned; `None` if it can."""
    names = kernel_names(layer)
    if not names:
        return NO_KERNEL
    if not passes_filters(layer, filters):
        return FILTERED
    kernels = [get_kernel(layer, name) for name in names]
    if not all(isinstance(k, keras.Variable) and is_float(k) for k in kernels):
        return NOT_PLAIN
    if filters == "trainable" and not any(k.trainable for k in kernels):
        return FILTERED
    return None


def _check_registered(model):
    """Check that layers have the kernels that their classes were registered with."""
    found: dict[tuple[str, str], bool] = {}
    for layer in flatten(model):
        kind = types.type_of(layer)
        if not (kind and kind.registered and layer.built):
            continue
        cls = type(layer).__name__
        for name in kind.kernels:
            value = get_kernel(layer, name)
            if not (value is None or isinstance(value, keras.Variable)):
                raise ValueError(
                    "A kernel must be a variable that `add_weight` made. "
                    f"Received: {name!r} of {layer.name} (a {cls}), which is a "
                    f"{type(value).__name__}. Register the attribute with the variable."
                )
            if value is not None:
                input_axes(layer, name)
            found[cls, name] = found.get((cls, name), False) or value is not None
    missing = [f"{n!r} of {cls}" for (cls, n), there in found.items() if not there]
    if missing:
        raise ValueError(
            "A registered layer must have the kernels that it was registered with. "
            f"Received: a model whose layers do not have {', '.join(missing)}. Name "
            "the attributes that hold them when the layer is built."
        )
