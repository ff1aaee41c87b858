"""`export_int8`: from quantization-aware training to a checked .tflite file."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import keras
import tensorflow as tf

from keras_prune_init import _gc
from keras_prune_init.export import convert, samples, tflite
from keras_prune_init.export.report import ExportReport
from keras_prune_init.tfmot import graphs, packages, wrappers


def export_int8(
    model: Any,
    path: str | os.PathLike,
    *,
    sparse: bool | str = "auto",
    representative_data: Any = None,
    batch_size: int | None = None,
    check: bool = True,
) -> ExportReport:
    """Write a model of `quantize_aware` as an int8 .tflite file, and check it.

    The ranges are those that the model learnt, so no data is needed for them.

    Args:
        model: A model that `quantize_aware` returned, trained. It is not changed.
        path: The file; an existing one is replaced.
        sparse: `"auto"`: each kernel is stored in the smaller way. `True`: all kernels
            with a zero are stored sparsely. `False`: none. Dense layers are never
            stored sparsely in int8, because the runtime does not load them.
        representative_data: Batched inputs to check the file with, as in
            `export_tflite`. Default: random numbers.
        batch_size: The only batch size that the file will accept. Default: any.
        check: Whether to load the file in the runtime for phones (ai_edge_litert), run
            it, and compare its outputs with the model's.

    Returns:
        An `ExportReport`, as from `export_tflite`.

    Raises:
        ValueError: If an argument does not fit, or the file computes something else
            than the model. No file is written then.
        TypeError: If `model` or `path` is none.
        ImportError: If `check` is true and ai_edge_litert is not installed.
        OSError: If the file cannot be written.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    >>> quantized = kpi.tfmot.quantize_aware(model)
    >>> history = quantized.fit(np.ones((8, 4)), np.arange(8) % 2, verbose=0)
    >>> report = kpi.tfmot.export_int8(quantized, "model.tflite", check=False)
    >>> report.precision
    'int8'
    """
    keras2 = packages.keras2()
    if not wrappers.is_quantized(model):
        raise TypeError(
            "`model` must be one that `quantize_aware` returned. Received: "
            f"{type(model).__module__}.{type(model).__name__}. Call it first, or write "
            "other models with `export_tflite`."
        )
    if any(w.name.endswith("_count:0") and not w.numpy() for w in model.weights):
        raise ValueError(
            "The ranges of activations are learnt in training. Received: "
            f"{model.name}, which was not trained yet. Call `fit` first, for a hundred "
            "steps or more."
        )
    if any(isinstance(v, keras2.layers.LSTM) for _, v in graphs.inside(model)):
        raise ValueError(
            "TFLite keeps the state of an LSTM of Keras 2 from one call to the next, "
            f"so the file would compute something else. Received: {model.name}, which "
            "has one. Use a GRU, or write the pruned model with `export_tflite`."
        )
    path = tflite.checked_path(path)
    tflite.check_arguments(sparse, batch_size, check)
    specs = keras.tree.map_structure(_spec, graphs.read(model).inputs)

    def call(inputs):
        return model(inputs, training=False)

    with _gc.old_objects_aside(), tempfile.TemporaryDirectory() as folder:
        inputs, wanted = None, None
        if check:
            inputs = samples.Samples(specs, representative_data, batch_size)
            wanted = inputs.predict(model)
        with tflite.saved_to(folder):
            signature = [convert.specs(specs, batch_size)]
            convert.save_function(call, signature, folder)
        dense = convert.convert(folder, "int8")
    return tflite.write(path, dense, model.name, "int8", sparse, inputs, wanted)


def _spec(tensor):
    return tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name)
