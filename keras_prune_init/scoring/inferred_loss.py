"""Infer the loss of a model that was not compiled, from its outputs and labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.types import Trait, has
from keras_prune_init.layers.walk import is_graph
from keras_prune_init.scoring import temperature
from keras_prune_init.scoring.temperature import SIGMOID, SOFTMAX

L = keras.layers

# Logits or values, which labels tell apart; weights and numbers.
LINEAR, CONSTANT = "linear", "constant"

# Operations of TensorFlow that put out what they are given. A sum is linear if one of
# its terms is.
SHAPING = (
    *("Identity", "IdentityN", "Reshape", "Squeeze", "ExpandDims", "Cast", "Transpose"),
    *("StopGradient", "PreventGradient", "EnsureShape", "CheckNumerics"),
)
SUMS = (
    *("Add", "AddV2", "AddN", "Sub", "BiasAdd", "Mul", "Mean", "Sum", "AvgPool"),
    *("ConcatV2", "Pack", "ResizeBilinear", "ResizeNearestNeighbor", "DepthToSpace"),
)
PRODUCTS = (
    *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"),
    *("Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput"),
    *("Conv3DBackpropInputV2", "FusedBatchNormV3"),
)
KINDS = {
    **{"Softmax": SOFTMAX, "Sigmoid": SIGMOID},
    **{"Const": CONSTANT, "ReadVariableOp": CONSTANT},
    **dict.fromkeys(PRODUCTS, LINEAR),
}


def inferred(model: keras.Model, x: Any, y: Any, outputs: Any) -> Any:
    """Return losses for a model's outputs on a batch, in the form of `compile`.

    Of `outputs`, only structure and shapes are read.
    """
    flat = keras.tree.flatten(outputs)
    if any(len(output.shape) == 0 for output in flat):
        raise ValueError(
            "A loss can be inferred for outputs whose first axis counts samples. "
            "Received: an output that is a single number. Pass `loss=`, or leave the "
            "mean over samples to the loss."
        )
    labels = labels_by_output(model, y, outputs)
    kinds: list[str | None] = [None] * len(flat)
    if runs_its_graph(model):
        kinds = [*map(_kind_in_graph, keras.tree.flatten(model.outputs))]
    if None in kinds:
        traced = _traced_kinds(model, x)
        kinds = [a or b for a, b in zip(kinds, traced, strict=True)]
    losses = [
        None if label is None else _loss(kind, np.asarray(label), tuple(output.shape))
        for kind, label, output in zip(kinds, labels, flat, strict=True)
    ]
    return keras.tree.pack_sequence_as(outputs, losses)


def labels_by_output(model: keras.Model, y: Any, outputs: Any) -> list:
    """Return one label for each output of a flat list, `None` where there is none."""
    paths = [path for path, _ in keras.tree.flatten_with_path(outputs)]
    if isinstance(y, dict):
        named = isinstance(outputs, dict)
        names = [p[0] for p in paths] if named else getattr(model, "output_names", [])
        labels = [y.get(name) for name in names] if set(y) <= set(names) else []
    else:
        labels = list(y) if isinstance(y, (list, tuple)) else [y]
    if len(labels) != len(paths):
        raise ValueError(
            "Labels must come one for each output of the model. Received: "
            f"{len(keras.tree.flatten(y))} labels for {len(paths)} outputs. "
            "Compile the model, or pass `loss=`, if some have no loss."
        )
    return labels


def _loss(kind, y, shape):
    if kind is None:
        raise ValueError(
            "A loss can be inferred for a softmax, a sigmoid, or the output of a layer "
            "without activation. Received: an output that is made in another way. "
            "Pass `loss=`, or compile the model."
        )
    classes = shape[-1]
    logits = kind == LINEAR
    whole = bool(np.all(y == np.floor(y))) if y.dtype.kind in "fiu" else y.dtype == bool
    zero_one = bool(np.isin(y, (0, 1)).all())
    same = y.shape == shape or (*y.shape, 1) == shape
    if same and zero_one and (classes == 1 or kind == SIGMOID):
        return keras.losses.BinaryCrossentropy(from_logits=logits)
    sparse = y.shape == shape[:-1] or y.shape == (*shape[:-1], 1)
    if sparse and whole and classes > 1:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    if same:
        if kind == SOFTMAX or (zero_one and (y.sum(-1) == 1).all()):
            return keras.losses.CategoricalCrossentropy(from_logits=logits)
        return keras.losses.MeanSquaredError()
    raise ValueError(
        "No loss can be inferred: labels must be class indices, or have the shape of "
        f"the output. Received: labels of shape {y.shape} and dtype {y.dtype} for an "
        f"output of shape {shape}. Pass `loss=`, or labels that fit."
    )


def runs_its_graph(model: keras.Model) -> bool:
    """Whether a model's outputs are those of its graph, as it has no own `call`."""
    module = getattr(model.call, "__module__", "")
    return is_graph(model) and module.split(".")[0] == "keras"


