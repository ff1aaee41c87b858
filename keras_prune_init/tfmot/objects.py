"""Make the object of one Keras that is what an object of the other one is."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_prune_init.tfmot import packages

# Arguments under another name: those of Keras 2, by class, and their Keras 3 names.
RENAMED = {
    ("LeakyReLU", "alpha"): "negative_slope",
    ("InputLayer", "batch_input_shape"): "batch_shape",
}
# Arguments that change no result: speed, memory, and what the layer finds out itself.
IMPLEMENTATION = {
    *("implementation", "use_cudnn", "jit_compile", "flash_attention"),
    *("batch_input_shape", "input_length", "query_shape", "key_shape", "value_shape"),
    *("is_legacy_optimizer", "fn", "build_config", "rng_type", "vocabulary_size"),
}
# Values of arguments that the constructor takes among others, without a parameter.
UNNAMED = {"rms_scaling": False, "data_format": "channels_last", "decay": 0.0}
# What constructors of Keras 2 take among others.
TAKEN: dict[str, dict[str, Any]] = {
    "Layer": {"activity_regularizer": None},
    "RNN": {"zero_output_for_mask": False},
}
# Functions of this name compute something else in the other Keras.
DIFFERENT = {"hard_sigmoid"}
NAMESPACES = (
    *("layers", "losses", "metrics", "optimizers", "optimizers.schedules"),
    *("initializers", "regularizers", "constraints"),
)


class Objects:
    """Convert objects to Keras 3, or to Keras 2.

    Args:
        to3: Whether to convert to Keras 3.
        custom_objects: The classes and functions of users, by name, that the result
            uses.
    """

    def __init__(self, to3: bool, custom_objects: Mapping[str, Any] | None):
        if not isinstance(custom_objects, Mapping | None) or not all(
            isinstance(k, str) and callable(v)
            for k, v in (custom_objects or {}).items()
        ):
            raise TypeError(
                "`custom_objects` must be classes and functions by name. Received: "
                f'custom_objects={custom_objects!r}. Pass {{"Mine": Mine3}}.'
            )
        self.to3 = to3
        self.source: Any = packages.keras2() if to3 else keras
        self.target: Any = keras if to3 else packages.keras2()
        self.custom = dict(custom_objects or {})
        self.name = "Keras 3" if to3 else "Keras 2"

    def __call__(self, value: Any) -> Any:
        """Return a value with everything of the source Keras in it converted."""
        if isinstance(value, dict) and {"class_name", "config"} <= set(value):
            return self._made(value["class_name"], value["config"], value.get("module"))
        if isinstance(value, Mapping):
            return {k: self(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(v) for v in value]
        if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0:
            return value.item()
        if inspect.isroutine(value):
            return self._function(value)
        if hasattr(value, "get_config"):
            cls = type(value)
            return self._made(cls.__name__, value.get_config(), cls.__module__, cls)
        return value

    def arguments(
        self, cls: type, target: type, config: Mapping, what: str
    ) -> dict[str, Any]:
        """Return what to construct `target` with, to get what `config` is to `cls`."""
        accepted, defaults = parameters(target), parameters(cls) | UNNAMED
        found = {}
        for key, value in config.items():
            new = self._renamed(cls.__name__, key)
            if key == "name" and value is None:
                continue
            if new in accepted:
                found[new] = (
                    policy(value) if key == "dtype" else self._value(key, value)
                )
            elif not (
                key in IMPLEMENTATION
                or key.endswith("_initializer")
                or value is None
                or _same(value, defaults.get(key))
            ):
                raise ValueError(
                    f"{self.name} must have all arguments of a layer. Received: "
                    f"{what} with {key}={value!r}, which its {target.__name__} does "
                    "not have. Replace the layer, or leave out the argument."
                )
        return found

    def _value(self, key, value):
        if isinstance(value, str) and value in DIFFERENT:
            raise ValueError(
                "An activation must be the same function in both Kerases. Received: "
                f"{key}={value!r}, which they compute in different ways. Choose "
                "another one."
            )
        if key.endswith("activation") and isinstance(value, str):
            found = self._function_named(value, ("activations",))
            return found if value in self.custom else value
        if key == "axis" and isinstance(value, (list, tuple)) and len(value) == 1:
            return value[0]
        if key.endswith("_initializer"):
            try:
                return self(value)
            except LookupError:  # weights are carried over, so it has done its work
                return "zeros"
        return self(value)

    def _renamed(self, cls, key):
        for (owner, old), new in RENAMED.items():
            if owner == cls and key == (old if self.to3 else new):
                return new if self.to3 else old
        return key

    def _made(self, name, config, module, cls=None):
        if name == "function":
            return self._function_named(config)
        if name == "__tuple__" or not isinstance(config, Mapping):
            return self(config)
        if name.startswith("LossScaleOptimizer"):  # `compile` adds it where needed
            return self(config["inner_optimizer"])
        if name == "Nadam" or config.get("use_ema"):
            logging.warning("%s takes other steps in %s.", name, self.name)
        target = self.target_class(name, module)
        cls = cls or found_class(self.source, name, module) or target
        given = self.arguments(cls, target, config, name)
        if given.get("reduction") == "auto":
            given["reduction"] = "sum_over_batch_size"
        return target(**given)

    def target_class(self, name: str, module: str | None) -> type:
        """Return the class of this name in the other Keras, or the user's."""
        found = self.custom.get(name) or found_class(self.target, name, module)
        if found is None:
            raise UnknownClass(
                f"A class must exist in {self.name} to be converted. Received: {name}. "
                f"Pass custom_objects={{{name!r}: ...}} with such a class."
            )
        return found

    def _function(self, function):
        root = function.__module__.split(".")[0]
        if root != self.source.__name__:
            return function  # the user's own; it works on tensors of TensorFlow
        return self._function_named(function.__name__)

    def _function_named(self, name, spaces=("activations", "losses", "metrics")):
        if name in self.custom:
            return self.custom[name]
        self._value("function", name)
        for space in spaces:
            with contextlib.suppress(ValueError):  # one that has no such name
                return getattr(self.target, space).get(name)
        raise UnknownClass(
            f"A function must exist in {self.name} to be converted. Received: {name}. "
            f"Pass custom_objects={{{name!r}: ...}} with such a function."
        )


