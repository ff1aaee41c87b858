"""What the tests of `shrink` share."""

import keras
import numpy as np
import pytest


@pytest.fixture
def float64():
    """So that equal means equal, whatever the order of a sum."""
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


def data(model, count=16):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, *model.input_shape[1:]))
    return x, rng.integers(0, 5, count)


def assert_same(one, other, x, training=False):
    a, b = (np.asarray(m(x, training=training)) for m in (one, other))
    scale = max(np.abs(a).max(), 1e-30)
    np.testing.assert_allclose(b / scale, a / scale, atol=1e-8)


def randomized(model, seed=0):
    """Biases and statistics as after training."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        if "mask" not in v.path and "scale" not in v.path and "kernel" not in v.path:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
    return model
