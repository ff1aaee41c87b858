"""How first and second derivatives go back through the parts of a chain.

Let E be the loss, g its first and h its second derivatives for each number. For a
linear layer z = W x, with sums over patterns and positions,

    h_W = sum h_z x^2  and  h_x = (W^2)' h_z,

which are gradients of the same layer with squared inputs or a squared kernel. For a
function x = f(a) of single numbers,

    h_a = f'(a)^2 h_x + f''(a) g_x.

Layers that return some of their inputs pass h on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.patching import patched
from keras_prune_init.layers.types import MEANS

L = keras.layers

LINEAR = keras.activations.linear
# Layers that treat each number alone, in a way of its own.
BY_NUMBER = (L.BatchNormalization, L.PReLU)


class Linear(NamedTuple):
    """A layer with a kernel, without its activation."""

    layer: keras.layers.Layer
    kernel: Kernel

    def __call__(self, x, kernel=None):
        variable = self.kernel.variable
        with patched([(self.layer, "activation", LINEAR)]):
            if kernel is None:
                return self.layer(x)
            with keras.StatelessScope([(variable, kernel)]):
                return self.layer(x)

    def of_kernel(self, x, kernel, h):
        return _pulled_back(lambda w: self(x * x, w), kernel, h)

    def back(self, x, g, h):
        kernel = tf.convert_to_tensor(self.kernel.variable.value)
        squared = kernel * kernel
        return _pulled_back(self, x, g), _pulled_back(lambda v: self(v, squared), x, h)


class Function(NamedTuple):
    """A function of single numbers."""

    function: Callable
    name: str

    def __call__(self, x):
        return self.function(x)

    def by_number(self):
        """Whether each number is mapped alone, as far as some numbers show."""
        if type(self.function) in BY_NUMBER:
            return True
        z = tf.constant(np.random.default_rng(0).normal(size=(3, 4)), "float32")
        try:
            whole, alone = self.function(z), self.function(tf.reshape(z, (12, 1)))
        except Exception:  # it takes other shapes, so it does more
            return False
        return whole.shape == z.shape and np.allclose(
            whole, tf.reshape(alone, z.shape), atol=1e-6
        )

    def back(self, x, g, h):
        ones = tf.ones_like(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            slope = _pulled_back(self.function, x, ones)
        bend = tape.gradient(slope, x, unconnected_gradients="zero")
        return slope * g, slope * slope * h + bend * g


class Places(NamedTuple):
    """A layer that returns some of its inputs, or means of them."""

    layer: keras.layers.Layer

    def __call__(self, x):
        return self.layer(x)

    def repeats(self):
        """Whether an input may go into several outputs."""
        sizes, steps = (getattr(self.layer, n, ()) for n in ("pool_size", "strides"))
        overlaps = any(a > b for a, b in zip(sizes, steps, strict=True))
        return overlaps or isinstance(self.layer, L.RepeatVector)

    def back(self, x, g, h):
        h = _pulled_back(self.layer, x, h)
        if type(self.layer) in MEANS.values():
            size = getattr(self.layer, "pool_size", None)
            size = math.prod(size) if size else tf.size(x) / tf.size(g)
            h /= tf.cast(size, h.dtype)  # each input has the factor 1/size
        return _pulled_back(self.layer, x, g), h


def at_outputs(loss, outputs):
    """Return the gradient at the outputs, and the diagonal of each sample's Hessian."""
    size = tf.size(outputs) // tf.shape(outputs)[0]
    shape = tf.concat([[1], tf.shape(outputs)[1:]], 0)

    def column(i):
        unit = tf.reshape(tf.one_hot(i, size, dtype=outputs.dtype), shape)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            slopes = _pulled_back(loss, outputs)
        vectors = unit * tf.ones_like(outputs)
        found = tape.gradient(
            slopes, outputs, output_gradients=vectors, unconnected_gradients="zero"
        )
        return tf.reshape(found, (-1, size))[:, i]

    columns = tf.map_fn(column, tf.range(size), fn_output_signature=outputs.dtype)
    h = tf.reshape(tf.transpose(columns), tf.shape(outputs))
    return _pulled_back(loss, outputs), h


def _pulled_back(function, x, cotangent=None):
    """Return the gradient of a function with respect to `x`, for a cotangent."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        made = function(x)
    return tape.gradient(
        made, x, output_gradients=cotangent, unconnected_gradients="zero"
    )
