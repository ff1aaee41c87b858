"""New weights for built models, by what each layer reads."""

import keras
import numpy as np
import pytest
from helpers import L, batch, masked_list, mlp

import keras_prune_init as kpi
from keras_prune_init import initializers


def deviation(kernel, fan_in):
    return np.std(kernel) * np.sqrt(fan_in)


def test_layers_get_the_edge_of_the_activation_that_they_read():
    x = inputs = keras.Input((300,))
    x = L.Dense(300, name="reads_inputs")(x)
    x = L.BatchNormalization()(x)
    x = L.ReLU()(x)
    x = L.Dropout(0.5)(x)
    x = L.Dense(300, "tanh", name="reads_relu")(x)
    x = L.Dense(200, name="reads_tanh")(x)
    model = keras.Model(inputs, L.Dense(400, name="reads_linear")(x))
    before = [np.array(v) for v in model.layers[2].weights]
    initializers.reinitialize(model)
    reads = ("inputs", "relu", "tanh", "linear")
    layers = [model.get_layer(f"reads_{name}") for name in reads]
    widths = [deviation(v.kernel, v.kernel.shape[0]) for v in layers]
    np.testing.assert_allclose(widths, [2**0.5, 2**0.5, 1.3041, 1], rtol=2e-2)
    biases = [np.std(v.bias) for v in layers]
    np.testing.assert_allclose(biases, [0, 0, 0.2, 0], atol=0.03)
    for old, new in zip(before, model.layers[2].weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_first_layers_read_their_own_activation():
    model = mlp((400,), inputs=300, use_bias=False)
    initializers.reinitialize(model)
    assert deviation(model.layers[0].kernel, 300) == pytest.approx(2**0.5, rel=2e-2)


def test_sigma_b_can_be_chosen():
    model = keras.Sequential([keras.Input((50,)), L.Dense(2000, "tanh"), L.Dense(9)])
    initializers.reinitialize(model, sigma_b=0.5)
    assert np.std(model.layers[0].bias) == pytest.approx(0.5, rel=5e-2)
    assert deviation(model.layers[0].kernel, 50) == pytest.approx(1.5497, rel=2e-2)


LAYERS = {
    "depthwise": (L.DepthwiseConv2D(3, depth_multiplier=50), "kernel", 9),
    "transposed": (L.Conv2DTranspose(100, 3), "kernel", 9 * 8),
    "grouped": (L.Conv2D(100, 3, groups=4), "kernel", 9 * 2),
    "separable, first": (
        L.SeparableConv2D(9, 3, depth_multiplier=50),
        "depthwise_kernel",
        9,
    ),
    "einsum": (L.EinsumDense("abcd,de->abce", (5, 5, 500)), "kernel", 8),
    "einsum of groups": (L.EinsumDense("abcd,cde->abce", (5, 5, 500)), "kernel", 8),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_gets_its_own_fan_in(name):
    layer, kernel, fan_in = LAYERS[name]
    model = keras.Sequential([keras.Input((5, 5, 8)), layer])
    initializers.reinitialize(model, initializers.ScaledNormal(3.0))
    value = getattr(layer, kernel)
    assert deviation(value, fan_in) == pytest.approx(3, rel=0.05)


def test_pointwise_kernels_of_separable_layers_read_no_activation():
    layer = L.SeparableConv2D(300, 3, depth_multiplier=10, activation="tanh")
    initializers.reinitialize(keras.Sequential([keras.Input((5, 5, 30)), layer]))
    assert deviation(layer.depthwise_kernel, 9) == pytest.approx(1.3041, rel=5e-2)
    assert deviation(layer.pointwise_kernel, 300) == pytest.approx(1, rel=2e-2)
    assert np.std(layer.bias) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize(
    "layer",
    [
        L.DepthwiseConv2D(3, padding="same"),
        L.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        L.SeparableConv2D(9, 3, padding="same"),
        L.Conv2D(8, 3, padding="same", groups=2),
        L.Conv2DTranspose(9, 3, padding="same"),
        L.EinsumDense("abcd,def->abcef", (5, 5, 3, 4)),
        L.EinsumDense("abcd,cde->abce", (5, 5, 9)),
    ],
    ids=lambda v: v.name,
)
def test_orthogonal_layers_of_all_kinds_preserve_norms(layer):
    model = keras.Sequential([keras.Input((5, 5, 8)), layer])
    initializers.reinitialize(model, "orthogonal")
    x, _ = batch(model, 3)
    norms = [np.linalg.norm(np.reshape(v, (3, -1)), axis=1) for v in (x, model(x))]
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_the_seed_and_the_path_decide():
    model = mlp((6, 6), inputs=6)

    def kernels(seed):
        initializers.reinitialize(model, "he_normal", seed=seed)
        return [np.array(layer.kernel) for layer in model.layers]

    first, again, other = kernels(1), kernels(1), kernels(2)
    np.testing.assert_equal(first, again)
    assert np.all(first[0] != other[0]) and np.all(first[0] != first[1])


def test_other_initializers_leave_biases_to_their_layers():
    model = mlp(bias_initializer="ones")
    for variable in model.trainable_variables:
        variable.assign(variable.value + 5)
    initializers.reinitialize(model, keras.initializers.Constant(2.0))
    for layer in model.layers:
        np.testing.assert_array_equal(layer.kernel, np.full(layer.kernel.shape, 2))
        np.testing.assert_array_equal(layer.bias, np.ones(layer.bias.shape))


def test_removed_weights_stay_removed_and_scales_are_reset():
    pruned = kpi.prune_at_init(mlp(), method="magnitude", sparsity=0.5)
    layers = masked_list(pruned)
    layers[0].scale.assign(layers[0].scale.value * 3)
    masks = [np.array(v.mask) for v in layers]
    initializers.reinitialize(pruned)
    for layer, mask in zip(layers, masks, strict=True):
        np.testing.assert_array_equal(layer.mask, mask)
        np.testing.assert_array_equal(np.asarray(layer.layer.kernel) != 0, mask != 0)
        np.testing.assert_array_equal(layer.scale, np.ones(layer.scale.shape))


def unknown_activation():
    inputs = keras.Input((4,))
    x = L.PReLU()(L.Dense(4, "relu")(inputs))
    return keras.Model(inputs, L.Dense(3, name="after_prelu")(x))


@pytest.mark.parametrize(
    "model, options, message",
    [
        (unknown_activation(), {}, "after_prelu/kernel. Name it: pass"),
        (mlp(), {"sigma_b": 0.1}, "Received: activation=relu, sigma_b=0.1"),
        (mlp(), {"initializer": "zeros", "sigma_b": 0.1}, "goes with initializer=.eoc"),
        (mlp(), {"initializer": "no such"}, "no such"),
        (keras.Sequential([L.Dense(3)]), {}, "must be built"),
        (keras.Sequential([keras.Input((3,)), L.ReLU()]), {}, "must be built and have"),
        (
            keras.Sequential([keras.Input((3,)), L.Dense(3, "softmax")]),
            {},
            "kernel. Name it",
        ),
    ],
)
def test_a_refused_model_is_left_as_it_was(model, options, message):
    before = [np.array(v) for v in model.variables]
    with pytest.raises(ValueError, match=message):
        initializers.reinitialize(model, **options)
    np.testing.assert_equal(before, [np.array(v) for v in model.variables])


def test_an_initializer_that_fails_midway_leaves_the_model_as_it_was():
    def fails_on_the_second_layer(shape, dtype):
        if tuple(shape) == (8, 6):
            raise RuntimeError("midway")
        return keras.ops.zeros(shape, dtype)

    model = mlp()
    before = [np.array(v) for v in model.variables]
    with pytest.raises(ValueError, match="raised RuntimeError: midway"):
        initializers.reinitialize(model, fails_on_the_second_layer)
    np.testing.assert_equal(before, [np.array(v) for v in model.variables])


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="Received: builtins.int"):
        initializers.reinitialize(3)
