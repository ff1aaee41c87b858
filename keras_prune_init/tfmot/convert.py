"""`to_keras3` and `from_keras3`: models of one Keras in the other one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init._arguments import check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.graph.inputs import ones_input
from keras_prune_init.surgery.exchange import masked_layers
from keras_prune_init.surgery.rebuild import preserved_random_state
from keras_prune_init.tfmot import graphs, packages
from keras_prune_init.tfmot.converter import Converter, check_graph

# Outputs of both models are equal to so much of the largest one.
TOLERANCE = 1e-4
COMPILED = (
    *("loss", "metrics", "loss_weights", "weighted_metrics"),
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
    >>> [w.shape for w in kpi.tfmot.to_keras3(old).get_weights()]
    [(4, 2), (2,)]
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
        check_not_tied(model, [old for old, _ in converter.layers])
        trained = {id(w) for w in model.trainable_weights}
        for old, made in converter.layers:
            _carry_over(old, made, trained)
        compiled = _compile_arguments(model, converter.objects)
    check_same(model, new)
    if compiled is not None:
        new.compile(**compiled)
    return new


def check_not_tied(model: Any, layers: Iterable[Any]) -> None:
    """Raise an error if layers of a model share weights, which copies would not."""
    owners: dict[int, str] = {}
    for layer in layers:
        for weight in () if hasattr(layer, "layer") else layer.weights:
            other = owners.setdefault(id(weight), layer.name)
            if other != layer.name:
                raise ValueError(
                    "Each layer must have weights of its own to be converted. "
                    f"Received: {model.name}, in which {other} and {layer.name} share "
                    "one. Use one layer twice, or a layer of your own."
                )


def _carry_over(old, new, trained):
    weights = old.trainable_weights
    # A model that is not trainable freezes what is in it, in Keras 2.
    frozen = weights and not any(id(w) in trained for w in weights)
    if new.trainable != (old.trainable and not frozen):
        new.trainable = old.trainable and not frozen
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
    if objects.to3 and len(model.outputs) > 1:
        found |= _for_each_output(model, found)
    found["optimizer"] = objects(model.optimizer)
    if objects.to3:
        found.setdefault("jit_compile", False)
    elif found.get("jit_compile") == "auto":
        found["jit_compile"] = None
    return found


def _for_each_output(model, compiled):
    """Return losses and metrics as Keras 3 wants them from a model of many outputs."""
    names, found = model.output_names, {}
    if set(compiled["loss"] if isinstance(compiled.get("loss"), dict) else ()) & set(
        names
    ):
        found["loss"] = {name: compiled["loss"].get(name) for name in names}
    for key in ("metrics", "weighted_metrics"):
        given = compiled.get(key)
        flat = isinstance(given, list) and not any(isinstance(v, list) for v in given)
        if flat and len(given) != len(names):
            found[key] = [list(given) for _ in names]
    return found


def check_same(model: Any, new: Any) -> None:
    """Raise an error unless two models, of either Keras, compute the same."""
    in3 = new if isinstance(new, keras.Model) else model
    ones = ones_input(in3)
    states = [_states(model), _states(new)]
    try:
        _reset(states)
        expected, found = (_outputs(m, _random_like(ones)) for m in (model, new))
    except tf.errors.InvalidArgumentError:  # floats that a lookup reads as indices
        _reset(states)
        expected, found = (_outputs(m, ones) for m in (model, new))
    finally:
        _carry_states(*states)
    before, after = (float(sum(map(tf.reduce_mean, m.losses))) for m in (model, new))
    if not np.isclose(before, after, TOLERANCE, TOLERANCE):
        raise ValueError(
            "A converted model must have the losses that layers of the model add. "
            f"Received: {model.name}, where they are {before:.4g} and would be "
            f"{after:.4g}. Keras 3 has no `add_loss` of a model, or with a "
            "function: use a regularizer, or a layer of your own."
        )
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


def _states(model):
    """Return the variables and values of recurrent layers that keep their state."""
    layers = (
        graphs.leaves(model) if isinstance(getattr(model, "layers", 0), list) else ()
    )
    stateful = [v for v in layers if getattr(v, "stateful", False) and v.states]
    variables = [v for layer in stateful for v in tf.nest.flatten(layer.states)]
    return [(v, np.asarray(v)) for v in variables if v is not None]


def _reset(states):
    for variable, value in (pair for model in states for pair in model):
        variable.assign(np.zeros_like(value))


def _carry_states(old, new):
    """Set the states of both models to what those of the first one were."""
    for (variable, value), (other, _) in zip(old, new, strict=True):
        variable.assign(value)
        other.assign(value)


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
