"""Initializers: the variances and the norms that they promise, and their config."""

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


@pytest.mark.parametrize("bad", [(0, 0), (-1, 0), (np.inf, 0), (1, -0.1), (1, np.nan)])
def test_deviations_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="sigma_w=.*, sigma_b="):
        initializers.ScaledNormal(*bad)


def test_scaled_normal_takes_any_deviation():
    start = initializers.ScaledNormal(3.0, 0.5, seed=1)
    assert np.std(start((100, 300))) * 10 == pytest.approx(3, rel=2e-2)
    assert np.std(start((20_000,))) == pytest.approx(0.5, rel=2e-2)


def test_einsum_dense_gets_the_fan_in_of_its_equation():
    start = initializers.ScaledNormal(2.0, seed=1)
    layer = L.EinsumDense("abc,bcd->ad", 500, kernel_initializer=start)
    layer.build((None, 4, 25))
    assert np.std(layer.kernel) * 10 == pytest.approx(2, rel=2e-2)


@pytest.mark.parametrize(
    "initializer",
    [
        initializers.ScaledNormal(1.5, 0.1, seed=3),
        initializers.EdgeOfChaos("tanh", 0.2, seed=3),
        initializers.Orthogonal(2.0, seed=3),
    ],
    ids=lambda v: type(v).__name__,
)
def test_config_gives_the_same_initializer(initializer):
    config = keras.saving.serialize_keras_object(initializer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(initializer)
    assert again.get_config() == initializer.get_config()
    np.testing.assert_array_equal(again((3, 4)), initializer((3, 4)))


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_orthogonal_matrices_have_orthonormal_columns_or_rows(shape):
    matrix = np.asarray(initializers.Orthogonal(2.0, seed=1)(shape)) / 2
    product = matrix.T @ matrix if shape[0] >= shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_orthogonal_kernels_have_the_dtype_asked_for(dtype):
    kernel = initializers.Orthogonal(seed=1)((3, 4, 4), dtype)
    assert keras.backend.standardize_dtype(kernel.dtype) == dtype


@pytest.mark.parametrize("size", [(3,), (2, 3), (1, 3, 4)])
@pytest.mark.parametrize("channels", [(3, 7), (7, 3)])
def test_convolutions_are_orthogonal_at_the_center_and_zero_elsewhere(size, channels):
    kernel = np.array(initializers.Orthogonal(seed=1)((*size, *channels)))
    center = tuple((n - 1) // 2 for n in size)
    matrix = kernel[center].copy()
    kernel[center] = 0
    assert not kernel.any()
    product = matrix @ matrix.T if channels[0] < channels[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_convolutions_preserve_the_norm_of_every_image(size):
    layer = L.Conv2D(
        6, size, padding="same", kernel_initializer=initializers.Orthogonal(seed=1)
    )
    images = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype("float32")
    norms = [
        np.linalg.norm(np.reshape(v, (2, -1)), axis=1) for v in (images, layer(images))
    ]
    np.testing.assert_allclose(*norms, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (1, 1, 1, 1, 2, 2)])
def test_orthogonal_tensors_of_other_ranks_are_refused(shape):
    with pytest.raises(ValueError, match=r"Received: shape=\("):
        initializers.Orthogonal()(shape)
