"""What the architectures share: convolutions, the end, `init`, `stable`, checks.

Initial weights follow the code of Hayou et al., unless `init` says otherwise:
convolutions N(0, 2 / fan_out), the last linear layer N(0, 0.01^2), biases 0. Batch
normalization has PyTorch's constants (running average 0.9, epsilon 1e-5), because the
published schedules were tuned with these.
"""

from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_prune_init._arguments import check_choice, check_whole, is_whole
from keras_prune_init.models.circular import CircularPadding2D
from keras_prune_init.theory.initializers import Orthogonal, ScaledNormal, reinitialize
from keras_prune_init.theory.mean_field import Activation, edge_of_chaos
from keras_prune_init.theory.stable import VARIANTS, stabilize

# Larger models could not be made in any sensible time.
MOST_LAYERS, MOST = 10_000, 1_000_000
Init: TypeAlias = str | keras.initializers.Initializer | None


def conv(
    x, filters, name, *, size=3, stride=1, batch_norm=True, bias=None, circular=False
):
    """Add a convolution padded by `size // 2`, and batch normalization if asked for.

    Without a number of filters (`None`) it is depthwise.
    """
    padding = "same"
    if stride > 1 and size == 1:
        # Drop the pixels that the stride would skip, then convolve the rest: the same
        # numbers, and safe. TensorFlow 2.21 (oneDNN) corrupts memory in the gradient of
        # a strided 1x1 kernel when its input channels are no multiple of 16.
        x = layers.AveragePooling2D(1, strides=stride, name=f"{name}_subsample")(x)
        stride = 1
    elif stride > 1 or circular:
        # With a stride, Keras's "same" pads an even image only right and below. Padding
        # all four sides looks at the same pixels as the authors' PyTorch code.
        pad = CircularPadding2D if circular else layers.ZeroPadding2D
        x = pad(size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    options = {
        "strides": stride,
        "padding": padding,
        # Normalization would subtract a bias again.
        "use_bias": not batch_norm if bias is None else bias,
        "name": name,
    }
    start = normal("fan_out")
    if filters is None:
        layer = layers.DepthwiseConv2D(size, depthwise_initializer=start, **options)
    else:
        layer = layers.Conv2D(int(filters), size, kernel_initializer=start, **options)
    x = layer(x)
    return normalization(x, f"{name}_bn") if batch_norm else x


def normal(mode):
    """Return the initializer N(0, 2 / fan), with `"fan_in"` or `"fan_out"`."""
    return keras.initializers.VarianceScaling(2.0, mode, "untruncated_normal")


def normalization(x, name):
    """Add batch normalization with the constants of PyTorch."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def finish(inputs, x, classes, name, activation, init, stable):
    """Average `x` over positions, add a linear layer of logits, and make the model."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    logits = layers.Dense(int(classes), kernel_initializer=initializer, name="logits")
    model = keras.Model(inputs, logits(x), name=name)
    return initialized(model, activation, init, stable)


def initialized(
    model: keras.Model, activation: Activation, init: Init, stable: bool | str
) -> keras.Model:
    """Apply the arguments `init` and `stable` to a new model.

    `init` draws all kernels anew, also the classifier's. `"ordered"` draws weights from
    N(0, 0.1 / fan_in) and biases from N(0, 1). `"orthogonal"` multiplies by sigma_w of
    the edge of chaos without biases, and biases are 0.
    """
    if isinstance(init, str) and init == "ordered":
        init = ScaledNormal(0.1**0.5, 1.0)
    elif isinstance(init, str) and init == "orthogonal":
        init = Orthogonal(edge_of_chaos(activation).sigma_w)
    if init is not None:
        seed: Any = getattr(init, "seed", None)
        if not is_whole(seed, 0):
            seed = int(keras.random.randint((), 0, 2**31 - 1))
        reinitialize(model, init, seed=seed)
    if not stable:
        return model
    return stabilize(model, stable if isinstance(stable, str) else "uniform")


def check_common(activation, stable, **numbers):
    """Raise a ValueError unless numbers are positive integers and the rest is known."""
    for name, value in numbers.items():
        check_whole(name, value, 1, MOST_LAYERS if name == "depth" else MOST)
    try:
        fits = keras.activations.get(activation)(tf.ones((2, 3))).shape == (2, 3)
    except Exception:  # Keras and Python raise several
        fits = False
    if not fits:
        raise ValueError(
            "`activation` must be a Keras activation, its name, or a function of a "
            f"tensor that keeps its shape. Received: activation={activation!r}. Pass "
            "for example 'relu'."
        )
    if not isinstance(stable, (bool, np.bool_)):
        check_choice("stable", stable, VARIANTS)


def check_image(input_shape, smallest):
    """Raise a ValueError unless `input_shape` is an image with enough pixels."""
    shape = tuple(input_shape) if isinstance(input_shape, (list, tuple)) else ()
    whole = len(shape) == 3 and all(is_whole(n, 1) for n in shape)
    if not whole or min(shape[:2]) < smallest:
        raise ValueError(
            "`input_shape` must be (height, width, channels) with at least "
            f"{smallest}x{smallest} pixels. Received: input_shape={input_shape}. "
            "Pass for example input_shape=(32, 32, 3), without the batch size."
        )
