"""`to_keras3` and `from_keras3`: models of one Keras in the other one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init._arguments import check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.graph.inputs import ones_input
from keras_prune_init.surgery.exchange import masked_layers
from keras_prune_init.surgery.rebuild import preserved_random_state
from keras_prune_init.tfmot import packages
from keras_prune_init.tfmot.converter import Converter, check_graph

# Outputs of both models are equal to so much of the largest one.
TOLERANCE = 1e-4
COMPILED = (
    *("optimizer", "loss", "metrics", "loss_weights", "weighted_metrics"),
    *("run_eagerly", "steps_per_execution", "jit_compile"),
)


@one_at_a_time
def to_keras3(
    model: Any, *, custom_objects: Mapping[str, Any] | None = None
) -> keras.Model:
    """Rebuild a model of Keras 2 (`tf_keras`) in Keras 3, with its weights.

    Args:
        model: A built Sequential or Functional model of `tf_keras`. It is not changed.
        custom_objects: `{name: class or function of Keras 3}` for layers, losses and
            functions of your own.

    Returns:
        A new model with the same layers, weights, statistics of batch normalization and
        `trainable` flags. It is compiled with the same arguments if `model` was; its
        optimizer is new. A `/` in names becomes `_`. Initializers that Keras 3 does not
        have are left out, as the weights are there.

    Raises:
        ValueError: If a layer, an argument or an operation has no counterpart (the
            message names it), if the model is subclassed or not built, or if the new
            model computes something else.
        TypeError: If `model` is no model of Keras 2.
        ImportError: If tf_keras is not installed.

    Example:

    >>> import keras_prune_init as kpi
    >>> import tf_keras
    >>> old = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    >>> kpi.tfmot.to_keras3(old).layers[0].kernel.shape
    (4, 2)
    """
    check_keras2(model)
    return converted(model, Converter(True, custom_objects))


@one_at_a_time
def from_keras3(
    model: keras.Model, *, custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """Rebuild a model of Keras 3 in Keras 2 (`tf_keras`), with its weights.

    Args:
        model: A built Sequential or Functional model without masks. It is not changed.
        custom_objects: `{name: class or function of Keras 2}` for layers, losses and
            functions of your own.

    Returns:
        A new model of `tf_keras` with the same layers, weights, statistics of batch
        normalization and `trainable` flags. It is compiled with the same arguments if
        `model` was; its optimizer is new.

    Raises:
        ValueError: If a layer, an argument or an operation has no counterpart (the
            message names it), if the model is subclassed, not built or pruned, or if
            the new model computes something else.
        TypeError: If `model` is no model of Keras 3.
        ImportError: If tf_keras is not installed.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> type(kpi.tfmot.from_keras3(model)).__module__.split(".")[0]
    'tf_keras'
    """
    check_model(model)
    if masked_layers(model):
        raise ValueError(
            "Keras 2 has no layers with our masks. Received: "
            f"model={model.name}, which is pruned. `strip` it first, or pass it to "
            "`quantize_aware`, which keeps the zeros."
        )
    return converted(model, Converter(False, custom_objects))


def check_keras2(model: Any) -> None:
    """Raise an error unless this is a model of Keras 2 that can be converted."""
    keras2 = packages.keras2()
    if not isinstance(model, keras2.Model):
        advice = "It needs no conversion." if isinstance(model, keras.Model) else ""
        raise TypeError(
            "`model` must be a model of Keras 2 (tf_keras). Received: "
            f"{type(model).__module__}.{type(model).__name__}. {advice}".rstrip()
        )
    check_graph(model)


def converted(model: Any, converter: Converter) -> Any:
    """Return the model in the other Keras, checked and compiled."""
    with preserved_random_state():
        new = converter.model(model)
        for old, made in converter.layers:
            _carry_over(old, made)
        compiled = _compile_arguments(model, converter.objects)
    check_same(model, new)
    if compiled is not None:
        new.compile(**compiled)
    return new


def _carry_over(old, new):
    if old.trainable != new.trainable:
        new.trainable = old.trainable
    values = old.get_weights()
    shapes = [tuple(w.shape) for w in new.weights]
    if [v.shape for v in values] != shapes:
        raise ValueError(
            "A layer must have weights of the same shapes in both Kerases. Received: "
            f"{old.name} ({type(old).__name__}) with {[v.shape for v in values]} and "
            f"{shapes}. Replace it."
        )
    new.set_weights(values)
    if hasattr(new, "finalize_state"):
        new.finalize_state()


def _compile_arguments(model, objects):
    config = getattr(getattr(model, "_compile_config", None), "config", None)
    if not config or not getattr(model, "optimizer", None):
        return None
    found = {k: objects(config[k]) for k in COMPILED if config.get(k) is not None}
    found["optimizer"] = objects(model.optimizer)
    if objects.to3:
        found.setdefault("jit_compile", False)
    elif found.get("jit_compile") == "auto":
        found["jit_compile"] = None
    return found


def check_same(model: Any, new: Any) -> None:
    """Raise an error unless two models, of either Keras, compute the same."""
    in3 = new if isinstance(new, keras.Model) else model
    inputs = _random_like(ones_input(in3))
    expected, found = (_outputs(m, inputs) for m in (model, new))
    for a, b in zip(expected, found, strict=True):
        size = np.max(np.abs(a), initial=0, where=np.isfinite(a))
        if not np.allclose(a, b, TOLERANCE, TOLERANCE * size, equal_nan=True):
            raise ValueError(
                "A converted model must compute what the model does. Received: "
                f"{model.name}, whose outputs differ by {np.max(np.abs(a - b)):.2g}. "
                "A layer of your own, or one that Keras 3 changed, may be the reason."
            )


def _outputs(model, inputs):
    # Wrappers of tfmot assign to variables, which replicas share.
    strategy = model.distribute_strategy
    found = strategy.run(lambda: model(inputs, training=False))
    first = [strategy.experimental_local_results(v)[0] for v in tf.nest.flatten(found)]
    return [np.asarray(v) for v in first]


def _random_like(inputs):
    rng = np.random.default_rng(0)

    def random(ones):
        dtype = keras.backend.standardize_dtype(ones.dtype)
        if keras.backend.is_float_dtype(dtype):
            values = rng.normal(size=ones.shape).astype("float32")
            return keras.ops.convert_to_tensor(values, ones.dtype)
        if ones.dtype == "string" or not ones.shape.rank:
            return ones
        # Half of it is 0, as padding that layers may mask.
        length = ones.shape[-1]
        kept = keras.ops.arange(length) < (length + 1) // 2
        return ones * keras.ops.cast(kept, ones.dtype)

    return keras.tree.map_structure(random, inputs)