class UnknownClass(ValueError, LookupError):
    """What cannot be converted, because the other Keras does not have it."""


def found_class(root: Any, name: str, module: str | None) -> type | None:
    """Return the class of a Keras by name and the module that a config has."""
    if module and module.split(".")[0] not in ("keras", "tf_keras"):
        return None
    first = ".".join((module or "").split(".")[1:])
    for space in (first, *NAMESPACES):
        try:
            place = functools.reduce(getattr, filter(None, space.split(".")), root)
        except AttributeError:
            continue
        if isinstance(found := getattr(place, name, None), type):
            return found
    return None


def policy(value: Any) -> str | None:
    """Return the name of a dtype policy, from what a config has."""
    if isinstance(value, Mapping):
        return value["config"]["name"]
    return getattr(value, "name", value)


@functools.cache
def parameters(cls: type) -> dict[str, Any]:
    """Return the parameters of a constructor and their defaults.

    What goes to the constructor of a parent class counts.
    """
    found: dict[str, Any] = {}
    for parent in cls.__mro__:
        own: Callable | None = vars(parent).get("__init__")
        if own is None:
            continue
        kinds = inspect.signature(own).parameters.values()
        for p in kinds:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, p.default)
        if packages.is_keras2(cls):
            found |= TAKEN.get(parent.__name__, {})
        if all(p.kind is not p.VAR_KEYWORD for p in kinds):
            break
    found.pop("self", None)
    return found


def _same(value, default):
    try:
        return bool(np.all(value == default))
    except Exception:  # of objects that compare in their own way
        return False
