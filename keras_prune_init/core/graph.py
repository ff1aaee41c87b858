"""How the layers of a Sequential or Functional model are connected.

Read from the model's config, which is public, so nothing here depends on how Keras
keeps its nodes.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from keras_prune_init.core import selection, surgery
from keras_prune_init.core.layers import MaskedLayer


class Node(NamedTuple):
    """One call of a layer or operation.

    Attributes:
        operation: The layer; of nested models the layers inside are listed. `None` for
            the input of a Sequential model.
        parents: Positions, in the list of nodes, of those that made its arguments.
        owner: The (nested) model in which it is called.
    """

    operation: Any
    parents: tuple[int, ...]
    owner: keras.Model

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
    """The same, and the positions of the nodes that make the model's outputs.

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
    if isinstance(model, keras.Sequential):
        if sources is None:
            nodes.append(Node(None, (), model))
            sources = [0]
        for layer in model.layers:
            sources = _call(layer, sources, nodes, model)
        return sources
    config = model.get_config()
    if "layers" not in config:  # a Functional model with a constructor of its own
        config = surgery.copy_model(model).get_config()
    operations = {operation.name: operation for operation in model.operations}
    inputs = [name for name, *_ in _references(config["input_layers"])]
    arguments = {
        (layer["name"], i): list(_tensors(node))
        for layer in config["layers"]
        for i, node in enumerate(layer["inbound_nodes"] or [{}])
    }
    before = {key: {t[:2] for t in tensors} for key, tensors in arguments.items()}
    made: dict[tuple, list[int]] = {}
    for name, i in graphlib.TopologicalSorter(before).static_order():
        if name in inputs and sources is not None:
            made[name, i] = [sources[inputs.index(name)]]
            continue
        given = [_output(made[t[:2]], t[2]) for t in arguments[name, i]]
        made[name, i] = _call(operations[name], given, nodes, model)
    outputs = []
    for name, i, t in _references(config["output_layers"]):
        # Here, though not above, Keras counts the calls of nested models from 1.
        nested = selection.is_graph(operations[name])
        i -= nested and not isinstance(operations[name], keras.Sequential)
        outputs.append(_output(made[name, i], t))
    return outputs


def _call(operation, given, nodes, owner):
    if selection.is_graph(operation):
        return _expand(operation, given, nodes)
    nodes.append(Node(operation, tuple(given), owner))
    return [len(nodes) - 1]


def _output(positions, index):
    # A layer makes all its outputs in one node, a nested model in one each.
    return positions[index] if len(positions) > 1 else positions[0]


def _tensors(value) -> Iterator[tuple[str, int, int]]:
    """(layer name, number of the call, number of the output) of tensor arguments."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            yield tuple(value["config"]["keras_history"])
        else:
            for key in sorted(value):
                yield from _tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _references(value) -> Iterator[tuple[str, int, int]]:
    """The same of a model's inputs or outputs, in the order of `model.inputs`."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _references(value[key])
    elif value and isinstance(value[0], str):
        yield tuple(value)
    else:
        for item in value:
            yield from _references(item)


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
