"""Both derivatives of batch normalization against TensorFlow's own in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_prune_init.scoring.batch_norm import batch_norm, group_norm

EPSILON = 1e-3


def plain(x, gamma, beta, axes):
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=True)
    factor = tf.reshape(gamma, mean.shape) * tf.math.rsqrt(variance + EPSILON)
    return (x - mean) * factor + tf.reshape(beta, mean.shape)


def value_and_derivatives(function, x, direction):
    """y, g = gradient of sum(y^3), and the product of the Hessian and `direction`."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
            total = tf.reduce_sum(y**3)
        gradient = inner.gradient(total, x)
        flow = tf.reduce_sum(gradient * direction)
    return y, gradient, outer.gradient(flow, x)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    "shape, axis, dtype, tolerance",
    [
        ((5, 4, 4, 3), -1, "float32", 2e-6),
        ((5, 4, 4, 3), 3, "float64", 1e-13),
        ((5, 3, 4, 4), 1, "float32", 2e-6),
        ((7, 3), -1, "float64", 1e-13),
        ((1, 1, 1, 3), -1, "float32", 2e-6),
    ],
)
def test_exact(shape, axis, dtype, tolerance, traced):
    rng = np.random.default_rng(0)
    x, direction = (tf.constant(3 + 2 * rng.normal(size=shape)) for _ in range(2))
    channels = shape[axis]
    gamma, beta = (tf.constant(rng.normal(size=channels)) for _ in range(2))
    axes = [i for i in range(len(shape)) if i != axis % len(shape)]
    expected = value_and_derivatives(
        lambda x: plain(x, gamma, beta, axes), x, direction
    )

    def ours(x):
        factors = (tf.cast(v, dtype) for v in (gamma, beta))
        return batch_norm(x, *factors, EPSILON, axis, twice=True)

    def run(x, direction):
        return value_and_derivatives(ours, x, direction)

    run = tf.function(run) if traced else run
    got = run(tf.cast(x, dtype), tf.cast(direction, dtype))
    for g, e in zip(got, expected, strict=True):
        scale = max(np.abs(e).max(), 1e-3)
        np.testing.assert_allclose(g / scale, e / scale, atol=tolerance, rtol=0)
    once = batch_norm(
        tf.cast(x, dtype), *(tf.cast(v, dtype) for v in (gamma, beta)), EPSILON, axis
    )
    np.testing.assert_array_equal(once, got[0])


@pytest.mark.parametrize("axis", [-1, 3, 1, 2])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("float64", 1e-13)])
def test_group_normalization_is_exact(axis, dtype, tolerance):
    rng = np.random.default_rng(0)
    shape = (3, 4, 6, 8) if axis in (-1, 3) else (3, 8, 8, 4)
    layer = keras.layers.GroupNormalization(2, axis, EPSILON, dtype="float64")
    layer.build(shape)
    for variable in layer.variables:
        variable.assign(rng.normal(size=variable.shape))
    x, direction = (tf.constant(3 + 2 * rng.normal(size=shape)) for _ in range(2))

    def ours(x):
        factors = (tf.cast(v.value, dtype) for v in (layer.gamma, layer.beta))
        return group_norm(x, *factors, EPSILON, 2, axis, twice=True)

    def slow(x):
        """In the definition's words: groups of neighbouring channels."""
        moved = tf.experimental.numpy.moveaxis(x, axis, 1)
        parts = []
        for part in tf.split(moved, 2, axis=1):
            mean = tf.reduce_mean(part, [1, 2, 3], keepdims=True)
            variance = tf.reduce_mean((part - mean) ** 2, [1, 2, 3], keepdims=True)
            parts.append((part - mean) / tf.sqrt(variance + EPSILON))
        z = tf.experimental.numpy.moveaxis(tf.concat(parts, 1), 1, axis)
        factors = [-1 if i == axis % 4 else 1 for i in range(4)]
        gamma, beta = (tf.reshape(v, factors) for v in (layer.gamma, layer.beta))
        return gamma * z + beta

    expected = value_and_derivatives(slow, x, direction)
    np.testing.assert_allclose(layer(x), expected[0], atol=1e-12)
    got = value_and_derivatives(ours, *(tf.cast(v, dtype) for v in (x, direction)))
    for g, e in zip(got, expected, strict=True):
        scale = np.abs(e).max()
        np.testing.assert_allclose(g / scale, e / scale, atol=tolerance, rtol=0)
