"""The networks of the paper: vanilla CNN, wide ResNet, `init` and `stable`."""

import functools

import keras
import numpy as np
import pytest

import keras_prune_init as kpi
from keras_prune_init import models
from keras_prune_init.layers.types import Trait, has
from keras_prune_init.models.circular import CircularPadding2D
from keras_prune_init.theory.initializers import ScaledNormal

ALL = {
    "mlp": {"depth": 3, "width": 8},
    "cnn": {"depth": 2, "width": 4},
    "vcnn": {"depth": 3, "width": 4, "init": ScaledNormal(1.3, 0.2)},
    "vgg": {"depth": 11, "width": 2},
    "resnet": {"depth": 8, "width": 2},
    "wide_resnet": {"depth": 10, "widening": 1},
}
SHAPE = (16, 16, 3)


def build(name, **arguments):
    return getattr(models, name)(SHAPE, **{**ALL[name], **arguments})


def kernel_layers(model):
    return [x for x in model.layers if hasattr(x, "kernel")]


@pytest.mark.parametrize(
    "padding", [1, 0, (2, 1), 3, ((0, 2), (3, 1)), ((1, 0), (0, 0)), (3, 4)]
)
def test_circular_padding_is_that_of_numpy(padding):
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype("float32")
    layer = CircularPadding2D(padding)
    wanted = np.pad(images, ((0, 0), *layer.padding, (0, 0)), mode="wrap")
    np.testing.assert_array_equal(layer(images), wanted)
    again = CircularPadding2D.from_config(layer.get_config())
    assert again(keras.Input((3, 4, 2))).shape == (None, *wanted.shape[1:])


def test_circular_padding_fits_images_of_unknown_size():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, CircularPadding2D(1)(inputs))
    for size in (2, 5):
        images = np.random.default_rng(0).normal(size=(1, size, size, 1))
        wanted = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        padded = model.predict(images, verbose=0)
        np.testing.assert_array_equal(padded, wanted.astype("float32"))


@pytest.mark.parametrize("padding", [4, (0, 5), -1])
def test_circular_padding_larger_than_the_image_is_refused(padding):
    with pytest.raises(ValueError, match="at most once.*Received: padding=.*smaller"):
        CircularPadding2D(padding)(np.zeros((1, 3, 3, 1), "float32"))


def test_circular_padding_of_channels_first_is_refused():
    with pytest.raises(ValueError, match="Received: data_format='channels_first'"):
        CircularPadding2D(1, data_format="channels_first")


def test_circular_padding_counts_as_homogeneous():
    assert has(CircularPadding2D(1), Trait.HOMOGENEOUS)


@pytest.mark.parametrize("stride", [1, 2])
def test_vcnn_turns_shifted_images_into_the_same_logits(stride):
    model = build("vcnn", depth=4, stride=stride)
    images = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    shifted = np.roll(images, (4, 6), axis=(1, 2))
    np.testing.assert_allclose(model(images), model(shifted), rtol=1e-4, atol=1e-6)


def test_vcnn_of_depth_30_has_the_parameters_counted_by_hand():
    model = models.vcnn((28, 28, 1), depth=30, width=10, stride=2)
    first, others, logits = 9 * 10 + 10, 28 * (9 * 10 * 10 + 10), 10 * 10 + 10
    assert model.count_params() == first + others + logits
    assert len(kernel_layers(model)) == 30
    assert model.get_layer("conv1").output.shape == (None, 14, 14, 10)
    assert model.get_layer("conv29").output.shape == (None, 14, 14, 10)


def test_deep_vcnn_keeps_signals_and_gradients_alive_on_the_edge_of_chaos():
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).normal(size=(4, 12, 12, 1)).astype("float32")
    shares = {}
    for init in (None, "ordered"):
        model = models.vcnn((12, 12, 1), depth=20, width=16, init=init)
        scores = kpi.score(model, (images, np.arange(4)), "snip")
        sums = [float(scores[f"conv{n}/kernel"].sum()) for n in (2, 19)]
        shares[init] = sums[0] / sums[1]
    assert 0.1 < shares[None] < 10
    assert shares["ordered"] < 1e-6


def test_vcnn_survives_saving(tmp_path):
    model = build("vcnn")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    np.testing.assert_array_equal(again(images), model(images))


def test_vgg_34_has_the_authors_stages_and_circular_padding_on_demand():
    model = models.vgg(depth=34, width=2, batch_norm=False, circular=True)
    convolutions = [x for x in kernel_layers(model) if x.name != "logits"]
    assert len(convolutions) == 31
    filters = [x.filters for x in convolutions]
    assert filters == [2] * 5 + [4] * 5 + [8] * 7 + [16] * 14
    pads = [x for x in model.layers if isinstance(x, CircularPadding2D)]
    assert len(pads) == 31


@pytest.mark.parametrize("name", ALL)
def test_every_model_applies_the_given_activation(name):
    model = build(name, activation="tanh")
    found = {getattr(x, "activation", keras.activations.linear) for x in model.layers}
    assert found == {keras.activations.linear, keras.activations.tanh}


