"""Copies of Keras 2 models with tfmot's pruning wrappers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_prune_init.tfmot import graphs, packages
from keras_prune_init.tfmot.graphs import leaves

# tfmot makes masks anew from this step on, which no training reaches.
NEVER = 2**62
# tfmot takes no sparsity of 1, though it only stands in the config here.
BELOW_1 = 1 - 1e-9
# tfmot lists it, but its wrapper takes one input, and builds no layers inside.
NOT_WRAPPED = "MultiHeadAttention"


def prunable_weights(layer: Any) -> list:
    """Return the weights of a layer that tfmot can prune, in its order.

    Its wrapper forgets masks for padding, so layers with such a mask are left out.
    """
    if graphs.has_mask(layer):
        return []
    registry = _registry()
    if hasattr(layer, "get_prunable_weights"):  # the user's own layer
        return list(layer.get_prunable_weights())
    if type(layer).__name__ == NOT_WRAPPED or not registry.supports(layer):
        return []
    try:
        return list(registry.make_prunable(layer).get_prunable_weights())
    finally:  # which it had stored in the layer
        with contextlib.suppress(AttributeError):
            del layer.get_prunable_weights


def _registry():
    packages.tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    return prune_registry.PruneRegistry


def wrapped(
    model: Any, masks: Mapping[int, Mapping[int, np.ndarray]], values: Mapping
) -> Any:
    """Return a copy of a model in which tfmot's wrappers hold masks.

    `masks` has, by id of a layer, the mask of each of its weights, by position in
    `layer.weights`, and `values` the weights. All other weights are those of the model.
    """
    sparsity = packages.tfmot().sparsity.keras

    def wrap(layer):
        new = type(layer).from_config(layer.get_config())
        if id(layer) not in masks:
            return new
        arrays = list(masks[id(layer)].values())
        removed = 1 - sum(m.sum() for m in arrays) / sum(m.size for m in arrays)
        removed = min(float(removed), BELOW_1)
        never = sparsity.ConstantSparsity(removed, begin_step=NEVER)
        # The wrapper calls the layer in a way that does not cast its inputs.
        return sparsity.prune_low_magnitude(new, never, dtype=layer.dtype_policy)

    def install(old, layer):
        inner = layer.layer if is_wrapper(layer) else layer
        for position, value in values.get(id(old), {}).items():
            inner.weights[position].assign(value)
        if id(old) in masks:
            _install(layer, masks[id(old)])

    return cloned(model, wrap, install)


def unwrapped(model: Any) -> Any:
    """Return a copy of a model of Keras 2 without tfmot's wrappers.

    Removed weights are 0 in it, also if the last step of a training changed them.
    """

    def unwrap(layer):
        layer = layer.layer if is_wrapper(layer) else layer
        return type(layer).from_config(layer.get_config())

    def remove(old, layer):
        if is_wrapper(old):
            values = {id(w): w * mask for w, mask, _ in old.pruning_vars}
            for weight, new in zip(old.layer.weights, layer.weights, strict=True):
                new.assign(values.get(id(weight), weight))

    return cloned(model, unwrap, remove)


def is_wrapper(layer: Any) -> bool:
    """Whether a layer is tfmot's pruning wrapper."""
    return type(layer).__name__ == "PruneLowMagnitude"


def is_quantized(model: Any) -> bool:
    """Whether a model has tfmot's wrappers for quantization-aware training."""
    layers = getattr(model, "layers", ()) if packages.is_keras2(model) else ()
    return any(type(v).__name__.startswith("QuantizeWrapper") for v in layers)


def cloned(model: Any, make: Callable, finish: Callable) -> Any:
    """Return a copy of a model of Keras 2 with its weights, compiled as it is.

    `make` returns a new layer for each layer, and `finish` gets both.
    """
    keras2 = packages.keras2()

    def clone(layer):
        if isinstance(layer, keras2.Model):
            return keras2.models.clone_model(layer, clone_function=clone)
        return make(layer)

    with model.distribute_strategy.scope():
        new = clone(model)
        for old, layer in zip(leaves(model), leaves(new), strict=True):
            layer.trainable = old.trainable
            layer.set_weights(old.get_weights())
            finish(old, layer)
        compile_like(model, new)
    return new


def _install(wrapper, masks):
    positions = {id(w): i for i, w in enumerate(wrapper.layer.weights)}
    for weight, mask, _ in wrapper.pruning_vars:
        position = positions[id(weight)]
        if position in masks:
            mask.assign(masks[position])


def compile_like(model: Any, new: Any) -> None:
    """Compile a copy of a model of Keras 2 as the model, with a new optimizer."""
    config = getattr(getattr(model, "_compile_config", None), "config", None)
    if config and model.optimizer:
        given = {name: _fresh(value) for name, value in config.items()}
        new.compile(**given | {"optimizer": _fresh(model.optimizer)})


def _fresh(value):
    """Return a copy of an object without its state."""
    if isinstance(value, Mapping):
        return {k: _fresh(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_fresh(v) for v in value]
    if hasattr(value, "get_config"):
        return type(value).from_config(value.get_config())
    return value
