"""Rebuild a Sequential or Functional model in the other Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_prune_init.tfmot import graphs, operations, training, wrappers
from keras_prune_init.tfmot.objects import Objects, UnknownClass
from keras_prune_init.tfmot.packages import is_keras2

# What Keras 2 makes of functions of tensors.
FUNCTIONS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod")


# Packages whose models are trained as Keras does it, and what others may change.
OWN = ("keras", "tf_keras", "tensorflow", "builtins")
METHODS = ("train_step", "test_step", "compute_loss", "make_train_function")


class Converter:
    """Convert one model, with all layers in it, each once.

    Args:
        to3: Whether to convert to Keras 3, or to Keras 2.
        custom_objects: Classes and functions of users, by name, for the new model.
        flat: Whether the layers of nested models become layers of the model itself.

    Attributes:
        layers: Pairs of a layer and the one that was made for it.
    """

    def __init__(
        self, to3: bool, custom_objects: Mapping[str, Any] | None, flat: bool = False
    ):
        self.objects = Objects(to3, custom_objects)
        self.to3, self.flat = to3, flat
        self.layers: list[tuple[Any, Any]] = []
        self._made: dict[int, Any] = {}
        self._names: set[str] = set()

    def model(self, model: Any) -> Any:
        """Return the model in the other Keras, without the values of its weights."""
        check_graph(model)
        check_additions(model)
        target, graph = self.objects.target, graphs.read(model)
        given = tf.nest.map_structure(self._input, graph.inputs)
        known = _by_key(graph.inputs, given)
        chain = isinstance(model, (keras.Sequential, self.objects.source.Sequential))
        if chain and not self.flat and graphs.is_chain(model, graph):
            layers = [self._operation(call.operation) for call in graph.calls]
            layers = [*tf.nest.flatten(given), *layers]
            new = target.Sequential(layers, name=self._name(model))
        else:
            self._calls(graph, known)
            outputs = _mapped(graph.outputs, known)
            new = target.Model(given, outputs, name=self._name(model))
        if not model.trainable:
            new.trainable = False
        self._made[id(model)] = new
        return new

    def _calls(self, graph, known):
        for call in graph.calls:
            args, kwargs = (_mapped(v, known) for v in (call.args, call.kwargs))
            inner = call.operation
            if self.flat and is_model(inner):
                part = graphs.read(inner)
                given = args[0] if args else kwargs.pop("inputs")
                within = _by_key(part.inputs, given)
                self._calls(part, within)
                made = _mapped(part.outputs, within)
            else:
                made = self._called(call, args, kwargs)
            known |= _by_key(call.outputs, made)

    def _called(self, call, args, kwargs):
        operation = call.operation
        kwargs = {k: v for k, v in kwargs.items() if v is not None}
        training.check(operation, kwargs.pop("training", None), self.to3)
        if type(operation).__name__ in FUNCTIONS:
            made = operations.to_keras3(call, args, kwargs)
            # Keras 3 names operations itself, maybe like a layer that comes later.
            graphs.operation(made).name = self._unused(operation.name)
            return made
        if not isinstance(operation, (keras.layers.Layer, tf.Module)):
            return operations.to_keras2(call, args, kwargs)
        layer = self._operation(operation)
        many = isinstance(args[0] if args else None, (list, tuple))
        if many and isinstance(layer, self.objects.target.layers.RNN):
            # Keras 2 notes the states beside the sequence.
            return layer(args[0][0], initial_state=list(args[0][1:]), **kwargs)
        return layer(*args, **kwargs)

    def _input(self, tensor):
        layer = graphs.operation(tensor)
        name = self._unused(getattr(layer, "name", tensor.name))
        shape, dtype = tuple(tensor.shape), tensor.dtype
        more = {k: True for k in ("sparse", "ragged") if getattr(layer, k, False)}
        keras_input = self.objects.target.Input
        dtype = getattr(dtype, "name", dtype)
        if self.to3:
            return keras_input(batch_shape=shape, dtype=dtype, name=name, **more)
        return keras_input(
            shape[1:], batch_size=shape[0], dtype=dtype, name=name, **more
        )

    def _operation(self, layer):
        """Return the new layer for an old one, the same one each time."""
        if id(layer) not in self._made:
            if is_model(layer):
                self.model(layer)
            else:
                self._made[id(layer)] = self._layer(layer)
                self.layers.append((layer, self._made[id(layer)]))
        return self._made[id(layer)]

    def _layer(self, layer):
        cls = type(layer)
        if wrappers.is_wrapper(layer):
            raise ValueError(
                "A layer must be converted without tfmot's wrapper. Received: "
                f"{layer.name}. Call tfmot's `strip_pruning` first."
            )
        target = self._target(layer)
        config = dict(layer.get_config())
        inner = {
            name: self._inner(held)
            for name in config
            if (held := _held(layer, name, config[name]))
        }
        rest = {k: v for k, v in config.items() if k not in inner}
        what = f"{layer.name} ({cls.__name__})"
        try:
            given = self.objects.arguments(cls, target, rest, what)
            given["name"] = self._unused(layer.name)
            return target(**given, **inner)
        except (TypeError, UnknownClass) as e:
            raise ValueError(
                f"A layer must exist in {self.objects.name} with the same arguments. "
                f"Received: {what}. {e}"
            ) from e

    def _target(self, layer):
        cls = type(layer)
        if cls.__name__ == "Lambda":
            raise ValueError(
                "A Lambda layer holds code for one Keras. Received: "
                f"{layer.name}. Write it as a layer, and pass `custom_objects`."
            )
        try:
            return self.objects.target_class(cls.__name__, cls.__module__)
        except UnknownClass as e:
            raise ValueError(
                f"A layer must exist in {self.objects.name} to be converted. Received: "
                f"{layer.name} ({cls.__name__}). Pass custom_objects="
                f"{{{cls.__name__!r}: ...}} with a class of {self.objects.name}."
            ) from e

    def _inner(self, held):
        if isinstance(held, (list, tuple)):
            return [self._inner(v) for v in held]
        return self.model(held) if is_model(held) else self._layer(held)

    def _name(self, model):
        return model.name.replace("/", "_")

    def _unused(self, name):
        """Return a name that Keras 3 takes; in a flat model each name is there once."""
        name = name.replace("/", "_") if self.to3 else name
        if self.flat:
            base, number = name, 0
            while name in self._names:
                number += 1
                name = f"{base}_{number}"
            self._names.add(name)
        return name


def check_additions(model: Any) -> None:
    """Refuse losses and metrics that Keras 2 keeps beside the outputs."""
    added = [v for v in model.layers if type(v).__name__ in ("AddLoss", "AddMetric")]
    if added:
        raise ValueError(
            "Losses and metrics must come from layers or from `compile`, as Keras 3 "
            f"has no others. Received: {model.name}, to which `{added[0].name}` was "
            "added. Add it in a layer of your own, with `custom_objects`."
        )


def is_model(layer: Any) -> bool:
    """Whether this is a model of either Keras."""
    return hasattr(layer, "_nodes_by_depth") or isinstance(layer, keras.Sequential)


def own_methods(model: Any) -> list[str]:
    """Return which methods of Keras the class of a user's graph replaces."""
    classes = [c for c in type(model).__mro__ if c.__module__.split(".")[0] not in OWN]
    return [name for name in METHODS if any(name in vars(c) for c in classes)]


