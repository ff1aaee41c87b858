"""A small convolutional network for quick experiments."""

import keras
from keras import layers

from keras_prune_init.models.common import (
    check_image,
    check_positive,
    classifier,
    conv,
)


def cnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    *,
    depth: int = 3,
    width: int = 16,
) -> keras.Model:
    """A plain network of `depth` convolutions, each halving the image.

    Use it where a run should take seconds: tests, first trials, teaching. Each stage is
    a 3x3 convolution with bias, ReLU and 2x2 max pooling; the number of filters starts
    at `width` and doubles from stage to stage. There is no batch normalization.

    Args:
        input_shape: `(height, width, channels)` in pixels.
        classes: Number of logits.
        depth: Number of convolutions; the image must be at least `2 ** depth` pixels
            high and wide.
        width: Filters of the first convolution.

    Returns:
        A Functional `keras.Model` from `(batch, *input_shape)` to `(batch, classes)`.

    Raises:
        ValueError: If a number is not a positive integer, or the image is too small.

    Example:

    >>> model = keras_prune_init.models.cnn((28, 28, 1), classes=10)
    >>> model.output_shape
    (None, 10)

    Reference:
        LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document
        Recognition", 1998 (the family of nets it belongs to).
    """
    check_positive(classes=classes, depth=depth, width=width)
    check_image(input_shape, smallest=2**depth)
    inputs = x = keras.Input(input_shape, name="input")
    for stage in range(1, depth + 1):
        filters = width * 2 ** (stage - 1)
        x = conv(x, filters, f"stage{stage}_conv", batch_norm=False)
        x = layers.ReLU(name=f"stage{stage}_relu")(x)
        x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, classifier(x, classes), name=f"cnn{depth}")
