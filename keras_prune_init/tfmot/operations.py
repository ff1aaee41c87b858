"""Operations between layers, such as `x + y`, under their names in both Kerases."""

from __future__ import annotations

import functools
import inspect
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.tfmot import packages
from keras_prune_init.tfmot.graphs import Call, tensors


class Operation(NamedTuple):
    """One operation: its function in keras.ops, that in TensorFlow, and parameters."""

    ops: str
    tensorflow: str
    parameters: dict[str, str]  # {of TensorFlow: of keras.ops}


_BINARY = {"x": "x1", "y": "x2"}
_UNARY = {"x": "x"}
_FEATURES = {"features": "x"}
_REDUCED = {"input_tensor": "x", "axis": "axis", "keepdims": "keepdims"}
OPERATIONS = [
    Operation("add", "math.add", _BINARY),
    Operation("subtract", "math.subtract", _BINARY),
    Operation("multiply", "math.multiply", _BINARY),
    Operation("divide", "math.divide", _BINARY),
    Operation("true_divide", "math.truediv", _BINARY),
    Operation("maximum", "math.maximum", _BINARY),
    Operation("minimum", "math.minimum", _BINARY),
    Operation("power", "math.pow", _BINARY),
    Operation("matmul", "linalg.matmul", {"a": "x1", "b": "x2"}),
    Operation("negative", "math.negative", _UNARY),
    Operation("absolute", "math.abs", _UNARY),
    Operation("square", "math.square", _UNARY),
    Operation("sqrt", "math.sqrt", _UNARY),
    Operation("rsqrt", "math.rsqrt", _UNARY),
    Operation("exp", "math.exp", _UNARY),
    Operation("log", "math.log", _UNARY),
    Operation("tanh", "math.tanh", _UNARY),
    Operation("sigmoid", "math.sigmoid", _UNARY),
    Operation("relu", "nn.relu", _FEATURES),
    Operation("relu6", "nn.relu6", _FEATURES),
    Operation("silu", "nn.silu", _FEATURES),
    Operation("elu", "nn.elu", _FEATURES),
    Operation("selu", "nn.selu", _FEATURES),
    Operation("gelu", "nn.gelu", {"features": "x", "approximate": "approximate"}),
    Operation(
        "leaky_relu", "nn.leaky_relu", {"features": "x", "alpha": "negative_slope"}
    ),
    Operation("softmax", "nn.softmax", {"logits": "x", "axis": "axis"}),
    Operation("mean", "math.reduce_mean", _REDUCED),
    Operation("sum", "math.reduce_sum", _REDUCED),
    Operation("max", "math.reduce_max", _REDUCED),
    Operation("min", "math.reduce_min", _REDUCED),
    Operation("reshape", "reshape", {"tensor": "x", "shape": "newshape"}),
    Operation("transpose", "transpose", {"a": "x", "perm": "axes"}),
    Operation("expand_dims", "expand_dims", {"input": "x", "axis": "axis"}),
    Operation("squeeze", "squeeze", {"input": "x", "axis": "axis"}),
    Operation("concatenate", "concat", {"values": "xs", "axis": "axis"}),
    Operation("stack", "stack", {"values": "x", "axis": "axis"}),
    Operation("cast", "cast", {"x": "x", "dtype": "dtype"}),
    Operation(
        "clip",
        "clip_by_value",
        {"t": "x", "clip_value_min": "x_min", "clip_value_max": "x_max"},
    ),
]
# What TFOpLambda layers and classes of Keras 3 are also called.
SYMBOLS = {"__operators__.add": "math.add", "compat.v1.transpose": "transpose"}
CLASSES = {"relu": ("Relu", "ReLU"), "relu6": ("Relu6", "ReLU6")}
# Layers of Keras 2 for two tensors of one shape: tfmot knows these. They pass masks on.
MERGES = {"add": "Add", "subtract": "Subtract", "multiply": "Multiply"}


