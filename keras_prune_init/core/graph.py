"""How the layers of a Sequential or Functional model are connected.

Read from the model's config, which is public, so nothing here depends on how Keras
keeps its nodes.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from keras_prune_init.core import selection, surgery
from keras_prune_init.core.layers import MaskedLayer

L = keras.layers

# What may lie between two layers without bending the signal.
PASSING = (
    *(L.BatchNormalization, L.LayerNormalization, L.GroupNormalization),
    *(L.RMSNormalization, L.UnitNormalization, L.Normalization, L.Rescaling),
    *(L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.SpatialDropout3D),
    *(L.AlphaDropout, L.GaussianDropout, L.GaussianNoise),
    *(L.Flatten, L.Reshape, L.Permute, L.Identity, L.RepeatVector),
    *(L.ZeroPadding1D, L.ZeroPadding2D, L.ZeroPadding3D),
    *(L.Cropping1D, L.Cropping2D, L.Cropping3D),
    *(L.UpSampling1D, L.UpSampling2D, L.UpSampling3D),
    *(L.MaxPooling1D, L.MaxPooling2D, L.MaxPooling3D),
    *(L.AveragePooling1D, L.AveragePooling2D, L.AveragePooling3D),
    *(L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalMaxPooling3D),
    *(L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D),
    *(L.Add, L.Average, L.Concatenate),
)
PASSING_OPERATIONS = ("Add", "Concatenate", "GetItem", "Reshape", "Transpose")
ACTIVATION_LAYERS = (L.ReLU, L.LeakyReLU, L.ELU)

LINEAR = keras.activations.linear


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
    if not selection.is_graph(model):
        raise ValueError(
            "How layers are connected is known of Sequential and Functional models. "
            f"Received: {model.name}, a {type(model).__name__}. Build it from "
            "`keras.Input` and `keras.Model(inputs, outputs)`."
        )
    nodes: list[Node] = []
    _expand(model, None, nodes)
    return nodes


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


def activations(nodes: list[Node]) -> dict[int, Callable | None]:
    """The activation that the inputs of each layer with a kernel went through.

    Of layers that read the inputs of the model it is the one that follows them.

    Returns:
        `{position: activation}`, a function of tensors, one object for equal ones.
        `None` where there are several or the graph has operations that this package
        does not know.
    """
    children: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        for parent in node.parents:
            children[parent].append(i)
    up = [node.parents for node in nodes]
    found, known = {}, {}
    for i, node in enumerate(nodes):
        if node.has_kernel:
            functions = _search(nodes, up, up[i])
            if functions == []:  # nothing but inputs
                own = _activation(node)
                functions = [own] if own not in (None, LINEAR) else []
                functions = functions or _search(nodes, children, children[i])
            function = _one(functions)
            found[i] = known.setdefault(_key(function), function)
    return found


def _search(nodes, ways, start):
    """The activations first met in one direction; `None` for an unknown operation."""
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
    """What a node applies to every number; `None` if it is no activation."""
    layer = node.layer
    layer = layer.layer if isinstance(layer, L.TimeDistributed) else layer
    if isinstance(layer, ACTIVATION_LAYERS):
        return layer.call
    if isinstance(layer, L.Activation) or node.has_kernel:
        return getattr(layer, "activation", LINEAR)
    if isinstance(layer, L.Layer):
        return None
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
    return getattr(keras.activations, name, None)


def _passes(operation):
    if isinstance(operation, L.Layer):
        return isinstance(operation, PASSING)
    return type(operation).__name__ in PASSING_OPERATIONS


def _one(functions):
    """The one activation other than the identity, the identity if there is none."""
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