def spreads(layers):
    """Deviations of kernels times the root of the fan-in, and of all biases."""
    kernels = [np.std(x.kernel) * np.prod(x.kernel.shape[:-1]) ** 0.5 for x in layers]
    return kernels, np.std(np.concatenate([x.bias for x in layers if x.use_bias]))


@pytest.mark.parametrize("name", ALL)
def test_every_model_starts_on_the_edge_of_chaos_on_demand(name):
    keras.utils.set_random_seed(0)
    model = build(name, activation="tanh", init="eoc")
    kernels, biases = spreads(kernel_layers(model))
    assert kernels == pytest.approx([1.3041] * len(kernels), rel=0.4)
    assert np.mean(kernels) == pytest.approx(1.3041, rel=0.1)
    assert biases == pytest.approx(0.2, rel=0.5)


@pytest.mark.parametrize(
    ("init", "sigma_w", "sigma_b"),
    [
        ("eoc", 2**0.5, 0.0),
        ("ordered", 0.1**0.5, 1.0),
        (ScaledNormal(3.0, 0.5, seed=1), 3.0, 0.5),
        (keras.initializers.VarianceScaling(4.0), 2.0, 0.0),
    ],
)
def test_init_sets_the_spread_of_kernels_and_biases(init, sigma_w, sigma_b):
    keras.utils.set_random_seed(0)
    model = build("cnn", width=64, classes=100, init=init)
    kernels, biases = spreads(kernel_layers(model))
    assert kernels == pytest.approx([sigma_w] * 3, rel=0.05)
    assert biases == pytest.approx(sigma_b, rel=0.15)


def test_orthogonal_init_keeps_norms_between_layers_of_the_same_width():
    model = build("vcnn", depth=4, init="orthogonal", activation="relu")
    kernel = np.asarray(model.get_layer("conv2").kernel)
    center = kernel[1, 1]
    np.testing.assert_allclose(center.T @ center, 2 * np.eye(4), atol=1e-5)
    kernel[1, 1] = 0
    assert not kernel.any()
    assert not np.any(model.get_layer("conv2").bias)


@pytest.mark.parametrize("init", ["eoc", ScaledNormal(1.0, 0.1, seed=3), "orthogonal"])
def test_layers_of_the_same_shape_start_with_different_weights(init):
    kernels = [x.kernel for x in kernel_layers(build("vcnn", depth=6, init=init))[1:-1]]
    products = np.corrcoef([np.ravel(k[1, 1]) for k in kernels])
    assert np.abs(products - np.eye(4)).max() < 0.95


def test_an_integer_seed_decides_the_weights_and_the_global_seed_the_others():
    def weights(init, seed):
        keras.utils.set_random_seed(seed)
        return np.asarray(build("vcnn", init=init).get_layer("conv2").kernel)

    seeded = ScaledNormal(1.0, 0.1, seed=3)
    np.testing.assert_array_equal(weights(seeded, 0), weights(seeded, 1))
    for init in ("eoc", "ordered"):
        np.testing.assert_array_equal(weights(init, 0), weights(init, 0))
        assert (weights(init, 0) != weights(init, 1)).any()


@functools.cache
def plain_weights(name):
    """Of a model without scaling."""
    keras.utils.set_random_seed(0)
    return {v.path: v.numpy() for v in build(name).weights}


UNIFORM = [3**-0.5] * 3
DECREASING = [1 / (k**0.5 * np.log(k + 1)) for k in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "stable", "factors"),
    [
        ("resnet", True, UNIFORM),
        ("wide_resnet", "uniform", UNIFORM),
        ("resnet", "decreasing", DECREASING),
        ("wide_resnet", "decreasing", DECREASING),
    ],
)
def test_stable_scales_the_branch_of_every_block(name, stable, factors):
    plain = plain_weights(name)
    keras.utils.set_random_seed(0)
    model = build(name, stable=stable)
    layers = [x for x in model.layers if isinstance(x, keras.layers.Rescaling)]
    assert [x.scale for x in layers] == pytest.approx(factors)
    assert plain.keys() == {v.path for v in model.weights}
    for weight in model.weights:
        np.testing.assert_array_equal(weight, plain[weight.path])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mlp", {"stable": True}, "no residual additions"),
        ("vgg", {"stable": "decreasing"}, "no residual additions"),
        ("resnet", {"stable": "best"}, "`stable` must be.*Received: stable='best'"),
        ("cnn", {"init": "edge"}, "edge"),
        ("vgg", {"init": 3}, "3"),
        ("vcnn", {"depth": 0}, "`depth` must be.*Received: depth=0"),
        ("vcnn", {"stride": 0}, "`stride` must be.*Received: stride=0"),
        ("vcnn", {"activation": "than"}, "than"),
        ("wide_resnet", {"depth": 20}, r"6n \+ 4.*Received: depth=20. Use depth=22"),
        ("wide_resnet", {"depth": 4}, r"6n \+ 4.*Received: depth=4. Use depth=10"),
        ("wide_resnet", {"widening": 1.5}, "`widening` must be.*widening=1.5"),
        ("wide_resnet", {"dropout": 1.5}, "1.5"),
    ],
)
def test_what_the_networks_cannot_do_is_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)
