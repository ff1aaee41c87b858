"""The architectures: sizes known from the literature, names, and refusals."""

import importlib

import keras
import numpy as np
import pytest

from keras_prune_init import models
from keras_prune_init.models.common import conv


@pytest.fixture
def few_blocks(monkeypatch):
    """MobileNets without most blocks, which are like the first ones."""
    module = importlib.import_module("keras_prune_init.models.mobilenet")
    for version in ("V1", "V2"):
        monkeypatch.setattr(module, version, getattr(module, version)[:2])


def weights_layers(model):
    """Layers with a kernel that lie on the main path."""
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    return [
        layer
        for layer in model.layers
        if isinstance(layer, kinds) and "shortcut" not in layer.name
    ]


@pytest.mark.parametrize("depth", [8, 26])
def test_resnet_has_depth_layers_and_3n_blocks(depth):
    model = models.resnet((32, 32, 3), depth=depth, width=1)
    assert len(weights_layers(model)) == depth
    additions = [x for x in model.layers if isinstance(x, keras.layers.Add)]
    assert len(additions) == (depth - 2) // 2


def test_resnet_20_has_the_parameters_counted_by_hand():
    stem_and_stages = 432 + 6 * 2304 + (4608 + 5 * 9216) + (18432 + 5 * 36864)
    shortcuts, classifier = 512 + 2048, 640 + 10
    # Four numbers per filter: 1 + 6 layers of 16, 6 + 1 of 32, 6 + 1 of 64.
    normalization = 4 * (7 * 16 + 7 * 32 + 7 * 64)
    model = models.resnet((32, 32, 3), classes=10, depth=20, width=16)
    assert (
        model.count_params() == stem_and_stages + shortcuts + classifier + normalization
    )


@pytest.mark.parametrize(
    ("depth", "batch_norm"),
    [(11, True), (13, False), (16, True), (19, False), (34, False)],
)
def test_vgg_has_depth_minus_3_convolutions(depth, batch_norm):
    model = models.vgg(depth=depth, width=2, batch_norm=batch_norm)
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert len(convolutions) == depth - 3
    assert all(x.use_bias is not batch_norm for x in convolutions)
    normalized = any(
        isinstance(x, keras.layers.BatchNormalization) for x in model.layers
    )
    assert normalized is batch_norm


def test_vgg_16_convolutions_have_the_published_size():
    model = models.vgg(depth=16)
    kernels = sum(
        x.kernel.shape.num_elements()
        for x in model.layers
        if isinstance(x, keras.layers.Conv2D)
    )
    assert kernels == 14_710_464


@pytest.mark.parametrize(
    ("depth", "widening", "millions"), [(16, 8, 11.0), (16, 2, 0.7)]
)
def test_wide_resnet_has_the_published_number_of_weights(depth, widening, millions):
    model = models.wide_resnet(depth=depth, widening=widening)
    trainable = sum(v.shape.num_elements() for v in model.trainable_weights)
    assert round(trainable / 1e6, 1) == millions


def test_wide_resnet_10_1_has_the_parameters_counted_by_hand():
    stem, classifier = 432, 640 + 10
    stages = 2 * 2304 + (4608 + 9216) + (18432 + 36864)
    shortcuts = 512 + 2048
    # Two of a stage, of its inputs and of its middle, and one at the end.
    normalization = 4 * ((16 + 16) + (16 + 32) + (32 + 64) + 64)
    model = models.wide_resnet(depth=10, widening=1)
    assert (
        model.count_params() == stem + classifier + stages + shortcuts + normalization
    )


def test_wide_resnet_drops_values_between_convolutions():
    rates = {}
    for dropout in (0.0, 0.3):
        layers = models.wide_resnet(depth=10, widening=1, dropout=dropout).layers
        rates[dropout] = [x.rate for x in layers if isinstance(x, keras.layers.Dropout)]
    assert rates == {0.0: [], 0.3: [0.3] * 3}


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (models.mlp, {"depth": 3, "width": 8}),
        (models.cnn, {"depth": 3, "width": 4}),
        (models.vgg, {"depth": 11, "width": 2}),
        (models.resnet, {"depth": 8, "width": 2}),
        (models.vcnn, {"depth": 4, "width": 4}),
        (models.wide_resnet, {"depth": 10, "widening": 1}),
        (models.mobilenet, {"alpha": 0.25}),
        (models.mobilenet, {"alpha": 0.25, "version": 2}),
    ],
)
def test_outputs_are_logits_for_both_image_sizes(build, arguments, few_blocks):
    gray, color = (build(shape, 7, **arguments) for shape in ((28, 28, 1), (32, 32, 3)))
    assert gray.output_shape == (None, 7)
    model, shape = color, (32, 32, 3)
    assert model.input_shape == (None, *shape)
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    logits = model(images).numpy()
    assert logits.shape == (3, 7)
    assert logits.min() < 0, "a softmax was left in"
    again = keras.Model.from_config(model.get_config())
    assert again.count_params() == model.count_params()


