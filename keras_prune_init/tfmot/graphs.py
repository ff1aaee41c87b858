"""The calls of a Sequential or Functional model, of Keras 2 or of Keras 3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_prune_init.graph import nodes
from keras_prune_init.graph.inputs import graph_inputs
from keras_prune_init.layers.walk import Address, held
from keras_prune_init.tfmot import packages
from keras_prune_init.tfmot.packages import is_keras2


class Call(NamedTuple):
    """One call of a layer, or of an operation of Keras 3."""

    operation: Any
    args: tuple
    kwargs: dict
    outputs: Any


class Graph(NamedTuple):
    """The inputs and outputs, nested as the model has them, and the calls between."""

    inputs: Any
    calls: list[Call]
    outputs: Any


def tensors(nested: Any) -> list:
    """Return the symbolic tensors in a nested structure."""
    return [v for v in tf.nest.flatten(nested) if hasattr(v, "_keras_history")]


def key(tensor: Any) -> tuple[int, int, int]:
    """Return what identifies a symbolic tensor: its operation, call and position."""
    operation, node, position = tensor._keras_history
    return id(operation), node, position


def operation(nested: Any) -> Any:
    """Return the operation that made symbolic tensors."""
    return tensors(nested)[0]._keras_history[0]


def read(model: Any) -> Graph:
    """Return the calls that lead to the outputs, without those of inputs."""
    if is_keras2(model):
        inputs, outputs = model._nested_inputs, model._nested_outputs
        depths = sorted(model._nodes_by_depth, reverse=True)
        found = [n for depth in depths for n in model._nodes_by_depth[depth]]
        calls = [
            Call(n.layer, tuple(n.call_args or ()), dict(n.call_kwargs), n.outputs)
            for n in found
            if not n.is_input
        ]
    else:
        graph: Any = nodes.functional(model)
        inputs, outputs = graph_inputs(model), graph._outputs_struct
        calls = [
            Call(n.operation, n.arguments.args, _without_masks(n), n.outputs)
            for n in nodes.in_order(graph)
            if not n.is_input
        ]
    return Graph(inputs, list(_needed(calls, outputs)), outputs)


def _without_masks(node):
    """Leave out the masks that Keras 3 computed itself, such as those of `Embedding`.

    They are made anew when the converted layers are called.
    """
    made = [getattr(t, "_keras_mask", None) for t in node.arguments.keras_tensors]
    return {
        name: value
        for name, value in node.arguments.kwargs.items()
        if not ("mask" in name and any(value is mask for mask in made))
    }


def has_mask(layer: Any) -> bool:
    """Whether a layer of Keras 2 gets or makes a mask for padding in a graph."""
    calls = [(n.call_args, n.call_kwargs, n.outputs) for n in layer.inbound_nodes]
    return any(getattr(t, "_keras_mask", None) is not None for t in tensors(calls))


def _needed(calls: list[Call], outputs: Any) -> Iterator[Call]:
    wanted = {key(t) for t in tensors(outputs)}
    needed = []
    for call in reversed(calls):
        if wanted & {key(t) for t in tensors(call.outputs)}:
            wanted |= {key(t) for t in tensors((call.args, call.kwargs))}
            needed.append(call)
    return reversed(needed)


def is_chain(model: Any, graph: Graph) -> bool:
    """Whether each call takes the result of the one before, and nothing else."""
    before = tensors(graph.inputs)
    for call in graph.calls:
        if [*map(key, before)] != [*map(key, tensors((call.args, call.kwargs)))]:
            return False
        before = tensors(call.outputs)
    return [*map(key, before)] == [*map(key, tensors(graph.outputs))]


def check_losses(model: Any, copy: Any) -> None:
    """Raise an error unless a copy in Keras 2 has all losses that are functions."""
    counts = [
        sum(len(layer._callable_losses) for _, layer in inside(m))
        for m in (model, copy)
    ]
    if counts[0] != counts[1]:
        raise ValueError(
            "Losses must come from the constructors of layers, or from their calls. "
            f"Received: {model.name}, with `add_loss` of a function. Use a regularizer."
        )


def leaves(model: Any) -> Iterator[Any]:
    """Yield the layers of a model, those of nested models too."""
    for layer in model.layers:
        if hasattr(layer, "_nodes_by_depth") or isinstance(layer, keras.Sequential):
            yield from leaves(layer)
        else:
            yield layer


def inside(layer: Any) -> Iterator[tuple[Address, Any]]:
    """Yield a layer of Keras 2 and all layers in its attributes, with their paths."""
    queue: list = [((), layer)]
    seen: set[int] = set()
    while queue:
        path, found = queue.pop(0)
        if id(found) not in seen:
            seen.add(id(found))
            yield path, found
            kind = packages.keras2().layers.Layer
            queue += [((*path, *key), inner) for key, inner in held(found, kind)]


def weights(layer: Any) -> Iterator[tuple[Address, tf.Variable]]:
    """Yield the variables in a layer of Keras 2, with their attribute paths."""
    for path, found in inside(layer):
        for key, variable in held(found, tf.Variable):
            yield (*path, *key), variable
