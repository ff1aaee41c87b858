"""Copy Keras objects as they are, attribute by attribute.

A config says what a constructor needs, not what an object is. It forgets closures,
state that is no variable, and layers that the first call makes. How Keras keeps its
objects is private: tests/test_copier.py fails if a new Keras changes what is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf
from keras.src.ops.node import Node
from keras.src.utils.tracking import Tracker
from tensorflow.python.trackable.base import TrackableReference

from keras_prune_init.graph import nodes
from keras_prune_init.layers import tracking
from keras_prune_init.surgery.python_objects import PythonCopier, tracked

Layer = keras.layers.Layer

# Copied attribute by attribute, whatever their attributes are.
KERAS_OBJECTS = (
    *(keras.Metric, keras.Loss, keras.optimizers.schedules.LearningRateSchedule),
    *(keras.regularizers.Regularizer, keras.constraints.Constraint),
    *(keras.random.SeedGenerator, tf.Module),
)
# Where a Functional model keeps its graph.
GRAPH = (
    *("_inputs", "_outputs", "_inputs_struct", "_outputs_struct", "_nodes"),
    *("_nodes_by_depth", "_operations", "_operations_by_depth"),
)
# What Keras and `distribute.workers` make for each layer anew.
MADE_ANEW = (
    *("build", "quantize", "make_train_function", "make_test_function"),
    "_maybe_symbolic_build",
)
EMPTY = {
    "_inbound_nodes": list,
    "_outbound_nodes": list,
    "_losses": list,
    "_loss_ids": set,
    "train_function": lambda: None,
    "test_function": lambda: None,
    "predict_function": lambda: None,
    "_distribute_strategy": lambda: (
        tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    ),
}


class Copier(PythonCopier):
    """Copy one model, and everything in it once.

    Args:
        model: What will be copied: a layer, a model, or an optimizer.
        change: `change(layer, copier)` returns the layer to use in place of a layer, or
            `None`.
        call: `call(model, layer, *args, **kwargs)` connects copied layers in the graph
            of a copied Functional model; `model` is the original. It may add layers, or
            leave one out. Default: shapes do not change, and nothing is called.
        dtype: Dtype in which layers compute, and of float variables. Default: the same.
    """

    def __init__(
        self,
        model: Any,
        change: Callable[[keras.layers.Layer, Copier], Any] | None = None,
        call: Callable | None = None,
        dtype: str | None = None,
    ):
        self._change, self._call, self._dtype = change, call, dtype
        self._absent: set[int] = set()
        own = list(model._flatten_layers()) if isinstance(model, Layer) else []
        super().__init__(
            [*own, *(v for layer in own for v in (*layer.variables, layer._tracker))]
        )

    def __call__(self, value):
        """Return the copy of anything; it is always the same one."""
        if isinstance(value, Layer) and self._change and id(value) not in self._memo:
            new = self._change(value, self)
            if new is not None:
                return self._remember(value, new)
        return super().__call__(value)

    def without_values(
        self, layer: keras.layers.Layer, variables: Iterable
    ) -> keras.layers.Layer:
        """Return a copy of a layer; some variables have a shape but no storage."""
        self._absent |= {id(v) for v in variables}
        return self.unchanged(layer)

    def leave_out(self, variables: Iterable) -> None:
        """Do not copy these variables; references to them become `None`."""
        for variable in variables:
            self._remember(variable, None)

    def unbuilt(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """Return a copy of a layer as before its `build`, without variables."""
        self.leave_out(layer._trainable_variables + layer._non_trainable_variables)
        new = self.unchanged(layer)
        for store in (new._trainable_variables, new._non_trainable_variables):
            store.clear()
        new.built, new._tracker.locked = False, False
        new._tracker.stored_ids = tracking.stored_ids(new._tracker)
        return new

    # --- Keras's objects --------------------------------------------------------------

    def _operation(self, value):
        # Whose own `__new__` may ask for arguments.
        layer = isinstance(value, Layer)
        new = (Layer if layer else object).__new__(type(value))
        vars(new).pop("_auto_config", None)  # of a constructor without arguments
        self._remember(value, new)
        anew = {*EMPTY, *(MADE_ANEW if layer else ())}
        if isinstance(value, keras.Function):
            vars(new).update(self._graph(value))
            anew.update(GRAPH)
        for name in EMPTY.keys() & vars(value).keys():
            vars(new)[name] = EMPTY[name]()
        self._attributes({k: v for k, v in vars(value).items() if k not in anew}, new)
        if layer:
            # A wrapper shows there how the layer in it is built.
            if "__signature__" in vars(value.build):
                new.build.__signature__ = value.build.__signature__
            if self._call and isinstance(value, (keras.Function, keras.Sequential)):
                self._hold_graph(value, new)
            if self._dtype:
                vars(new)["_dtype_policy"] = keras.DTypePolicy(self._dtype)
        return new

    def _reference(self, value):
        return type(value)(value.name, self(value.ref))

    def _tracker(self, value):
        new = self._object(value)
        new.stored_ids = tracking.stored_ids(new)
        return new

    def _variable(self, variable):
        new = self._remember(variable, object.__new__(type(variable)))
        for name, attribute in vars(variable).items():
            if name != "_value":
                vars(new)[name] = self(attribute)
        held = vars(variable)["_value"]
        if held is None:
            vars(new)["_value"] = None
        elif id(variable) in self._absent:
            new._initialize(tf.zeros([0], variable.dtype))
        else:
            if isinstance(held, tf.distribute.DistributedValues):
                held = held.values[0]  # as saved; a mean would need all processes
            value = tf.convert_to_tensor(held)
            if self._dtype and value.dtype.is_floating:
                vars(new)["_dtype"] = self._dtype
                value = tf.cast(value, self._dtype)
            new._initialize(value)
        return new

    def _tf_variable(self, variable):
        value, name = variable.value(), variable.name.split(":")[0]
        new = tf.Variable(value, trainable=variable.trainable, name=name)
        return self._remember(variable, new)

    def _optimizer(self, optimizer):
        """Return an optimizer that has not seen any variables yet."""
        kept = {id(optimizer._iterations), id(optimizer._learning_rate)}
        slots = {id(v) for v in optimizer._variables if id(v) not in kept}
        self.leave_out(v for v in optimizer._variables if id(v) in slots)
        for value in list(vars(optimizer).values()):
            if isinstance(value, list) and any(id(v) in slots for v in value):
                left = [self(v) for v in value if id(v) in kept]
                self._remember(value, tracked(left))
        self._remember(optimizer._trainable_variables, tracked([]))
        self._remember(optimizer._trainable_variables_indices, tracked({}))
        new = self._object(optimizer)
        for name, value in vars(optimizer).items():
            if id(value) in slots:
                delattr(new, name)  # a model with `None` there cannot be exported
        new._tracker.stored_ids = tracking.stored_ids(new._tracker)
        new.built = False
        new._iterations._initialize(tf.zeros([], optimizer._iterations.dtype))
        return new

    # --- graphs -----------------------------------------------------------------------

    def _graph(self, model):
        """Return the attributes of a Functional model's graph, with copied layers."""
        for node in nodes.in_order(model):
            if any(id(tensor) not in self._memo for tensor in node.outputs):
                self._connect(model, node)
        pairs = (model._inputs_struct, model._outputs_struct)
        inputs, outputs = keras.tree.map_structure(self, pairs)
        graph = vars(keras.Function(inputs, outputs))
        graph["_operations"] = tracked(graph["_operations"])
        self._remember(model._operations, graph["_operations"])
        return {name: graph[name] for name in GRAPH}

    def _hold_graph(self, model, new):
        """Let a copy hold the layers of its graph, which `call` may have changed."""
        old, graph = nodes.functional(model), nodes.functional(new)
        if old is None or graph is None:
            return
        operations = graph._operations
        held = {id(v) for v in operations}
        for layer in operations:
            new._tracker.track(layer)
        for layer in map(self, old._operations):
            if id(layer) not in held:
                new._tracker.untrack(layer)
        # In the order of Keras: an optimizer that is loaded knows variables by it.
        listed = vars(new)["_layers"]
        layers = [v for v in operations if isinstance(v, Layer)]
        if graph is new:  # a Sequential model has nothing else in its list
            layers += [v for v in listed if id(v) not in held]
        list.__setitem__(listed, slice(None), layers)

    def _connect(self, model, node):
        """Repeat a call in the graph."""
        operation = self(node.operation)
        args, kwargs = node.arguments.convert(self)
        if self._call and not node.is_input:
            outputs = self._call(model, operation, *args, **kwargs)
        else:
            outputs = [self._twin(tensor) for tensor in node.outputs]
            Node(operation, args, kwargs, outputs)
        for old, new in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
            self._remember(old, new)

    def _twin(self, tensor):
        new = object.__new__(type(tensor))
        attributes = vars(tensor).items()
        made = ("_keras_history", "_keras_mask")
        vars(new).update((k, v) for k, v in attributes if k not in made)
        if self._dtype and "float" in tensor.dtype:
            vars(new)["_dtype"] = self._dtype
        return new

    atoms = (*PythonCopier.atoms, Node)
    # The first that fits.
    rules = (
        (Node, PythonCopier._share),
        (keras.optimizers.Optimizer, _optimizer),
        (keras.Operation, _operation),
        (Tracker, _tracker),
        (keras.Variable, _variable),
        (tf.Variable, _tf_variable),
        (KERAS_OBJECTS, PythonCopier._object),
        (TrackableReference, _reference),
        *PythonCopier.rules,
    )
