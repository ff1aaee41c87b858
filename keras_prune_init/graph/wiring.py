"""How the layers of a Sequential or Functional model are connected."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from keras_prune_init.graph.nodes import Shape, calls_of
from keras_prune_init.layers.kernel_paths import kernel_names
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.walk import is_graph


class Node(NamedTuple):
    """One call of a layer or operation.

    Attributes:
        operation: The layer or operation. A nested model is replaced by the layers in
            it. `None` for the input of a Sequential model without known shapes.
        parents: Positions, in the list of nodes, of the nodes that made its arguments.
        owner: The model, nested or not, in which it is called.
        given: Shapes of its arguments, in the order of `parents`.
        made: Shapes of its results; empty if they are not known.
    """

    operation: Any
    parents: tuple[int, ...]
    owner: keras.Model
    given: tuple[Shape, ...] = ()
    made: tuple[Shape, ...] = ()

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
    """Return the nodes of `flat_graph`, and which of them make the outputs.

    Raises:
        ValueError: If the model is not Sequential or Functional.
    """
    if not is_graph(model):
        raise ValueError(
            "Only Sequential and Functional models say how their layers are connected. "
            f"Received: {model.name}, a {type(model).__name__}. Build it from "
            "`keras.Input` and `keras.Model(inputs, outputs)`."
        )
    nodes: list[Node] = []
    outputs = _expand(model, None, nodes)
    return nodes, outputs


def _expand(model, sources, nodes):
    """Append the nodes of `model`; return the positions that make its outputs.

    `sources` make its inputs, if it is called inside another model.
    """
    found = calls_of(model)
    if found is None:
        return _expand_chain(model, sources, nodes)
    made: list[list[int]] = []
    for i, call in enumerate(found.calls):
        if sources is not None and i in found.inputs:
            made.append([sources[found.inputs.index(i)]])
            continue
        given = tuple(_output(made[k], t) for k, t in call.sources)
        if is_graph(call.operation):
            made.append(_expand(call.operation, given, nodes))
        else:
            nodes.append(Node(call.operation, given, model, call.given, call.made))
            made.append([len(nodes) - 1])
    return [_output(made[k], t) for k, t in found.outputs]


def _expand_chain(model, sources, nodes):
    if sources is None:
        nodes.append(Node(None, (), model))
        sources = [len(nodes) - 1]
    for layer in model.layers:
        if is_graph(layer):
            sources = _expand(layer, sources, nodes)
        else:
            nodes.append(Node(layer, tuple(sources), model))
            sources = [len(nodes) - 1]
    return sources


def _output(positions, index):
    # A layer makes all outputs in one node, a nested model makes each in one node.
    return positions[index] if len(positions) > 1 else positions[0]
