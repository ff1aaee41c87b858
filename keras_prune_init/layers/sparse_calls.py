"""SparseCall: the `call` of a layer that computes with its kept weights only."""

from __future__ import annotations

import contextlib
import contextvars
import math
import weakref
from collections.abc import Iterable, Mapping

import keras
import tensorflow as tf

from keras_prune_init.layers.kernel_paths import (
    input_axes,
    output_axes,
    owner,
)
from keras_prune_init.layers.sparse_kinds import Kind, kind_of
from keras_prune_init.sparse import estimate
from keras_prune_init.sparse.lookup import Lookup
from keras_prune_init.sparse.products import MatrixProduct

OPEN = 32  # a dimension that the model leaves open
# What the layers under way compute with, by their id: values, positions and scale.
_GIVEN: contextvars.ContextVar[Mapping[int, tuple]] = contextvars.ContextVar("given")


class SparseCall:
    """Stands in for the `call` of a layer that has no kernel."""

    def __init__(self, layer: keras.layers.Layer, name: str, kind: Kind, always: bool):
        self.layer, self.compute = owner(layer, name), kind.compute
        self.operation = kind.operation(layer, name)
        matrix, lookup = MatrixProduct, Lookup
        self.always = isinstance(self.operation, (lookup, matrix) if always else lookup)
        self.positions = kind.positions
        # What a graph called, TensorFlow holds until the process ends.
        weakref.finalize(self, self.operation.forget).atexit = False

    def __call__(self, inputs, *args, **kwargs):
        given = _GIVEN.get({}).get(id(self.layer))
        if given is None:
            return type(self.layer).call(self.layer, inputs, *args, **kwargs)
        if isinstance(inputs, tf.SparseTensor):
            inputs = tf.sparse.to_dense(inputs)
        values, index, scale = given
        compute = self.operation
        if not self.always:
            known = (1, *(size or OPEN for size in inputs.shape[1:]))
            positions = self.positions(self.layer, known)
            if self.expected(positions, values.shape[0]).computes == "compact":
                compute = self.operation.dense
        y = self.compute(self.layer, inputs, lambda x: compute(x, values, index, scale))
        return _finished(self.layer, tf.cast(y, self.layer.compute_dtype))

    def expected(self, positions: int, kept: int) -> estimate.Expected:
        """Return how a kernel with so many kept weights computes, and how long.

        `positions` is how often a sample is multiplied with it.
        """
        sparse, dense = estimate.seconds(self.operation.kernel, positions, kept)
        if self.always or sparse < dense:
            return estimate.Expected("sparse", sparse, dense)
        return estimate.Expected("compact", dense, dense)

    @classmethod
    def put_in(cls, wrapper, name: str) -> SparseCall | None:
        """Let the owner of a kernel in a `CompactLayer` compute sparsely, if it can."""
        kind = kind_of(wrapper.layer, name)
        # Where it is slower, too, except for convolutions.
        always = wrapper.computes == "sparse"
        call = cls(wrapper.layer, name, kind, always) if kind else None
        if call:
            vars(call.layer)["call"] = call
        return call

    @staticmethod
    def take_out(layer: keras.layers.Layer, name: str) -> None:
        """Undo `put_in`."""
        vars(owner(layer, name)).pop("call", None)


def _finished(layer, y):
    """Add the bias, and apply the activation, if the layer has some."""
    bias = getattr(layer, "bias", None)
    if bias is not None:
        if getattr(layer, "data_format", None) == "channels_first":
            bias = keras.ops.reshape(bias, [-1] + [1] * (len(y.shape) - 2))
        if len(bias.shape) == 1:  # its gradient is faster than that of a sum
            y = tf.nn.bias_add(y, bias)
        else:
            y = keras.ops.add(y, bias)
    activation = getattr(layer, "activation", None)
    return y if activation is None else activation(y)


@contextlib.contextmanager
def computing_with(wrapper, names: Iterable[str]):
    """Let layers in a `CompactLayer` compute with what it keeps of these kernels."""
    given = {id(owner(wrapper.layer, name)): _kept(wrapper, name) for name in names}
    token = _GIVEN.set({**_GIVEN.get({}), **given})
    try:
        yield
    finally:
        _GIVEN.reset(token)


def _kept(wrapper, name):
    """Return values, positions, and the factor of each output unit."""
    kept, scale = wrapper.kept[name], wrapper.scales[name]
    # Not as variables: gradients are those at the weights that are there now.
    values, index = (tf.convert_to_tensor(v.value) for v in (kept.values, kept.index))
    factors = tf.reshape(scale.value, [-1])
    units = [kept.dense_shape[axis] for axis in output_axes(wrapper.layer, name)]
    if math.prod(scale.shape) != math.prod(units):
        # A convolution has a factor for each pixel of a filter, too.
        values = values * kept.spread(scale, input_axes(wrapper.layer, name))
        factors = tf.ones([math.prod(units)], values.dtype)
    return values, index, factors
