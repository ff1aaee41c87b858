"""Copies of Keras objects as they are, attribute by attribute.

A config tells what a constructor needs, not what an object is: it forgets closures,
state that is no variable, and layers that the first call makes. So layers, models,
metrics, losses and optimizers are copied here as Python objects.

This file knows how Keras keeps its objects, which is private; tests/test_objects.py
says what of it is used, and fails if a new Keras changes it.
"""

from __future__ import annotations

import collections
import copy
import functools
import inspect
import random
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.ops.node import Node
from keras.src.utils.tracking import Tracker
from tensorflow.python.trackable.base import TrackableReference

from keras_prune_init.core import nodes, state

Layer = keras.layers.Layer

# Shared by a copy and what it was made from: they cannot change.
ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, type, np.generic, np.dtype),
    *(types.ModuleType, types.BuiltinFunctionType, inspect.Signature),
    *(tf.Tensor, tf.DType, tf.TensorShape, tf.TypeSpec, tf.distribute.Strategy),
    *(keras.DTypePolicy, keras.KerasTensor, Node, threading.Thread),
)
PLAIN = frozenset({type(None), bool, int, float, str, tf.DType, tf.TensorShape})
# Copied attribute by attribute, whatever their attributes are.
KERAS_OBJECTS = (
    *(keras.Operation, keras.Metric, keras.Loss, keras.optimizers.Optimizer),
    *(keras.optimizers.schedules.LearningRateSchedule, keras.regularizers.Regularizer),
    *(keras.constraints.Constraint, keras.random.SeedGenerator, Tracker, tf.Module),
)
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
CONTAINERS = (list, tuple, set, frozenset, dict, collections.deque)
VARIABLES = (keras.Variable, tf.Variable)

