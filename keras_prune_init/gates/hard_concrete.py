"""The hard-concrete distribution of gates, in closed form (Louizos et al. 2018).

A gate z is 0 or 1 with a probability above 0, and anything between, so that it can both
be exactly closed and have a gradient:

    u ~ U(0, 1),    s = sigmoid((log u - log(1 - u) + log_alpha) / BETA)
    z = min(1, max(0, s (ZETA - GAMMA) + GAMMA))
    P(z != 0) = sigmoid(log_alpha - BETA log(-GAMMA / ZETA))

In inference a gate is min(1, max(0, sigmoid(log_alpha) (ZETA - GAMMA) + GAMMA)), which
has no temperature.

What we do not take over from the authors' code (AMLab-Amsterdam/L0_regularization):
their `L0Conv2d` adds the penalty of biases with the wrong sign, so it rewards them; and
it leaves biases out in training but not in inference. Here a channel's gate multiplies
its bias in both, and the bias counts as one of the channel's weights. As there, all
samples of a batch have the same gates.
"""

from __future__ import annotations

import math

import keras
import numpy as np

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
# Of log_alpha. Beyond, gradients vanish and gates would never move again.
LOWEST, HIGHEST = math.log(1e-2), math.log(1e2)
# Draws of u stay so far away from 0 and 1, where logarithms are infinite.
MARGIN = 1e-6
# Standard deviation of log_alpha at the start, which tells equal gates apart.
SPREAD = 1e-2

ops = keras.ops


def probability(log_alpha):
    """Return P(z != 0)."""
    return ops.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def in_inference(log_alpha):
    """Return the value of a gate in inference."""
    return _stretched(ops.sigmoid(log_alpha))


def sample(log_alpha, u):
    """Return the value of a gate in training, from a uniform draw."""
    logit = ops.log(u) - ops.log(1 - u) + log_alpha
    return _stretched(ops.sigmoid(logit / BETA))


def _stretched(s):
    return ops.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def start(drop: float, shape, generator: np.random.Generator) -> np.ndarray:
    """Return the first log_alpha of gates that `drop` of all s fall below 1/2 of."""
    drawn = generator.normal(math.log((1 - drop) / drop), SPREAD, shape)
    return np.clip(drawn, LOWEST, HIGHEST)


@keras.saving.register_keras_serializable("keras_prune_init")
class Bounds(keras.constraints.Constraint):
    """Keep log_alpha where gates can still move."""

    def __call__(self, log_alpha):
        return ops.clip(log_alpha, LOWEST, HIGHEST)
