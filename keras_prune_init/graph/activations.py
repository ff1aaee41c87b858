"""Which activation the inputs of each layer went through."""

from __future__ import annotations

import re
from collections.abc import Callable

import keras

from keras_prune_init.graph.wiring import Node
from keras_prune_init.layers.types import Trait, has

L = keras.layers

# Operations that are linear in the signal.
PASSING_OPERATIONS = ("Add", "Concatenate", "GetItem", "Reshape", "Transpose")

LINEAR = keras.activations.linear


def activations(nodes: list[Node]) -> dict[int, Callable | None]:
    """Find the activation that the inputs of each layer with a kernel went through.

    Layers that read the inputs of the model get the activation that follows them.

    Returns:
        `{position: activation}`. An activation is a function of tensors; equal ones are
        the same object. `None` if there are several activations, or if the graph has
        operations that this package does not know.
    """
    children: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        for parent in node.parents:
            children[parent].append(i)
    parents = [node.parents for node in nodes]
    found: dict[int, Callable | None] = {}
    known: dict = {}
    for i, node in enumerate(nodes):
        if node.has_kernel:
            functions = _search(nodes, parents, parents[i])
            if functions == []:  # nothing but inputs
                own = _activation(node)
                bends = own not in (None, LINEAR)
                functions = [own] if bends else _search(nodes, children, children[i])
            function = _one(functions)
            found[i] = known.setdefault(_key(function), function)
    return found


def _search(nodes, ways, start):
    """Find the activations first met in one direction; `None`: one is not known."""
    found, queue, seen = [], list(start), set()
    while queue:
        i = queue.pop()
        if i in seen:
            continue
        seen.add(i)
        activation = _activation(nodes[i])
        if activation not in (None, LINEAR):
            found.append(activation)
        elif nodes[i].has_kernel:
            found.append(LINEAR)
        elif activation is LINEAR or _passes(nodes[i].operation):
            queue.extend(ways[i])
        elif nodes[i].parents:  # an input of the model has none
            return None
    return found


def _activation(node):
    """Return the function that a node applies to every number, or `None`."""
    layer = node.layer
    layer = layer.layer if has(layer, Trait.REPEATS) else layer
    if isinstance(layer, L.Activation) or node.has_kernel:
        return getattr(layer, "activation", LINEAR)
    if has(layer, Trait.ACTIVATES) and not has(layer, Trait.STRAIGHT):
        return layer.call
    if isinstance(layer, L.Layer):
        return None
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
    return getattr(keras.activations, name, None)


def _passes(operation):
    if isinstance(operation, L.Layer):
        return has(operation, Trait.STRAIGHT)
    return type(operation).__name__ in PASSING_OPERATIONS


def _one(functions):
    """Return the one activation that is not the identity, if there is one."""
    if functions is None:
        return None
    bent = [f for f in functions if f is not LINEAR]
    same = all(_key(f) == _key(bent[0]) for f in bent)
    return (bent or [LINEAR])[0] if same else None


def _key(function):
    layer = getattr(function, "__self__", None)
    if not isinstance(layer, L.Layer):
        return function
    config = layer.get_config()
    return type(layer), *(repr(v) for k, v in sorted(config.items()) if k != "name")