# Where a Functional model keeps its graph.
GRAPH = (
    *("_inputs", "_outputs", "_inputs_struct", "_outputs_struct", "_nodes"),
    *("_nodes_by_depth", "_operations", "_operations_by_depth"),
)
# What Keras and `distribute.workers` make for each object anew.
MADE_ANEW = (
    *("build", "quantize", "make_train_function", "make_test_function"),
    *("_maybe_symbolic_build", *GRAPH),
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


class Copier:
    """Copies one model, and everything in it once.

    Functions, lookup tables and other objects that are not Keras's are shared, unless
    they refer to a part of the model: then they are copied, to refer to the copy.

    Args:
        model: What will be copied: a layer, a model, or an optimizer.
        change: `change(layer, copier)` makes what takes the place of a layer, or
            returns `None`.
        call: `call(model, layer, *args, **kwargs)` connects copied layers in the graph
            of a copied Functional model; `model` is what it is copied from. Default:
            the shapes are the same, and nothing is called.
        dtype: What layers compute in, and float variables have. Default: the same.
    """

    def __init__(
        self,
        model: Any,
        change: Callable[[Layer, Copier], Any] | None = None,
        call: Callable | None = None,
        dtype: str | None = None,
    ):
        self._change, self._call, self._dtype = change, call, dtype
        self._memo: dict[int, tuple[Any, Any]] = {}
        self._rules: dict[type, Callable] = {}
        self._absent: set[int] = set()
        own = list(model._flatten_layers()) if isinstance(model, Layer) else []
        own += [v for layer in own for v in (*layer.variables, layer._tracker)]
        self._own = {id(v) for v in own}

    def __call__(self, value):
        """The copy of anything; always the same one."""
        if type(value) in PLAIN:
            return value
        if id(value) in self._memo:
            return self._memo[id(value)][0]
        if isinstance(value, Layer) and self._change:
            new = self._change(value, self)
            if new is not None:
                return self._remember(value, new)
        return self.unchanged(value)

    def unchanged(self, value):
        """The copy of something that `change` does not apply to."""
        kind = value.__class__  # which wrappers of TensorFlow forge, unlike `type`
        if kind not in self._rules:
            rules = (method for kinds, method in RULES if issubclass(kind, kinds))
            self._rules[kind] = next(rules, Copier._other)
        return self._rules[kind](self, value)

    def without_values(self, layer: Layer, variables: Iterable) -> Layer:
        """A copy of a layer in which some variables have a shape, but hold nothing."""
        self._absent |= {id(v) for v in variables}
        return self.unchanged(layer)

    def leave_out(self, variables: Iterable) -> None:
        """Copy none of these; what refers to one will refer to `None`."""
        for variable in variables:
            self._remember(variable, None)

    def unbuilt(self, layer: Layer) -> Layer:
        """A copy of a layer as before its `build`, which will make its variables."""
        self.leave_out(layer._trainable_variables + layer._non_trainable_variables)
        new = self.unchanged(layer)
        for store in (new._trainable_variables, new._non_trainable_variables):
            store.clear()
        new.built, new._tracker.locked = False, False
        new._tracker.stored_ids = state.stored_ids(new._tracker)
        return new

    def _remember(self, value, new):
        # The value is kept too, or another could get its id.
        self._memo[id(value)] = new, value
        return new

    # --- Keras's objects --------------------------------------------------------------

    def _object(self, value, new=None):
        """Copy the attributes of anything that has some."""
        if not hasattr(value, "__dict__"):
            return value
        new = object.__new__(type(value)) if new is None else new
        self._remember(value, new)
        for name, attribute in list(vars(value).items()):
            if name in EMPTY:
                vars(new)[name] = EMPTY[name]()
            elif name not in MADE_ANEW:
                vars(new)[name] = self(attribute)
        return new

    def _operation(self, value):
        # Whose own `__new__` may ask for arguments.
        layer = isinstance(value, Layer)
        new = (Layer if layer else object).__new__(type(value))
        vars(new).pop("_auto_config", None)  # of a constructor without arguments
        self._remember(value, new)
        if isinstance(value, keras.Function):
            vars(new).update(self._graph(value))
        self._object(value, new)
        if layer:
            # A wrapper shows there how the layer in it is built.
            vars(new.build).update(_signature_of(value.build))
            if self._call:  # which may have put in layers of its own
                for inner in vars(new).get("_operations", ()):
                    new._tracker.track(inner)
            if self._dtype:
                vars(new)["_dtype_policy"] = keras.DTypePolicy(self._dtype)
        return new

    def _tracker(self, value):
        new = self._object(value)
        new.stored_ids = state.stored_ids(new)
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
        """An optimizer that has not seen any variables yet."""
        kept = {id(optimizer._iterations), id(optimizer._learning_rate)}
        slots = {id(v) for v in optimizer._variables if id(v) not in kept}
        self.leave_out(v for v in optimizer._variables if id(v) in slots)
        for value in list(vars(optimizer).values()):
            if isinstance(value, list) and any(id(v) in slots for v in value):
                left = [self(v) for v in value if id(v) in kept]
                self._remember(value, _tracked(left))
        self._remember(optimizer._trainable_variables, _tracked([]))
        self._remember(optimizer._trainable_variables_indices, _tracked({}))
        new = self._object(optimizer)
        new._tracker.stored_ids = state.stored_ids(new._tracker)
        new.built = False
        new._iterations._initialize(tf.zeros([], optimizer._iterations.dtype))
        return new

    # --- graphs -----------------------------------------------------------------------

    def _graph(self, model):
        """What a Functional model has of its graph, with the copied layers."""
        for node in nodes.in_order(model):
            if any(id(tensor) not in self._memo for tensor in node.outputs):
                self._connect(model, node)
        pairs = (model._inputs_struct, model._outputs_struct)
        inputs, outputs = keras.tree.map_structure(self._tensor, pairs)
        graph = vars(keras.Function(inputs, outputs))
        graph["_operations"] = _tracked(graph["_operations"])
        self._remember(model._operations, graph["_operations"])
        return {name: graph[name] for name in GRAPH}

    def _connect(self, model, node):
        """Repeat a call in the graph."""
        operation = self(node.operation)
        args, kwargs = node.arguments.convert(self._argument)
        if self._call and not node.is_input:
            outputs = self._call(model, operation, *args, **kwargs)
        else:
            outputs = [self._twin(tensor) for tensor in node.outputs]
            Node(operation, args, kwargs, outputs)
        for old, new in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
            self._remember(old, new)

    def _argument(self, value):
        known = isinstance(value, keras.KerasTensor)
        return self._tensor(value) if known else self(value)

    def _tensor(self, tensor):
        return self._memo[id(tensor)][0]

    def _twin(self, tensor):
        new = object.__new__(type(tensor))
        attributes = vars(tensor).items()
        made = ("_keras_history", "_keras_mask")
        vars(new).update((k, v) for k, v in attributes if k not in made)
        if self._dtype and "float" in tensor.dtype:
            vars(new)["_dtype"] = self._dtype
        return new

    # --- Python's objects -------------------------------------------------------------

    def _share(self, value):
        return value

    def _other(self, value):
        module = type(value).__module__
        copied = module.startswith("keras.") or self._refers(value)
        return self._object(value) if copied else value

    def _array(self, value):
        return self._remember(value, value.copy())

    def _generator(self, value):
        return self._remember(value, copy.deepcopy(value))

    def _reference(self, value):
        return type(value)(value.name, self(value.ref))

    def _container(self, value):
        kind = type(value)
        if kind.__module__.startswith("tensorflow."):  # which wraps Python's
            plain = next(k for k in CONTAINERS if isinstance(value, k))
            return self._remember(value, _tracked(self._container(plain(value))))
        if isinstance(value, (tuple, frozenset)):
            items = [self(v) for v in value]
            new = kind(*items) if hasattr(value, "_fields") else kind(items)
            return self._remember(value, new)
        if isinstance(value, collections.defaultdict):
            new = kind(value.default_factory)
        elif isinstance(value, collections.deque):
            new = kind(maxlen=value.maxlen)
        else:
            new = kind.__new__(kind)
        self._remember(value, new)
        # Past methods of subclasses, which would track what comes in.
        if isinstance(value, dict):
            for key, item in list(value.items()):
                dict.__setitem__(new, self(key), self(item))
        elif isinstance(value, set):
            set.update(new, [self(v) for v in value])
        else:
            base = list if isinstance(value, list) else collections.deque
            base.extend(new, [self(v) for v in list(value)])
        if kind is type(value):
            for name, attribute in getattr(value, "__dict__", {}).items():
                vars(new)[name] = self(attribute)
        return new

    def _method(self, value):
        return types.MethodType(value.__func__, self(value.__self__))

    def _partial(self, value):
        function, args = self(value.func), [self(v) for v in value.args]
        keywords = {k: self(v) for k, v in value.keywords.items()}
        new = type(value)(function, *args, **keywords)
        vars(new).update({k: self(v) for k, v in vars(value).items()})
        return new

    def _function(self, value):
        if not self._refers(value):
            return value
        cells = [self._cell(c) for c in value.__closure__ or ()]
        defaults = self(value.__defaults__)
        new = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, defaults, tuple(cells)
        )
        self._remember(value, new)
        new.__kwdefaults__ = self(value.__kwdefaults__)
        new.__dict__.update({k: self(v) for k, v in vars(value).items()})
        new.__qualname__, new.__module__ = value.__qualname__, value.__module__
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            if _content(old) is not _content(None):
                cell.cell_contents = self(old.cell_contents)
        return new

    def _cell(self, cell):
        known = self._memo.get(id(cell))
        return known[0] if known else self._remember(cell, types.CellType())

    def _tf_function(self, value):
        if not self._refers(value.python_function):
            return value
        new = value._clone(python_function=self(value.python_function))
        return self._remember(value, new)

    def _refers(self, value) -> bool:
        """Whether an object refers to a part of the model."""
        queue, seen = [value], set()
        while queue:
            value = queue.pop()
            if id(value) in self._own:
                return True
            if id(value) not in seen and not isinstance(value, ATOMS):
                seen.add(id(value))
                queue.extend(_referred(value))
        return False


