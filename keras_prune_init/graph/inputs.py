"""One sample of ones in the form that a model takes."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import tensorflow as tf

from keras_prune_init.graph.wiring import flat_graph
from keras_prune_init.layers.walk import is_graph

L = keras.layers

# Sizes to try for open dimensions: 32, then smaller, then for deep image networks.
OPEN_SIZES = (32, 16, 8, 4, 2, 1, 64, 128, 256)


def ones_input(model: keras.Model):
    """Return one sample of ones in the form that the model takes.

    A lookup layer gets the last entry of its vocabulary, because it may know nothing
    else. Unknown sizes become the first of `OPEN_SIZES` with which the model runs:
    tables of positions may be short, and images may have to be large. Subclassed models
    do not say which inputs are whole numbers, such as tokens. This is tried out too.

    Raises:
        ValueError: If the shape of the model's input is not known, or no size works.
    """
    specs = _input_specs(model)
    known = all(n is not None for v in keras.tree.flatten(specs) for n in v.shape[1:])
    words = _words(model)
    if known and is_graph(model):
        return _ones(specs, 0, words)
    first = None
    for typed in [specs] if is_graph(model) else _typed(specs):
        for size in [0] if known else OPEN_SIZES:
            inputs = _ones(typed, size, words)
            try:
                with keras.StatelessScope():
                    model(inputs, training=False)
                return inputs
            except Exception as e:  # of the user's own layers, or of TensorFlow
                first = first or e
    raise ValueError(
        "The model must run on an input of ones, for which open sizes are tried out. "
        f"Received: {model.name}, which runs with no size of {OPEN_SIZES}, neither "
        "with floats nor with whole numbers. Give its `keras.Input` a whole shape. "
        f"Keras says: {first}"
    ) from first


def graph_inputs(model: keras.Model) -> Any:
    """Return the symbolic inputs of a graph, nested as it takes them."""
    # A Sequential model that was never called knows no `input`.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _input_specs(model):
    if is_graph(model):
        return graph_inputs(model)
    config = model.get_build_config() or {}
    if "input_shape" not in config:
        raise ValueError(
            "An input of ones can be made for models with one argument. "
            f"Received: {model.name}, built with {config}. "
            "Use a Functional model, or a method that takes data."
        )
    return keras.tree.map_shape_structure(
        lambda shape: keras.KerasTensor(shape, model.compute_dtype),
        config["input_shape"],
    )


def _typed(specs):
    """Yield the inputs as they are, then with some of them as whole numbers."""
    flat = keras.tree.flatten(specs)
    for whole in itertools.product((False, True), repeat=min(len(flat), 4)):
        chosen = itertools.zip_longest(flat, whole, fillvalue=False)
        typed = [
            keras.KerasTensor(spec.shape, "int32") if is_whole else spec
            for spec, is_whole in chosen
        ]
        yield keras.tree.pack_sequence_as(specs, typed)


def _words(model):
    """Return `{id of an input: a word}` for inputs that go into a lookup."""
    if not is_graph(model):
        return {}
    found, nodes = {}, flat_graph(model)
    for node in nodes:
        lookup = isinstance(node.layer, (L.StringLookup, L.IntegerLookup))
        if lookup and node.layer.vocabulary_size():
            source = nodes[node.parents[0]].layer
            word = node.layer.get_vocabulary()[-1]
            found[id(getattr(source, "output", None))] = word
    return found


def _ones(specs, size, words):
    def ones(spec):
        first, *others = spec.shape
        shape = [first or 1, *(size if n is None else n for n in others)]
        if id(spec) in words or spec.dtype == "string":
            return tf.fill(shape, tf.constant(words.get(id(spec), "1"), spec.dtype))
        return tf.ones(shape, spec.dtype)

    return keras.tree.map_structure(ones, specs)
