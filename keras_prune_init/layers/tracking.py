"""Change what Keras notes of a layer's variables, without Keras.

This uses private parts of Keras; tests/test_copier.py lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

Layer: TypeAlias = keras.layers.Layer

# Position of a layer in another, name of Keras's list of its variables, place in it.
Place = tuple[int, str, int]


def take_out(layer: Layer, variable: keras.Variable) -> list[Place]:
    """Hide a layer's variable from Keras, and free its storage; its shape is kept.

    With what it returns, `put_in` undoes this. Wrappers may hold the variable too.
    """
    places = []
    for i, holder in enumerate(layer._flatten_layers()):
        for store, (_, variables) in holder._tracker.config.items():
            if holder._tracker.is_in_store(store, variable):
                place = [v is variable for v in variables].index(True)
                places.append((i, store, place))
        holder._tracker.untrack(variable)
        for name in _attributes(holder, variable):
            holder._delete_tracking(name)
    variable.trainable = False
    if variable._value is None:  # Keras will give it one once all layers are called
        variable._initializer = lambda shape, dtype: tf.zeros([0], dtype)
    else:
        variable._initialize(tf.zeros([0], variable.dtype))
    return places


def put_in(layer: Layer, variable: keras.Variable, places: Iterable[Place]) -> None:
    """Undo `take_out`; the value stays lost."""
    layers = list(layer._flatten_layers())
    for i, store, place in places:
        tracker = layers[i]._tracker
        tracker.config[store][1].insert(place, variable)
        tracker.stored_ids[store].add(id(variable))
        for name in _attributes(layers[i], variable):
            layers[i]._track_trackable(variable, name, overwrite=True)
        variable.trainable = layers[i].trainable and store == "trainable_variables"


def initialize(variable: keras.Variable, value) -> None:
    """Give a variable without storage a value of its shape."""
    variable._initialize(tf.cast(value, variable.dtype))


def rename(variable: keras.Variable, path: str) -> None:
    """Give a variable another path, which reports use as its name."""
    variable._path = path


def resize(variable: keras.Variable, shape: tuple[int, ...]) -> None:
    """Give a variable another shape, and zeros, unless it has that shape."""
    if tuple(variable.shape) != tuple(shape):
        variable._shape, variable._ndim = tuple(shape), len(shape)
        variable._initialize(tf.zeros(shape, variable.dtype))


def _attributes(layer, variable):
    return [k for k, v in vars(layer).items() if v is variable]


def track_items(layer: Layer, items: dict[str, Any]) -> None:
    """Let `tf.train.Checkpoint` see what is in Keras's lists and dicts; it skips it."""
    for name, item in items.items():
        layer._track_trackable(item, name, overwrite=True)


def stored_ids(tracker) -> dict[str, set[int]]:
    """Return the ids by which a Keras tracker finds its variables and layers."""
    stores = tracker.config.items()
    return {name: {id(v) for v in store} for name, (_, store) in stores}
