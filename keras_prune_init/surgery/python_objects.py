"""Copy Python objects: containers, functions, and what refers to a model."""

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

# Shared by a copy and what it was made from: they cannot change.
ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, type, np.generic, np.dtype),
    *(types.ModuleType, types.BuiltinFunctionType, inspect.Signature),
    *(tf.Tensor, tf.DType, tf.TensorShape, tf.TypeSpec, tf.distribute.Strategy),
    *(keras.DTypePolicy, keras.KerasTensor, threading.Thread),
)
PLAIN = frozenset({type(None), bool, int, float, str, tf.DType, tf.TensorShape})
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
CONTAINERS = (list, tuple, set, frozenset, dict, collections.deque)
NOTHING = object()


class PythonCopier:
    """Copy anything, once.

    Functions, lookup tables and other objects without a rule are shared. If they refer
    to a part of the model (`own`), they are copied, so that the copy refers to the
    copied part.
    """

    atoms: tuple[type, ...] = ATOMS

    def __init__(self, own: Iterable):
        self._own = {id(part) for part in own}
        self._memo: dict[int, tuple[object, object]] = {}
        self._methods: dict[type, Callable] = {}

    def __call__(self, value):
        """Return the copy of anything; it is always the same one."""
        if type(value) in PLAIN:
            return value
        if id(value) in self._memo:
            return self._memo[id(value)][0]
        return self.unchanged(value)

    def unchanged(self, value):
        """Return the copy of something that has not been copied yet."""
        kind = value.__class__  # which wrappers of TensorFlow forge, unlike `type`
        if kind not in self._methods:
            fitting = (
                method for kinds, method in self.rules if issubclass(kind, kinds)
            )
            self._methods[kind] = next(fitting, PythonCopier._other)
        return self._methods[kind](self, value)

    def _remember(self, value, new):
        # The value is kept too, or another could get its id.
        self._memo[id(value)] = new, value
        return new

    def _object(self, value):
        """Copy the attributes of an object that has some."""
        if not hasattr(value, "__dict__"):
            return value
        new = self._remember(value, object.__new__(type(value)))
        self._attributes(vars(value), new)
        return new

    def _attributes(self, attributes, new):
        for name, attribute in list(attributes.items()):
            vars(new)[name] = self(attribute)

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

    def _container(self, value):
        kind = type(value)
        if kind.__module__.startswith("tensorflow."):  # which wraps Python's
            plain = next(k for k in CONTAINERS if isinstance(value, k))
            return self._remember(value, tracked(self._container(plain(value))))
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
        self._attributes(getattr(value, "__dict__", {}), new)
        return new

    def _method(self, value):
        return types.MethodType(value.__func__, self(value.__self__))

    def _partial(self, value):
        function, args = self(value.func), [self(v) for v in value.args]
        keywords = {k: self(v) for k, v in value.keywords.items()}
        new = type(value)(function, *args, **keywords)
        self._attributes(vars(value), new)
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
        self._attributes(vars(value), new)
        new.__qualname__, new.__module__ = value.__qualname__, value.__module__
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            if _content(old) is not NOTHING:
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
            if id(value) not in seen and not isinstance(value, self.atoms):
                seen.add(id(value))
                queue.extend(_referred(value))
        return False

    # The first that fits.
    rules: tuple[tuple[Any, Callable], ...] = (
        (ATOMS, _share),
        (np.ndarray, _array),
        (GENERATORS, _generator),
        (CONTAINERS, _container),
        (types.MethodType, _method),
        (functools.partial, _partial),
        (types.FunctionType, _function),
        (tf.types.experimental.PolymorphicFunction, _tf_function),
    )


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
    """Return the content of a closure's cell, or `NOTHING` if it is still empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return NOTHING


def tracked(value):
    """Wrap a list or dict so that `tf.train.Checkpoint` looks inside."""
    return tf.__internal__.tracking.wrap(value)