def to_keras3(call: Call, args: tuple, kwargs: dict) -> Any:
    """Call in Keras 3 what a layer without a class of its own calls in Keras 2."""
    kind = type(call.operation).__name__
    if kind == "SlicingOpLambda":
        x, spec = args
        return x[_slices(spec)]
    symbol = getattr(call.operation, "symbol", "")
    symbol = SYMBOLS.get(symbol, symbol)
    known = next((o for o in OPERATIONS if o.tensorflow == symbol), None)
    if kind == "TFOpLambda" and known:
        signature = inspect.signature(call.operation.function)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {k: v for k, v in bound.arguments.items() if v is not None}
        defaults = {k: p.default for k, p in signature.parameters.items()}
        others = [k for k in given if k not in known.parameters and k != "name"]
        if all(given[k] is defaults[k] for k in others):
            # Those of the same meaning may have other defaults in Keras 3.
            names = known.parameters
            arguments = {names[k]: v for k, v in given.items() if k in names}
            if known.parameters is _BINARY:  # lists, such as means of channels
                arguments = {
                    k: np.asarray(v, "float32") if isinstance(v, list) else v
                    for k, v in arguments.items()
                }
            return getattr(keras.ops, known.ops)(**arguments)
    raise _unknown(f"{call.operation.name} ({symbol or kind})", "Keras 3")


def to_keras2(call: Call, args: tuple, kwargs: dict) -> Any:
    """Call in Keras 2 what an operation of Keras 3, which is no layer, computes."""
    operation, kind = call.operation, type(call.operation).__name__
    given = inspect.signature(operation.call).bind(*args, **kwargs).arguments
    if kind == "GetItem":
        return given["x"][given["key"]]
    known = next((o for o in OPERATIONS if kind in _classes(o.ops)), None)
    if known is None:
        raise _unknown(f"{operation.name} ({kind})", "Keras 2")
    layers = packages.keras2().layers
    config = {k: v for k, v in operation.get_config().items() if k != "name"}
    if kind == "ReLU":
        return layers.ReLU(**config, name=operation.name)(*args)
    if merge := MERGES.get(known.ops):
        pair = list(given.values())
        shapes = {tuple(v.shape) for v in tensors(pair)}
        masked = any(getattr(v, "_keras_mask", None) is not None for v in pair)
        if len(tensors(pair)) == 2 and len(shapes) == 1 and not masked:
            return getattr(layers, merge)(name=operation.name)(pair)
    if known.parameters is _BINARY:  # TensorFlow does not mix 1 with floats
        real = any(v.dtype.startswith(("float", "bfloat")) for v in _of_keras3(call))
        given = {
            k: float(v) if real and type(v) is int else v for k, v in given.items()
        }
    names = {ours: theirs for theirs, ours in known.parameters.items()}
    given = {**config, **given}
    function = functools.reduce(getattr, known.tensorflow.split("."), tf)
    unknown = {k: v for k, v in given.items() if k not in names and v is not None}
    if any(v is not False for v in unknown.values()):
        raise _unknown(f"{operation.name} ({kind} with {unknown})", "Keras 2")
    return function(**{names[k]: v for k, v in given.items() if k in names})


def _of_keras3(call):
    return tensors((call.args, call.kwargs))


def _classes(name):
    return CLASSES.get(name, ("".join(p.title() for p in name.split("_")),))


def _slices(spec):
    """Return what stands between brackets, from the form in which Keras 2 notes it."""

    def one(part):
        if isinstance(part, dict):
            return slice(part.get("start"), part.get("stop"), part.get("step"))
        return part

    if isinstance(spec, (list, tuple)):
        return tuple(map(one, spec))
    return one(spec)


def _unknown(what, keras_version):
    return ValueError(
        f"An operation between layers must be known in {keras_version}. Received: "
        f"{what}. Put it into a layer, for which you can pass `custom_objects`."
    )
