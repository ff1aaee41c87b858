"""Initializers: the variances that they promise, and their config."""

import keras
import numpy as np
import pytest
from helpers import L

import keras_prune_init as kpi

initializers = kpi.initializers


@pytest.mark.parametrize("shape, fan_in", [((400, 300), 400), ((3, 3, 50, 60), 450)])
def test_kernels_have_the_variance_of_the_edge(shape, fan_in):
    values = np.asarray(initializers.EdgeOfChaos("tanh", 0.2, seed=1)(shape))
    assert np.std(values) * np.sqrt(fan_in) == pytest.approx(1.3041, rel=2e-2)
    assert abs(np.mean(values)) < 0.02 * np.std(values)


def test_biases_have_the_given_deviation():
    values = np.asarray(initializers.EdgeOfChaos("tanh", 0.2, seed=1)((20_000,)))
    assert np.std(values) == pytest.approx(0.2, rel=3e-2)
    zeros = initializers.EdgeOfChaos("relu")((10,))
    np.testing.assert_array_equal(zeros, 0)


def test_the_seed_decides():
    a, b, c = (
        np.asarray(initializers.EdgeOfChaos("elu", 0.2, seed=s)((4, 5)))
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


def test_a_model_with_it_saves_and_loads(tmp_path):
    start = initializers.EdgeOfChaos("tanh", 0.2, seed=3)
    layer = L.Dense(4, "tanh", kernel_initializer=start, bias_initializer=start)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[0]
    for initializer in (loaded.kernel_initializer, loaded.bias_initializer):
        assert isinstance(initializer, initializers.EdgeOfChaos)
        assert initializer.get_config() == start.get_config()


def test_a_deep_tanh_network_keeps_its_variance():
    start = initializers.EdgeOfChaos("tanh", 0.2)
    y = np.random.default_rng(0).normal(size=(20, 200)).astype("float32")
    for _ in range(50):
        layer = L.Dense(200, kernel_initializer=start, bias_initializer=start)
        y = layer(keras.ops.tanh(y))
    assert np.mean(np.square(y)) == pytest.approx(0.5121, rel=0.25)


def test_an_activation_without_an_edge_is_refused():
    with pytest.raises(ValueError, match="Received: activation=relu, sigma_b=0.1"):
        initializers.EdgeOfChaos("relu", 0.1)
