"""How the layers of a Sequential or Functional model are connected."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from keras_prune_init.core import selection
from keras_prune_init.core.layers import MaskedLayer
from keras_prune_init.core.nodes import Shape, calls_of


class Node(NamedTuple):
    """One call of a layer or operation.

    Attributes:
        operation: The layer; of nested models the layers inside are listed. `None` for
            the input of a Sequential model without known shapes.
        parents: Positions, in the list of nodes, of those that made its arguments.
        owner: The (nested) model in which it is called.
        given: Shapes of its arguments, in the order of `parents`.
        made: Shapes of what it returned; none if they are not known.
    """

    operation: Any
    parents: tuple[int, ...]
    owner: keras.Model
    given: tuple[Shape, ...] = ()
    made: tuple[Shape, ...] = ()

    @property
    def layer(self):
        """The operation, or what a `MaskedLayer` wraps."""
        masked = isinstance(self.operation, MaskedLayer)
        return self.operation.layer if masked else self.operation

    @property
    def has_kernel(self) -> bool:
        return bool(selection.kernel_names(self.layer))


def flat_graph(model: keras.Model) -> list[Node]:
    """The calls that a model consists of, each after those whose results it takes.

    Raises:
        ValueError: If the model is not Sequential or Functional.
    """
    return graph_with_outputs(model)[0]


def graph_with_outputs(model: keras.Model) -> tuple[list[Node], list[int]]:
    """The nodes of `flat_graph`, and the positions of those that make the outputs.

    Raises:
        ValueError: If the model is not Sequential or Functional.
    """
    if not selection.is_graph(model):
        raise ValueError(
            "How layers are connected is known of Sequential and Functional models. "
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
        if selection.is_graph(call.operation):
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
        if selection.is_graph(layer):
            sources = _expand(layer, sources, nodes)
        else:
            nodes.append(Node(layer, tuple(sources), model))
            sources = [len(nodes) - 1]
    return sources


def _output(positions, index):
    # A layer makes all its outputs in one node, a nested model in one each.
    return positions[index] if len(positions) > 1 else positions[0]


class Addition(NamedTuple):
    """A residual addition: the shortcut, and branches that are added to it.

    Attributes:
        position: That of its node.
        branches: Which of its arguments are branches.
    """

    position: int
    branches: tuple[int, ...]


def residual_additions(nodes: list[Node]) -> list[Addition]:
    """The additions of residual blocks, in the order of the signal.

    An argument is the shortcut if it shares an origin with the others and has at most
    one kernel (a projection) on its own way from there, and they have more.
    """
    ancestors, kernels = [], 0  # sets of positions, as bits of integers
    for i, node in enumerate(nodes):
        known = 1 << i
        for parent in node.parents:
            known |= ancestors[parent]
        ancestors.append(known)
        kernels |= node.has_kernel << i
    found = []
    for i, node in enumerate(nodes):
        parents = node.parents
        if type(node.operation).__name__ != "Add" or len(set(parents)) < 2:
            continue
        ways = [ancestors[p] for p in parents]
        shared = ways[0]
        for way in ways:
            shared &= way
        counts = [(way & ~shared & kernels).bit_count() for way in ways]
        branches = tuple(j for j, n in enumerate(counts) if n > min(counts))
        if shared and min(counts) <= 1 and len(branches) == len(parents) - 1:
            found.append(Addition(i, branches))
    return found
