"""How the layers of a Sequential or Functional model are connected."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from keras_prune_init.graph.nodes import arguments, functional, in_order
from keras_prune_init.layers.kernel_paths import kernel_names
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.walk import is_graph

Shape = tuple[int | None, ...]


class Node(NamedTuple):
    """One call of a layer or operation; a nested model is replaced by those in it."""

    operation: Any  # `None`: the input of a Sequential model without known shapes
    parents: tuple[int, ...]  # positions of the nodes that made its arguments
    owner: keras.Model  # the model, nested or not, in which it is called
    given: tuple[Shape, ...] = ()  # shapes of its arguments, in the order of `parents`
    made: tuple[Shape, ...] = ()  # shapes of its results; empty if they are not known

    @property
    def layer(self):
        """The operation, or the layer inside it if it is a `MaskedLayer`."""
        masked = isinstance(self.operation, MaskedLayer)
        return self.operation.layer if masked else self.operation

    @property
    def has_kernel(self) -> bool:
        """Whether the operation is a layer with a kernel that can be pruned."""
        return bool(kernel_names(self.layer))


def flat_graph(model: keras.Model) -> list[Node]:
    """List the calls of a model; each comes after the calls whose results it takes.

    Raises:
        ValueError: If the model is not Sequential or Functional.
    """
    return graph_with_outputs(model)[0]


def graph_with_outputs(model: keras.Model) -> tuple[list[Node], list[int]]:
    """Return the nodes of `flat_graph`, and which of them make the outputs."""
    if not is_graph(model):
        raise ValueError(
            "Only Sequential and Functional models say how their layers are connected. "
            f"Received: {model.name}, a {type(model).__name__}. Build it from "
            "`keras.Input` and `keras.Model(inputs, outputs)`."
        )
    nodes: list[Node] = []
    outputs = _expand(model, None, nodes)
    return nodes, outputs


def _expand(model, given, nodes):
    """Append the nodes of `model`; return the positions that make its outputs.

    The positions in `given` make its inputs, if it is called inside another model.
    """
    graph = functional(model)
    if graph is None:
        return _expand_chain(model, given, nodes)
    # The positions that make the tensors, by their ids.
    made = dict(zip(map(id, graph.inputs), given or (), strict=False))
    for call in in_order(graph):
        if any(id(t) in made for t in call.outputs):  # an input that was given
            continue
        # The inputs of a model may be outputs of layers outside of it.
        tensors = [t for t in arguments(call) if id(t) in made]
        parents = tuple(made[id(t)] for t in tensors)
        if is_graph(call.operation):
            ends = _expand(call.operation, parents, nodes)
        else:
            shapes = _shapes(tensors), _shapes(call.outputs)
            nodes.append(Node(call.operation, parents, model, *shapes))
            ends = [len(nodes) - 1] * len(call.outputs)
        made.update(zip(map(id, call.outputs), ends, strict=True))
    return [made[id(t)] for t in graph.outputs]


def _expand_chain(model, given, nodes):
    if given is None:
        nodes.append(Node(None, (), model))
        given = [len(nodes) - 1]
    for layer in model.layers:
        if is_graph(layer):
            given = _expand(layer, given, nodes)
        else:
            nodes.append(Node(layer, tuple(given), model))
            given = [len(nodes) - 1]
    return given


def _shapes(tensors):
    return tuple(tuple(t.shape) for t in tensors)