def _kind_in_graph(tensor) -> str | None:
    """Return what made a symbolic tensor of Keras; `None` if its layers do not say."""
    shape = tensor.shape
    while tensor is not None:
        operation, _, index = tensor._keras_history
        if isinstance(operation, keras.Model):
            if not runs_its_graph(operation):
                return None
            tensor = keras.tree.flatten(operation.outputs)[index]
        elif has(operation, Trait.SAME):
            tensor = _only_input(operation)
        else:
            kind = _kind_of_layer(operation)
            if kind == LINEAR and isinstance(operation, L.Activation):
                tensor = _only_input(operation)
                continue
            # Else a reshape has torn up what a softmax made.
            return kind if tensor.shape[-1] == shape[-1] else None
    return None


def _only_input(layer):
    try:
        return layer.input
    except (AttributeError, ValueError):  # it is called several times
        return None


def _kind_of_layer(layer):
    if isinstance(layer, MaskedLayer) or has(layer, Trait.REPEATS):
        return _kind_of_layer(layer.layer)
    if type(layer) is L.Softmax:
        return SOFTMAX if layer.axis == -1 else None
    linear = has(layer, Trait.LINEAR, subclasses=False)
    if type(layer) is not L.Activation and not linear:
        return None
    return _kind_of_function(layer.activation)


def _kind_of_function(function: Callable) -> str | None:
    """Return the kind of an activation, from its values for some numbers."""
    if isinstance(function, keras.layers.Layer):
        return None
    z = tf.constant(np.random.default_rng(0).normal(size=(3, 4)), "float32")
    candidates = ((LINEAR, z), (SOFTMAX, tf.nn.softmax(z)), (SIGMOID, tf.sigmoid(z)))
    try:
        found = np.asarray(function(z))
    except Exception:  # it takes other shapes, so nothing is known of it
        return None
    for kind, expected in candidates:
        if found.shape == z.shape and np.allclose(found, expected, atol=1e-6):
            return kind
    return None


def _traced_kinds(model, x):
    """Return the kind of every output, from the operations of TensorFlow."""

    @tf.function(autograph=False)
    def run(x):
        with keras.StatelessScope():
            return keras.tree.flatten(model(x, training=False))

    graph = run.get_concrete_function(x).graph
    definition = graph.as_graph_def()
    functions = {f.signature.name: f for f in definition.library.function}
    walk = _Walk(definition.node, functions)
    kinds = [walk.kind(tensor.name) for tensor in graph.structured_outputs]
    kinds = [None if kind == CONSTANT else kind for kind in kinds]
    # The axes of a softmax may have been moved since.
    return temperature.confirmed(kinds, (SOFTMAX,), None, model, x)


class _Walk:
    """The operations of a graph, or of the body of a function."""

    def __init__(self, nodes, functions, arguments=()):
        self.nodes = {node.name: node for node in nodes}
        self.functions = functions
        self.known = dict(arguments)  # kinds, by name of the tensor

    def kind(self, tensor: str) -> str | None:
        if tensor not in self.known:
            self.known[tensor] = self._kind(tensor)
        return self.known[tensor]

    def _kind(self, tensor):
        name, *place = tensor.split(":")
        index = int(place[-1]) if place else 0
        node = self.nodes[name]
        inputs = [i for i in node.input if not i.startswith("^")]
        if node.op in SHAPING:
            return self.kind(inputs[index if node.op == "IdentityN" else 0])
        if node.op in SUMS:
            return LINEAR if any(self.kind(i) == LINEAR for i in inputs) else None
        if node.op == "RealDiv":
            kinds = [self.kind(i) for i in inputs]
            return LINEAR if kinds == [LINEAR, CONSTANT] else None
        if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
            return self._called(node, inputs, index)
        return KINDS.get(node.op)

    def _called(self, node, inputs, index):
        function = self.functions[node.attr["f"].func.name]
        names = [argument.name for argument in function.signature.input_arg]
        kinds = zip(names, map(self.kind, inputs), strict=True)
        body = _Walk(function.node_def, self.functions, kinds)
        return body.kind(function.ret[function.signature.output_arg[index].name])
