"""How one layer is copied, by its config, with its variables."""

from __future__ import annotations

import contextlib

import keras
import tensorflow as tf

from keras_prune_init.core import selection
from keras_prune_init.core.compact import variable_names, without_storage

Layer = keras.layers.Layer


def copy_leaf(layer, dtype=None, kernels=(), stored=True):
    """A copy with the variables of `layer`, but without the values of some kernels.

    Unless they are `stored`, they have a shape only.
    """
    names = () if stored else variable_names(kernels)
    try:
        with without_storage(names), _starting_from(layer):
            new = _from_own_config(layer, dtype)
    except Exception as e:
        raise ValueError(
            "Pruning works on a copy, made of each layer's config. Received: "
            f"`{layer.name}` ({type(layer).__name__}), which cannot be made from its "
            "config. Use named functions in place of lambdas, or let the class "
            f"implement `get_config` and `from_config`. Keras says: {e}"
        ) from e
    if isinstance(layer, Layer):
        _copy_variables(layer, new, kernels)
    return new


@contextlib.contextmanager
def _starting_from(layer):
    """Variables that are made here start from those of `layer` with the same name.

    They are assigned later anyway; random values to begin with would cost more than all
    the rest of a copy.
    """
    variables = layer.variables if isinstance(layer, Layer) else []
    values = {v.name: v.value for v in variables}

    def create(next_creator, **kwargs):
        if kwargs["name"] in values and len(values) == len(variables):
            value = values[kwargs["name"]]
            kwargs["initial_value"] = tf.cast(value, kwargs["dtype"] or value.dtype)
        return next_creator(**kwargs)

    with tf.variable_creator_scope(create):
        yield


def _from_own_config(layer, dtype):
    config = layer.get_config()
    if not isinstance(layer, Layer):  # an operation of a Functional model
        return type(layer).from_config(config)
    if dtype is None:
        return _from_config(layer, config)
    # Sublayers that the constructor makes take the global policy.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        return _from_config(layer, _with_dtype(config, dtype))
    finally:
        keras.config.set_dtype_policy(policy)


def _from_config(layer, config):
    new = type(layer).from_config(config)
    if layer.built and not new.built:
        new.build_from_config(layer.get_build_config())
        # Keras leaves this to the first call, for models whose `call` builds them.
        new.built = True
    return new


def _with_dtype(config, dtype):
    if not isinstance(config, dict):
        return config
    return {
        k: dtype if k == "dtype" and v else _with_dtype(v, dtype)
        for k, v in config.items()
    }


def _copy_variables(source, target, kernels):
    variables = [_without(layer, kernels) for layer in (source, target)]
    shapes = [[tuple(v.shape) for v in found] for found in variables]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"A copy of `{source.name}` made from its config must have the same "
            f"variables. Received: {len(shapes[0])} variables, in the copy "
            f"{len(shapes[1])}. Let `{type(source).__name__}` implement "
            "`get_config` with all constructor arguments, and `build` (or "
            "`build_from_config`) so that it creates all its state."
        )
    for old, new in zip(*variables, strict=True):
        new.assign(old.value)


def _without(layer, kernels):
    left_out = {id(selection.get_kernel(layer, name)) for name in kernels}
    return [v for v in layer.variables if id(v) not in left_out]
