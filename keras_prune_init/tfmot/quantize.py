"""Quantization-aware training that keeps zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from keras_prune_init._arguments import check_model, some
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.export import convert
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

    if wrappers.is_quantized(model):
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
