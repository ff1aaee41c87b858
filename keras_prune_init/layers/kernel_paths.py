"""Where the kernels of a layer are: attribute paths, and what they lead to."""

from __future__ import annotations

import keras

from keras_prune_init.layers import types
from keras_prune_init.layers.roles import Role
from keras_prune_init.layers.walk import children, is_composite, is_graph


def kernel_names(layer: keras.layers.Layer) -> tuple[str, ...]:
    """Return the attribute paths of a layer's kernels, including layers inside it.

    The result is empty if no kernel is known. It is empty for models and composites
    too, because their layers are pruned one by one.
    """
    if not isinstance(layer, keras.layers.Layer):  # an operation of a graph
        return ()
    holds = is_graph(layer) or is_composite(layer)
    return () if holds else tuple(_names(layer, set()))


def _names(layer, seen):
    seen.add(id(layer))
    kind = types.type_of(layer)
    for name in kind.kernels if kind else ():
        *parts, kernel = steps(layer, name)
        if kernel is not None or not layer.built:
            seen.update(map(id, parts))
            yield name
    for key, child in children(layer):
        if id(child) not in seen:
            for name in _names(child, seen):
                yield ".".join((*key, name))


def steps(layer: keras.layers.Layer, name: str) -> list:
    """Return all objects on an attribute path, from the layer to its end, or `None`.

    A part of the path is an attribute, a key of a dict, or a position in a list or
    among the layers of a model.
    """
    found = [layer]
    for key in name.split("."):
        value = found[-1]
        if isinstance(value, dict):
            value = next((v for k, v in value.items() if str(k) == key), None)
        elif key.isdigit():
            value = value.layers if is_graph(value) else value or ()
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = getattr(value, key, None)
        found.append(value)
    return found


def around(layer: keras.layers.Layer, name: str) -> list[keras.layers.Layer]:
    """Return the layers that kernel `name` is in, from `layer` to its owner."""
    return [v for v in steps(layer, name)[:-1] if isinstance(v, keras.layers.Layer)]


def owner(layer: keras.layers.Layer, name: str) -> keras.layers.Layer:
    """Return the layer that holds kernel `name`: `layer` itself or one inside it."""
    return around(layer, name)[-1]


def get_kernel(layer: keras.layers.Layer, name: str) -> keras.Variable:
    return steps(layer, name)[-1]


def role(layer: keras.layers.Layer, name: str) -> Role:
    """Return what kernel `name` does, from the table of layer classes."""
    keys = name.split(".")
    for i, part in enumerate(steps(layer, name)[:-1]):
        kind = types.type_of(part)
        found = kind and kind.kernels.get(".".join(keys[i:]))
        if found:
            return found
    cls = type(owner(layer, name)).__name__
    raise ValueError(
        "The class of a pruned layer must be known. "
        f"Received: {layer.name} with kernel {name!r} of a {cls}. Call "
        f"`keras_prune_init.register_layer({cls}, ...)` before the model is loaded, as "
        "when it was pruned."
    )


def input_axes(layer: keras.layers.Layer, name: str) -> tuple[int, ...]:
    """Return the axes of a kernel over which a sum makes one output unit."""
    shape = tuple(get_kernel(layer, name).shape)
    axes = role(layer, name).inputs
    found = _counted(layer, name, axes)
    if len(set(found)) < len(found) or not set(found) <= set(range(len(shape))):
        raise ValueError(
            "`input_axes` must be different axes of the kernel. "
            f"Received: input_axes={axes} for {name!r} of {layer.name}, of shape "
            f"{shape}. Register {type(owner(layer, name)).__name__} with others."
        )
    return found


def output_axes(layer: keras.layers.Layer, name: str) -> tuple[int, ...]:
    """Return the axes of a kernel that count output channels; empty: not known."""
    return _counted(layer, name, role(layer, name).outputs)


def _counted(layer, name, axes):
    """Return axes counted from the start."""
    if callable(axes):
        return axes(owner(layer, name))
    rank = len(get_kernel(layer, name).shape)
    return tuple(i + rank if i < 0 else i for i in axes)
