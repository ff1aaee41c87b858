"""Quantization-aware training that keeps zeros, and its int8 file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_prune_init import _gc
from keras_prune_init._arguments import check_model, some
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.export import convert, samples, tflite
from keras_prune_init.export.report import ExportReport
from keras_prune_init.surgery import rebuild
from keras_prune_init.tfmot import converter, graphs, packages, wrappers
from keras_prune_init.tfmot.convert import check_keras2, check_not_tied, converted
from keras_prune_init.tfmot.converter import Converter, check_graph, is_model

# tfmot merges a normalization with such a layer before it, if that has no activation.
BEFORE_NORMALIZATION = ("Conv2D", "DepthwiseConv2D", "Dense", "SeparableConv2D")
NORMALIZATIONS = ("BatchNormalization", "SyncBatchNormalization")


@one_at_a_time
def quantize_aware(
    model: Any, *, custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """Make a model that trains with the rounding of int8, while its zeros stay zeros.

    Train it for a few epochs with a small learning rate, and pass it to `export_int8`.
    Its outputs are wrong before the first step, because it learns the range of each
    activation.
    Weights that are 0 now are masked in each step, those of depthwise convolutions too.

    Args:
        model: A built Sequential or Functional model, pruned or not: of Keras 3, or of
            Keras 2 with or without tfmot's pruning wrappers. It is not changed. Train
            it before.
        custom_objects: `{name: class of Keras 2}` for layers of your own.

    Returns:
        A new model of `tf_keras` with tfmot's quantization wrappers. It is compiled as
        `model` is, with a new optimizer. Nested models are flat in it. Layers that
        tfmot cannot quantize compute in float32; a warning names them. Masks are among
        its weights, so `save_weights`, `load_weights` and checkpoints keep them; load a
        whole model in `quantize_scope()`.

    Raises:
        ValueError: If the model cannot be converted, as in `from_keras3`, or if tfmot
            can quantize none of its layers.
        TypeError: If `model` is no Keras model.
        ImportError: If tensorflow-model-optimization is not installed.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.5)
    >>> [layer.name for layer in kpi.tfmot.quantize_aware(pruned).layers[2:]]
    ['quant_dense1', 'quant_logits']

    Reference:
        Jacob and others, "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2018, arXiv 1712.05877.
    """
    tfmot = packages.tfmot().quantization.keras
    from keras_prune_init.tfmot import quantizers

    if _is_quantized(model):
        raise ValueError(
            "A model is made quantization-aware once. Received: "
            f"{model.name}, which is. Train it on."
        )
    keras2 = packages.keras2()
    plain = _plain(model, custom_objects)
    left_out = _not_quantized(plain, quantizers.Registry())
    kept = {layer.name for layer in plain.layers} - set(left_out)
    if not any(layer.name in kept and layer.weights for layer in plain.layers):
        raise ValueError(
            "tfmot must be able to quantize at least one layer with weights. Received: "
            f"{model.name}, which has none. Quantize it after training: export_tflite("
            "..., precision='int8')."
        )
    if left_out:
        logging.warning(
            "%s: tfmot cannot quantize %s, which stay float32.",
            model.name,
            some(left_out),
        )

    def annotate(layer):
        if layer.name in kept:
            if quantizers.is_relu6(layer):
                layer = keras2.layers.ReLU(6.0, name=layer.name)
            return tfmot.quantize_annotate_layer(layer)
        if paths := _paths_of_zeros(layer):
            config = quantizers.FloatConfig(paths)
            return tfmot.quantize_annotate_layer(layer, config)
        return layer

    with rebuild.preserved_random_state():
        _use_up_names(plain)
        annotated = keras2.models.clone_model(plain, clone_function=annotate)
        with tfmot.quantize_scope(quantizers.SCOPE):
            quantized = tfmot.quantize_apply(annotated, quantizers.Scheme())
        _freeze(quantized)
        wrappers.compile_like(plain, quantized)
    return quantized


def _freeze(model):
    """Keep kernels of frozen layers from training, which tfmot's wrappers would do."""
    for layer in model.layers:
        if getattr(layer, "_weight_vars", ()) and not layer.trainable:
            layer._non_trainable_weights[:0] = layer._trainable_weights
            layer._trainable_weights.clear()