def _referred(value) -> list:
    if isinstance(value, types.FunctionType):
        cells = [_content(c) for c in value.__closure__ or ()]
        return [*cells, value.__defaults__, value.__kwdefaults__]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, CONTAINERS):
        return list(value)
    if isinstance(value, tf.types.experimental.PolymorphicFunction):
        return [value.python_function]
    if type(value).__module__.split(".")[0] in ("tensorflow", "numpy"):
        return []
    return list(getattr(value, "__dict__", {}).values())


def _content(cell):
    """What is in the cell of a closure; a mark if it is still empty."""
    try:
        return cell.cell_contents
    except (AttributeError, ValueError):
        return _content


def _signature_of(function) -> dict:
    """The attribute that says which arguments a function takes, if it has one."""
    found = vars(function)
    return {k: found[k] for k in ("__signature__",) if k in found}


def _tracked(value):
    """A list or dict as `tf.train.Checkpoint` wants it, to look inside."""
    return tf.__internal__.tracking.wrap(value)


# The first that fits.
RULES = (
    (ATOMS, Copier._share),
    (keras.optimizers.Optimizer, Copier._optimizer),
    (keras.Operation, Copier._operation),
    (Tracker, Copier._tracker),
    (keras.Variable, Copier._variable),
    (tf.Variable, Copier._tf_variable),
    (KERAS_OBJECTS, Copier._object),
    (np.ndarray, Copier._array),
    (GENERATORS, Copier._generator),
    (TrackableReference, Copier._reference),
    (CONTAINERS, Copier._container),
    (types.MethodType, Copier._method),
    (functools.partial, Copier._partial),
    (types.FunctionType, Copier._function),
    (tf.types.experimental.PolymorphicFunction, Copier._tf_function),
)
