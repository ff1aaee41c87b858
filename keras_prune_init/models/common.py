"""What the convolutional architectures share: convolution, classifier, checks.

Initial weights follow the code of Hayou et al.: convolutions N(0, 2 / fan_out), the
last linear layer N(0, 0.01^2), biases 0. Batch normalization has PyTorch's constants
(running average 0.9, epsilon 1e-5); the published schedules were tuned with those.
"""

import keras
from keras import layers


def conv(x, filters, name, *, size=3, stride=1, batch_norm=True):
    """A convolution padded by `size // 2`, and its normalization unless told not to."""
    padding = "same"
    if stride > 1 and size == 1:
        # Drop the pixels that the stride would skip, then convolve the rest: the same
        # numbers, and safe. TensorFlow 2.21 (oneDNN) corrupts memory in the gradient of
        # a strided 1x1 kernel when its input channels are no multiple of 16.
        x = layers.AveragePooling2D(1, strides=stride, name=f"{name}_subsample")(x)
        stride = 1
    elif stride > 1:
        # With a stride, Keras's "same" pads an even image only right and below. Padding
        # all four sides looks at the same pixels as the authors' PyTorch code.
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    x = layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding=padding,
        use_bias=not batch_norm,  # normalization would subtract a bias again
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        ),
        name=name,
    )(x)
    if batch_norm:
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
    return x


def classifier(x, classes):
    """The linear layer that gives one logit per class."""
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    return layers.Dense(classes, kernel_initializer=initializer, name="logits")(x)


def check_positive(**values):
    """Raises ValueError unless every given value is an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"`{name}` must be an integer of at least 1. Received: "
                f"{name}={value!r}. Pass for example {name}=10."
            )


def check_image(input_shape, smallest):
    """Raises ValueError unless `input_shape` is an image of enough pixels."""
    shape = tuple(input_shape)
    if len(shape) != 3 or None in shape or min(shape[:2]) < smallest:
        raise ValueError(
            "`input_shape` must be (height, width, channels) with at least "
            f"{smallest}x{smallest} pixels. Received: input_shape={input_shape}. "
            "Pass for example input_shape=(32, 32, 3), without the batch size."
        )
