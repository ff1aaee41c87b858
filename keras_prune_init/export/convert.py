"""Convert a Keras model to the content of a .tflite file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init._arguments import check_model
from keras_prune_init.export import flatbuffer
from keras_prune_init.graph.inputs import graph_inputs
from keras_prune_init.layers.patching import patched
from keras_prune_init.layers.types import Trait, has
from keras_prune_init.layers.walk import flatten, is_graph
from keras_prune_init.surgery import rebuild
from keras_prune_init.surgery.exchange import masked_layers

PRECISIONS = ("float32", "float16", "int8")


def plain(model: keras.Model, example: Any = None) -> keras.Model:
    """Return a Functional or Sequential model without masks that computes in float32.

    Other kinds of model are called with an example, a batch of inputs.
    """
    check_model(model)
    if masked_layers(model):
        model = rebuild.strip(model)
    dtypes = {layer.compute_dtype for layer in flatten(model)}
    if dtypes - {"float32", None}:
        model = rebuild.copy_model(model, "float32")
    if is_graph(model):
        return model
    if example is None:
        raise ValueError(
            "A subclassed model does not say what its inputs are. Received: "
            f"{model.name}, a {type(model).__name__}. Pass `representative_data` "
            "to `export_tflite`, or build the model from `keras.Input` and "
            "`keras.Model(inputs, outputs)`."
        )
    given = keras.tree.map_structure(
        lambda a: keras.Input(a.shape[1:], dtype=a.dtype), example
    )
    return keras.Model(given, model(given), name=model.name)


def specs(inputs: Any, batch_size: int | None = None) -> Any:
    """Return the specs of a model's inputs, nested as they are, with a batch size.

    `None`: that of the inputs, or any.
    """

    def spec(tensor):
        shape = (batch_size or tensor.shape[0], *tensor.shape[1:])
        return tf.TensorSpec(shape, tensor.dtype, tensor.name)

    return keras.tree.map_structure(spec, inputs)


def save(model: keras.Model, folder: str, batch_size: int | None = None) -> None:
    """Write a plain model as a SavedModel that accepts only this batch size.

    `None`: that of the model's inputs, or any.
    """
    signature = [specs(graph_inputs(model), batch_size)]
    inert = [v for v in flatten(model) if has(v, Trait.INERT, subclasses=False)]

    def call(inputs):
        return model(inputs, training=False)

    # Some would leave operations in the file that phones do not have.
    with patched((layer, "call", _passing(layer)) for layer in inert):
        save_function(call, signature, folder, _tables(model))


def save_function(
    call: Callable, signature: list, folder: str, tables: Sequence = ()
) -> None:
    """Write a function of tensors, which may read tables, as a SavedModel.

    It is traced once; `model.export` of Keras traces a model six times.
    """
    function = tf.function(call, signature, autograph=False)
    traced = function.get_concrete_function()
    holder = tf.Module()
    holder.read = [*traced.variables, *tables]
    tf.saved_model.save(holder, folder, signatures=traced)


def _tables(model):
    """Return what lookup layers look up in, which TFLite then names as unknown."""
    values = (value for layer in flatten(model) for value in vars(layer).values())
    resource = tf.saved_model.experimental.TrackableResource
    return [v for v in values if isinstance(v, resource)]


def _passing(layer):
    plain = layer.call

    def call(inputs, *args, **kwargs):
        if not tf.is_tensor(inputs):  # images beside their labels or boxes
            return plain(inputs, *args, **kwargs)
        return tf.cast(inputs, layer.compute_dtype)

    return call


def convert(
    folder: str,
    precision: str,
    samples: Callable[[], Iterator[dict[str, np.ndarray]]] | None = None,
) -> bytes:
    """Return the .tflite file of a saved model, with all tensors dense.

    Before it takes most of its memory, the converter calls the garbage collector.
    For int8 it calls `samples`, which returns inputs by name, one sample at a time.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = samples
    try:
        with warnings.catch_warnings():
            # TensorFlow's own calibration uses what it warns of.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
            return converter.convert()
    except Exception as e:
        raise ValueError(_explain(e)) from e


def _explain(error):
    """Return what the converter's error says of the layer, if it names one."""
    found = re.search(
        r"\"([^\"@]+/[^\"@]+)@[^\n]*'tf\.(\w+)' op is neither", str(error)
    )
    if "element_shape to be static" in str(error):
        return (
            "TFLite runs recurrent layers of Keras 2 with one batch size only. Pass "
            "batch_size=1."
        )
    if not found:
        return f"TFLite cannot convert the model: {error}"
    layer = flatbuffer.layer_name(found[1])
    return (
        f"TFLite has no operator {found[2]}, which layer {layer!r} needs. Replace the "
        "layer, or leave it to the code that reads the outputs."
    )
