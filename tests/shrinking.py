"""What the tests of `shrink` and of pruned channels share."""

import keras
import numpy as np
import pytest
from helpers import L

import keras_prune_init as kpi


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


def densenet():
    inputs = keras.Input((16, 16, 3))
    x = L.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    for _ in range(2):
        for _ in range(2):
            y = L.ReLU()(L.BatchNormalization()(x))
            y = L.Conv2D(6, 3, padding="same", use_bias=False)(y)
            x = L.Concatenate()([x, y])
        x = L.Conv2D(8, 1)(L.ReLU()(L.BatchNormalization()(x)))
        x = L.AveragePooling2D(2)(x)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(5)(x))


def inverted():
    """With the blocks of MobileNetV2."""
    inputs = keras.Input((16, 16, 3))
    x = L.ReLU(6)(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(inputs)))
    for filters, strides in ((8, 1), (12, 2)):
        y = L.Conv2D(24, 1, use_bias=False)(x)
        y = L.ReLU(6)(L.BatchNormalization()(y))
        y = L.ZeroPadding2D(1)(y)
        y = L.DepthwiseConv2D(3, strides=strides, use_bias=False)(y)
        y = L.ReLU(6)(L.BatchNormalization()(y))
        y = L.BatchNormalization()(L.Conv2D(filters, 1, use_bias=False)(y))
        x = L.Add()([x, y]) if strides == 1 else y
    return keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D()(x)))


def squeezed():
    """With gates of channels, as in EfficientNet."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, activation="relu")(inputs)
    y = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x))
    y = L.Conv2D(8, 1, activation="sigmoid")(L.Conv2D(4, 1, activation="relu")(y))
    x = L.GlobalMaxPooling2D()(L.Conv2D(8, 3)(L.Multiply()([x, y])))
    return keras.Model(inputs, L.Dense(5)(x))


NETWORKS = {
    "resnet": lambda: kpi.models.resnet((16, 16, 3), 5, depth=8, width=8),
    "vgg": lambda: kpi.models.vgg((16, 16, 3), 5, depth=11, width=8),
    "cnn": lambda: kpi.models.cnn((16, 16, 3), 5, depth=3, width=8),
    "densenet": densenet,
    "inverted": inverted,
    "squeezed": squeezed,
}


def multiply_adds(model):
    """From the shapes of layers only."""
    total = 0
    for layer in model.layers:
        kernel = getattr(getattr(layer, "layer", layer), "kernel", None)
        if kernel is not None:
            pixels = layer.output.shape[1:-1]
            total += int(np.prod(kernel.shape)) * int(np.prod(pixels))
            assert getattr(layer, "depth_multiplier", 1) == 1
    return total
