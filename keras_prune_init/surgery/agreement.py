"""Check that a copy of a model computes what the model does, by running both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.distribute import workers
from keras_prune_init.graph.inputs import ones_input
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.patching import listener, patched
from keras_prune_init.layers.walk import walk

# Beyond so many weights the masked kernels, all of which the comparison holds at once,
# may be more than there is memory for.
MOST_WEIGHTS = 2**28
# Of the largest output: copies compute the same, up to the order of sums.
TOLERANCE = {"float64": 1e-8, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


def check_copy(
    model: keras.Model,
    copy: keras.Model,
    inputs=None,
    kernels: Iterable[Kernel] = (),
    masks: Mapping[str, np.ndarray] | None = None,
    state: Iterable[tuple[keras.Variable, Any]] = (),
    values: Iterable[tuple[keras.Variable, np.ndarray]] = (),
) -> None:
    """Run a model and its copy in inference, and compare the outputs.

    Inputs are one sample of ones by default. If the copy lacks weights, `masks` says by
    path which weights of `kernels` it still has. If it was made with other values of
    some of the model's variables, these are `values`. `state` are pairs of a variable
    of the copy and the value that it must have to compute the same. A copy is refused
    if outputs differ (the message names the first layer where they do), or if it uses
    variables of the model. Nothing is compared in three cases: the model does not run
    on these inputs, it draws random numbers in inference, or several processes hold it.
    """
    kernels = list(kernels)
    size = sum(math.prod(k.shape) for k in kernels)
    if size > MOST_WEIGHTS or workers.several(model.distribute_strategy):
        return
    mapping = [(k.variable, _masked(k, masks)) for k in kernels]
    mapping += [(v, tf.cast(value, v.dtype)) for v, value in values]
    least = _coarsest(model) if values else 0.0
    try:
        inputs = ones_input(model) if inputs is None else inputs
        expected = _run(model, inputs, keras.StatelessScope(mapping))
    except Exception:  # users' own models may want anything
        return
    state = list(state)
    scope = _Watching(model.variables, state)
    try:
        outputs = _run(copy, inputs, scope)
    except Exception as e:
        _refuse(model, f"a copy that does not run: {e}")
    if scope.seen:
        _refuse(model, f"a copy that uses the model's own {', '.join(scope.seen[:3])}")
    if _equal(expected, outputs, least):
        return
    again = _run(model, inputs, keras.StatelessScope(mapping))
    if _equal(expected, again):
        found = _first_difference(model, copy, inputs, mapping, state)
        _refuse(model, found)


class _Watching(keras.StatelessScope):
    """A scope that notes which of some variables are read."""

    def __init__(self, variables, state):
        super().__init__(state)
        self.paths = {id(v): v.path for v in variables}
        self.seen = []

    def get_current_value(self, variable):
        if id(variable) in self.paths:
            self.seen.append(self.paths[id(variable)])
        return super().get_current_value(variable)


def _masked(kernel, masks):
    value = tf.convert_to_tensor(kernel.variable.value)
    return tf.where(masks[kernel.path], value, tf.zeros([], value.dtype))


def _run(model, inputs, scope):
    with scope:
        return model(inputs, training=False)


def _coarsest(model):
    """Return the largest tolerance of all dtypes that layers compute in."""
    dtypes = (layer.compute_dtype for _, layer in walk(model))
    return max(TOLERANCE.get(dtype, 0.0) for dtype in dtypes)


def _equal(a, b, least=0.0):
    a, b = keras.tree.flatten(a), keras.tree.flatten(b)
    close = (_close(*pair, least) for pair in zip(a, b, strict=False))
    return len(a) == len(b) and all(close)


def _close(a, b, least):
    if not (tf.is_tensor(a) and tf.is_tensor(b)):
        return True
    tolerance = TOLERANCE.get(getattr(a.dtype, "name", ""))
    if isinstance(a, (tf.RaggedTensor, tf.SparseTensor)) or not tolerance:
        a, b = (keras.ops.convert_to_numpy(v) for v in (a, b))
        return np.array_equal(a, b)
    if a.shape != b.shape:
        return False
    a, b = (np.asarray(tf.cast(v, "float64")) for v in (a, b))
    size = np.max(np.abs(a), initial=0, where=np.isfinite(a))
    tolerance = max(tolerance, least)  # if the copy computes in another way
    return np.allclose(a, b, rtol=tolerance, atol=tolerance * size, equal_nan=True)


def _first_difference(model, copy, inputs, mapping, state):
    heard = _outputs(model, inputs, keras.StatelessScope(mapping))
    copied = _outputs(copy, inputs, keras.StatelessScope(state))
    for (address, outputs), (other, made) in zip(heard, copied, strict=False):
        if address != other or not _equal(outputs, made):
            layer = dict(walk(model))[address]
            kind = type(layer).__name__
            return f"other outputs of its copy, first of `{layer.name}` ({kind})"
    return "other outputs of its copy, though all layers compute the same"


def _outputs(model, inputs, scope):
    """Return the outputs of each layer, by address, in the order of the calls."""
    addresses = {id(layer): address for address, layer in walk(model)}
    heard = []

    def hear(layer, args, kwargs, outputs):
        heard.append((addresses[id(layer)], outputs))

    with patched([listener(layer, hear) for _, layer in walk(model)]):
        _run(model, inputs, scope)
    return heard


def _refuse(model, what):
    raise ValueError(
        "A copy of the model must compute what the model does. "
        f"Received: {model.name}, with {what}. A layer that holds state in an unusual "
        "way may be the reason: keep it in variables, layers, lists or dicts. `score` "
        "and `select` work without a copy."
    )
