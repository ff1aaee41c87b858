"""Batch and group normalization, with their second derivatives in closed form.

Let z = (x - mean) r and r = 1 / sqrt(variance + epsilon), with means over all axes but
that of the channels (or, in each sample, over groups of channels). The derivative of
y = gamma z + beta is the self-adjoint linear map

    G(u) = gamma r (u - mean(u) - z mean(u z)).

For a cotangent v of G(u), the derivative with respect to u is G(v) again, and the one
with respect to x is

    -r (mean(u z) G(v) + mean(v z) G(u) + z mean(v G(u))).

TensorFlow computes the same in some forty passes over the data. Keras takes variances
from `tf.nn.moments`, which stops a gradient: first derivatives are right, but second
ones are wrong by per cents.
"""

from __future__ import annotations

import tensorflow as tf


def batch_norm(x, gamma, beta, epsilon, axis, twice=False):
    """Normalize by batch statistics; the axis is that of the channels.

    `gamma` and `beta` are vectors of the dtype of `x`. `twice` says whether the second
    derivative, with respect to `x` only, will be used. If not, TensorFlow's first
    derivative is used, which takes less memory.
    """
    rank = x.shape.rank
    # One operation where TensorFlow has it.
    fused = x.dtype == tf.float32 and rank == 4 and axis in (-1, 3)
    forward = _fused if fused else _composed
    axes = [i for i in range(rank) if i != axis % rank]
    if not twice:
        return forward(x, gamma, beta, epsilon, axes)[0]

    @tf.custom_gradient
    def normalize(x):
        y, gradient_map, statistics = forward(x, gamma, beta, epsilon, axes)

        @tf.custom_gradient
        def gradient(x, u):
            du, along_u = gradient_map(u)

            def second(v):
                dv, along_v = gradient_map(v)
                mean, r = statistics()
                across = r * tf.reduce_mean(v * du, axes, keepdims=True)
                sum_ = along_u * dv + along_v * du + (x - mean) * across
                return -r * sum_, dv

            return du, second

        return y, lambda u: gradient(x, u)

    return normalize(x)


def group_norm(x, gamma, beta, epsilon, groups, axis, twice=False):
    """Normalize the groups of channels in each sample, each as by `batch_norm`."""
    axis %= x.shape.rank
    order = [0, axis, *(i for i in range(1, x.shape.rank) if i != axis)]
    first = tf.transpose(x, order)
    rows = tf.reshape(first, (tf.shape(x)[0] * groups, -1))
    one = tf.ones(tf.shape(rows)[0], x.dtype)
    rows = batch_norm(rows, one, tf.zeros_like(one), epsilon, 0, twice)
    inverse = [order.index(i) for i in range(len(order))]
    z = tf.transpose(tf.reshape(rows, tf.shape(first)), inverse)
    shape = [-1 if i == axis else 1 for i in range(len(order))]
    return tf.reshape(gamma, shape) * z + tf.reshape(beta, shape)


def _composed(x, gamma, beta, epsilon, axes):
    def mean(v):
        return tf.reduce_mean(v, axes, keepdims=True)

    center = mean(x)
    r = tf.math.rsqrt(mean(tf.square(x - center)) + epsilon)
    z = (x - center) * r
    gamma, beta = (tf.reshape(v, tf.shape(r)) for v in (gamma, beta))

    def gradient_map(u):
        along = mean(u * z)
        return gamma * r * (u - mean(u) - z * along), along

    return gamma * z + beta, gradient_map, lambda: (center, r)


def _fused(x, gamma, beta, epsilon, _axes):
    constants = {"scale": gamma, "epsilon": epsilon, "is_training": True}
    y, mean, variance, *saved = tf.raw_ops.FusedBatchNormV3(
        x=x, offset=beta, mean=tf.zeros([0]), variance=tf.zeros([0]), **constants
    )
    count = tf.cast(tf.size(x) // x.shape[-1], x.dtype)
    saved = {f"reserve_space_{i + 1}": v for i, v in enumerate(saved)}

    def gradient_map(u):
        du, sum_, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=u, x=x, **saved, **constants
        )
        return du, sum_ / count

    def statistics():
        # The operation gives the variance of a population, for running averages.
        sample = variance * tf.maximum(count - 1, 1) / count
        return mean, tf.math.rsqrt(sample + epsilon)

    return y, gradient_map, statistics