def quantize_scope() -> Any:
    """Return a scope in which Keras 2 loads models of `quantize_aware`.

    Returns:
        A context manager, for `tf_keras.models.load_model`.

    Raises:
        ImportError: If tensorflow-model-optimization is not installed.

    Example:

    >>> import keras_prune_init as kpi
    >>> import tf_keras
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> kpi.tfmot.quantize_aware(model).save("quantized.h5")
    >>> with kpi.tfmot.quantize_scope():
    ...     loaded = tf_keras.models.load_model("quantized.h5")
    >>> loaded.layers[-1].name
    'quant_logits'
    """
    tfmot = packages.tfmot().quantization.keras
    from keras_prune_init.tfmot import quantizers

    return tfmot.quantize_scope(quantizers.SCOPE)


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
    if not _is_quantized(model):
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


def _is_quantized(model):
    layers = getattr(model, "layers", ()) if packages.is_keras2(model) else ()
    return any(type(v).__name__.startswith("QuantizeWrapper") for v in layers)


def _spec(tensor):
    return tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name)


def _plain(model, custom_objects):
    """Return a flat model of Keras 2 without wrappers, whose removed weights are 0."""
    if packages.is_keras2(model):
        check_keras2(model)
        converter.check_additions(model)
        check_not_tied(model, graphs.leaves(model))
        plain = wrappers.unwrapped(model)
        graphs.check_losses(model, plain)
        dtypes = {layer.compute_dtype for layer in graphs.leaves(plain)}
        if not any(map(is_model, plain.layers)) and dtypes <= {"float32", None}:
            return plain
        model = converted(plain, Converter(True, custom_objects))
    check_model(model)
    check_graph(model)
    return converted(convert.plain(model), Converter(False, custom_objects, flat=True))


def _not_quantized(model, registry):
    """Return the names of layers that tfmot cannot quantize."""
    calls = graphs.read(model).calls
    read = [graphs.key(t) for c in calls for t in graphs.tensors((c.args, c.kwargs))]
    makers = {
        graphs.key(t): c.operation for c in calls for t in graphs.tensors(c.outputs)
    }
    found = []
    for call in calls:
        layer = call.operation
        if type(layer).__name__ in NORMALIZATIONS:
            [source] = map(graphs.key, graphs.tensors(call.args))
            before = makers.get(source)
            merges = (
                type(before).__name__ in BEFORE_NORMALIZATION
                and before.activation.__name__ == "linear"
                and read.count(source) == 1
            )
            if not merges:
                found.append(layer.name)
        elif not registry.takes(layer):
            found.append(layer.name)
    return found


def _use_up_names(model):
    """Let Keras 2 give names to the layers that tfmot makes which are not taken."""
    layers = packages.keras2().layers
    names = {layer.name for layer in model.layers}
    for base in ("conv2d", "depthwise_conv2d"):
        numbers = [n.removeprefix(f"{base}_") for n in names if n.startswith(base)]
        most = max((int(n) for n in numbers if n.isdigit()), default=0)
        make = layers.Conv2D if base == "conv2d" else layers.DepthwiseConv2D
        filters = (1,) if base == "conv2d" else ()
        while int(make(*filters, 1).name.removeprefix(base).strip("_") or 0) < most:
            pass


def _paths_of_zeros(layer):
    """Return where a layer has kernels with zeros, as attribute paths."""
    paths = {
        id(weight): ".".join(path)
        for path, weight in sorted(graphs.weights(layer), key=lambda v: -len(v[0]))
    }
    kernels = [w for w in layer.trainable_weights if w.shape.rank > 1]
    return [paths[id(w)] for w in kernels if np.any(w.numpy() == 0)]