def check_graph(model: Any) -> None:
    """Raise an error unless a model says how its layers are connected."""
    changed = own_methods(model)
    if changed:
        raise ValueError(
            "The training of a converted model is that of Keras. Received: "
            f"{model.name}, a {type(model).__name__} with a `{changed[0]}` of its "
            "own. Pass an ordinary `Model(inputs, outputs)` with these layers."
        )
    if is_keras2(model):
        known = getattr(model, "_is_graph_network", False)
    else:
        known = isinstance(model, (keras.Sequential, keras.Function)) and model.built
    if not known:
        raise ValueError(
            "Only Sequential and Functional models that are built can be converted; "
            f"tfmot takes no others. Received: {model.name}, a {type(model).__name__}. "
            "Build it from `Input` and `Model(inputs, outputs)`."
        )


def _held(layer, name, value):
    """Return the layers that an argument of a layer's config stands for, if it does."""
    held = getattr(layer, name, None)
    many = held if isinstance(held, (list, tuple)) else [held]
    layers = [isinstance(v, (keras.layers.Layer, tf.Module)) for v in many]
    return held if value and layers and all(layers) else None


def _by_key(old, new):
    pairs = zip(tf.nest.flatten(old), tf.nest.flatten(new), strict=True)
    return {graphs.key(a): b for a, b in pairs if hasattr(a, "_keras_history")}


def _mapped(nested, known):
    def one(value):
        if not hasattr(value, "_keras_history"):
            return value
        return known[graphs.key(value)]

    return tf.nest.map_structure(one, nested)
