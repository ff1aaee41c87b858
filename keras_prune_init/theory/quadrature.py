"""Expectations of activations of normal variables, and their fixed points."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Normal variables are summed over midpoints of cells, so that no point lies on the kink
# of a ReLU. Beyond 12 standard deviations they have 1e-33 of their mass.
RANGE = 12.0
CELLS = 200_000  # precise to 3e-5 for an activation whose slope jumps
CELLS_2D = 1_000  # in each direction
# Fixed points of the variance are looked for between these.
LOWEST, HIGHEST = 1e-10, 1e6

Function = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Moments(NamedTuple):
    """Expectations for inputs of variance q, and the derivative of the first by q."""

    square: float
    slope: float
    change: float


def with_slopes(activation: str | Callable) -> Function:
    """Return a function from an array to an activation's values and slopes."""
    function = known_activation(activation)

    def values_and_slopes(x):
        x = tf.constant(x, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.convert_to_tensor(function(x))
        slopes = tape.gradient(y, x)
        return y.numpy(), (tf.zeros_like(x) if slopes is None else slopes).numpy()

    return values_and_slopes


def known_activation(activation: str | Callable) -> Callable:
    """Return the function of a Keras activation, its name, or a function."""
    try:
        function = keras.activations.get(activation)
        x = tf.constant([-1.0, 0.5, 1.0], tf.float64)
        made = function(x)
        if not tf.is_tensor(made):
            raise ValueError("it returns no tensor, so it has no slope")
        values, less = np.asarray(made), np.asarray(function(x[1:]))
        fits = values.dtype.kind == "f" and np.isfinite(values).all()
        # A softmax, say, is no function of single numbers.
        if not (fits and np.allclose(less, values[1:]) and values.shape == (3,)):
            raise ValueError(f"of {x.numpy()} it makes {values}")
        return function
    except Exception as e:  # whatever the function raises, or Keras of a name
        raise ValueError(
            "`activation` must be a Keras activation, its name, or a function of a "
            "tensor that works number by number and returns finite ones. Received: "
            f"activation={activation!r} ({e}). Pass for example 'tanh'."
        ) from e


def moments(function: Function, q: float) -> Moments:
    """Return E[phi(x)^2], E[phi'(x)^2], d E[phi(x)^2] / dq for x with variance q."""
    q = max(q, LOWEST)
    z, weights = _cells(CELLS)
    y, slopes = function(math.sqrt(q) * z)
    change = y * slopes * z / math.sqrt(q)
    # No product of vectors: two BLAS threads would wait for each other in busy loops.
    return Moments(*(float(np.sum(weights * v)) for v in (y**2, slopes**2, change)))


def product(function: Function, q: float, c: float) -> float:
    """Return E[phi(x) phi(y)] for normal x, y with variance `q`, correlation `c`."""
    z, weights = _cells(CELLS_2D)
    x = math.sqrt(q) * z
    first = function(x)[0]
    second = function(c * x[:, None] + math.sqrt(1 - c**2) * x)[0]
    return float((weights * first) @ (second @ weights))


@functools.lru_cache(maxsize=2)  # a fixed point asks for the same a hundred times
def _cells(count):
    """Return values and probabilities of a standard normal variable."""
    z = RANGE * (2 * np.arange(count) + 1 - count) / count
    weights = np.exp(-(z**2) / 2)
    return z, weights / weights.sum()


def smallest_root(excess: Callable[[float], float]) -> float:
    """Return the variance at which `excess` first falls below 0.

    It is 0 if `excess` starts below 0, infinity if it stays above, 1 if it is always 0.
    """
    above = None
    for q in np.geomspace(LOWEST, HIGHEST, 33):
        relative = excess(q) / q
        if relative > 1e-9:
            above = q
        elif relative < -1e-9:
            return 0.0 if above is None else _between(excess, above, q)
    return 1.0 if above is None else math.inf


def _between(excess, low, high):
    """Return a root between two values of different sign, by the Illinois method."""
    a, b, at_a, at_b = float(low), float(high), excess(low), excess(high)
    for _ in range(100):  # a dozen, unless rounding is all that is left
        if abs(b - a) <= 1e-13 * b or at_b == 0:
            break
        middle = (a * at_b - b * at_a) / (at_b - at_a)
        at_middle = excess(middle)
        if at_middle * at_b < 0:
            a, at_a = b, at_b
        else:  # the same side twice: half of the other end's value draws it nearer
            at_a /= 2
        b, at_b = middle, at_middle
    return b
