"""How layers contain layers: models, composites of users, and leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_prune_init.layers import types

L = keras.layers

# Attributes in which Keras and TensorFlow repeat the content of others.
BOOKKEEPING = {
    *("_layers", "_tracked", "_inbound_nodes", "_outbound_nodes"),
    *("_trainable_variables", "_non_trainable_variables"),
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_deferred_dependencies",
    "_self_unconditional_dependency_names",
}

Address = tuple[str, ...]


def is_graph(layer: keras.layers.Layer) -> bool:
    """Whether the layer is a Sequential or Functional model, which Keras can clone."""
    graph = isinstance(layer, (keras.Sequential, keras.Function))
    return graph and isinstance(layer, keras.Model)


def is_composite(layer: keras.layers.Layer) -> bool:
    """Whether the layer is user code whose attributes hold other layers.

    Wrappers, Keras's own layers and layers with kernels of their own are leaves. They
    may use a sublayer's kernel directly, so replacing the sublayer would break them.
    """
    if is_builtin(layer) or is_graph(layer) or isinstance(layer, L.Wrapper):
        return False
    kind = types.type_of(layer)
    own = kind and any("." not in name for name in kind.kernels)
    leaf = kind and (own or kind.registered or types.Trait.LOOP in kind.traits)
    return not leaf and bool(children(layer))


def is_builtin(layer: keras.layers.Layer) -> bool:
    """Whether the layer's class is one of Keras itself."""
    return type(layer).__module__.split(".")[0] == "keras"


def children(layer: keras.layers.Layer) -> list[tuple[tuple[str, ...], Any]]:
    """Return pairs of key and sublayer; a key is the position or the attribute path."""
    if is_graph(layer):
        return [((str(i),), child) for i, child in enumerate(layer.layers)]
    return list(held(layer, keras.layers.Layer))


def held(layer: keras.layers.Layer, kind: type) -> Iterator[tuple[Address, Any]]:
    """Yield (attribute path, object) for all objects of a type in a layer."""
    for name, value in vars(layer).items():
        if name not in BOOKKEEPING:
            yield from _within(value, (name,), kind)


def _within(value, key, kind):
    if isinstance(value, kind):
        yield key, value
    elif isinstance(value, dict):
        for k, v in value.items():
            yield from _within(v, (*key, str(k)), kind)
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            yield from _within(v, (*key, str(i)), kind)


def flatten(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield a layer and everything inside it, each once."""
    queue, seen = [layer], set()
    while queue:
        layer = queue.pop()
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            queue.extend(child for _, child in children(layer))


def walk(
    layer: keras.layers.Layer, composites: bool = False
) -> Iterator[tuple[Address, keras.layers.Layer]]:
    """Yield every leaf layer of a model once, with its address, in definition order.

    With `composites`, models and composites are yielded too, before their content.
    """
    seen = set()

    def visit(layer, address):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        holds = is_composite(layer) or is_graph(layer)
        if composites or not holds:
            yield address, layer
        for key, child in children(layer) if holds else ():
            yield from visit(child, (*address, *key))

    yield from visit(layer, ())


def outermost(
    model: keras.Model, composites: bool = True
) -> Iterator[tuple[Address, keras.layers.Layer]]:
    """Yield what `walk` yields, except layers inside a leaf.

    A recurrent layer's cell may also be an attribute of the model, beside the layer.
    """
    leaves = [leaf for _, leaf in walk(model)]
    inside = {id(v) for leaf in leaves for v in flatten(leaf) if v is not leaf}
    for address, layer in walk(model, composites):
        if id(layer) not in inside:
            yield address, layer