# Of MobileNet and MobileNetV2 in keras.applications, with these arguments.
@pytest.mark.parametrize(("version", "published"), [(1, 834_666), (2, 719_034)])
def test_mobilenets_have_the_parameters_of_the_published_ones(version, published):
    model = models.mobilenet((96, 96, 3), 10, version=version, alpha=0.5)
    assert model.count_params() == published
    assert model.get_layer("pool").input.shape[1:3] == (3, 3)


@pytest.mark.parametrize(("pixels", "last"), [(16, 4), (48, 3)])
def test_mobilenets_keep_at_least_3x3_pixels(pixels, last):
    model = models.mobilenet((pixels, pixels, 3), alpha=0.25)
    assert model.get_layer("pool").input.shape[1:3] == (last, last)


def test_layer_names_tell_the_place_in_the_net():
    names = [x.name for x in models.resnet(depth=14, width=2).layers]
    assert {"stem_conv", "stage1_block0_conv1", "stage3_block1_conv2"} <= set(names)
    assert {"stage2_block0_shortcut", "stage2_block0_shortcut_bn"} <= set(names)
    # Only the first blocks of stages 2 and 3 change the shape.
    assert sum(name.endswith("_shortcut") for name in names) == 2
    assert names[-1] == "logits"


def test_strided_convolution_pads_all_sides_as_pytorch_does():
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(
        inputs, conv(inputs, 1, "c", stride=2, batch_norm=False), name="one"
    )
    kernel = np.arange(9.0, dtype="float32").reshape(3, 3, 1, 1)
    model.get_layer("c").set_weights([kernel, np.zeros(1, "float32")])
    # Windows of a 4x4 image of ones padded by one pixel: those above lack their first
    # row (0 + 1 + 2), those on the left their first column (0 + 3 + 6).
    out = model(np.ones((1, 4, 4, 1), "float32")).numpy()[0, ..., 0]
    np.testing.assert_array_equal(out, [[36 - 12, 36 - 3], [36 - 9, 36]])


def test_strided_1x1_convolution_takes_every_second_pixel():
    inputs = keras.Input((5, 4, 1))
    output = conv(inputs, 1, "c", size=1, stride=2, batch_norm=False)
    model = keras.Model(inputs, output)
    model.get_layer("c").set_weights([np.full((1, 1, 1, 1), 3.0), np.zeros(1)])
    image = np.arange(20.0, dtype="float32").reshape(1, 5, 4, 1)
    np.testing.assert_array_equal(model(image), 3 * image[:, ::2, ::2])


def test_initial_weights_have_the_documented_spread():
    keras.utils.set_random_seed(0)
    kernel = models.resnet(depth=8, width=32).get_layer("stage3_block0_conv2").kernel
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    logits = models.cnn(classes=100, width=64).get_layer("logits")
    assert np.std(logits.kernel) == pytest.approx(0.01, rel=0.02)
    dense = models.mlp((400,), width=500).get_layer("dense1")
    assert np.std(dense.kernel) == pytest.approx(np.sqrt(2 / 400), rel=0.02)


def test_mlp_of_depth_one_is_a_linear_classifier():
    model = models.mlp((5,), 3, depth=1)
    assert [x.name for x in model.layers] == ["input", "logits"]


def test_mlp_uses_the_given_activation():
    model = models.mlp((5,), 3, depth=3, width=4, activation="tanh")
    assert model.get_layer("dense2").activation is keras.activations.tanh
    assert model.get_layer("logits").activation is keras.activations.linear


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (models.resnet, {"depth": 21}, r"6n \+ 2.*Received: depth=21. Use depth=20"),
        (models.resnet, {"depth": 2}, r"6n \+ 2.*Received: depth=2. Use depth=8"),
        (models.resnet, {"width": 0}, "`width` must be.*Received: width=0"),
        (models.resnet, {"input_shape": (2, 2, 3)}, "at least 4x4 pixels"),
        (models.vgg, {"depth": 12}, "11, 13, 16, 19, 34. Received: depth=12. Use"),
        (models.vgg, {"input_shape": (8, 8, 3)}, "at least 16x16.*(8, 8, 3)"),
        (models.vgg, {"classes": 1.5}, "`classes` must be.*Received: classes=1.5"),
        (models.cnn, {"depth": 5}, "at least 32x32.*(28, 28, 1)"),
        (models.cnn, {"input_shape": (28, 28)}, r"Received: input_shape=\(28, 28\)"),
        (models.mlp, {"depth": 0}, "`depth` must be.*Received: depth=0"),
        (models.mlp, {"activation": "rleu"}, "rleu"),
        (models.mobilenet, {"version": 3}, "`version` must be 1 or 2.*version=3"),
        (models.mobilenet, {"alpha": 0}, "`alpha` must be above 0.*alpha=0"),
        (models.mobilenet, {"input_shape": (8, 8, 3)}, "at least 16x16"),
        (models.mobilenet, {"stable": True}, "residual"),
    ],
)
def test_impossible_arguments_are_refused(build, arguments, message, few_blocks):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
