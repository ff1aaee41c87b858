"""Residual networks for small images."""

import keras
from keras import layers

from keras_prune_init.models.common import Init, check_common, check_image, conv, finish
from keras_prune_init.theory.mean_field import Activation


def resnet(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    *,
    depth: int = 20,
    width: int = 16,
    activation: Activation = "relu",
    init: Init = None,
    stable: bool | str = False,
) -> keras.Model:
    """Make a CIFAR ResNet: three stages of basic blocks, `depth = 6n + 2` layers.

    Use it as the standard net for images of about 32x32 pixels. Stages have `width` x
    (1, 2, 4) filters: `width=16` is the classic net, `width=32` the one of the paper on
    robust pruning. The second and third stage start with stride 2. Where the shape
    changes, the shortcut is a 1x1 convolution with batch normalization (option B).
    Strided 3x3 convolutions pad one pixel on all four sides, as PyTorch code does.

    Args:
        input_shape: `(height, width, channels)` in pixels, at least 4x4.
        classes: Number of logits.
        depth: 6n + 2 with n blocks per stage, such as 20, 32, 50 or 104.
        width: Number of filters of the first stage.
        activation: Name of a Keras activation, or a callable.
        init: `"eoc"` (edge of chaos), `"ordered"` (far from it), `"orthogonal"`, or a
            Keras initializer. `None`: N(0, 2 / fan_out), and N(0, 0.01^2) for logits.
        stable: `True`, `"uniform"` or `"decreasing"` scale the residual branches as
            `keras_prune_init.stabilize` does.

    Returns:
        A Functional `keras.Model` from `(batch, *input_shape)` to `(batch, classes)`.

    Raises:
        ValueError: If an argument is not one of those above.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.models.resnet((8, 8, 3), depth=8, width=4).output_shape
    (None, 10)

    Reference:
        He, Zhang, Ren, Sun, 2016, arXiv 1512.03385 (section 4.2); Hayou, Ton, Doucet,
        Teh, 2021, arXiv 2002.08797 (the width-32 variant).
    """
    check_common(activation, stable, classes=classes, depth=depth, width=width)
    if depth < 8 or depth % 6 != 2:
        nearest = max(8, 6 * round((depth - 2) / 6) + 2)
        raise ValueError(
            "`depth` of a CIFAR ResNet must be 6n + 2 with n >= 1 (8, 14, 20, 32, 50, "
            f"104, ...). Received: depth={depth}. Use depth={nearest}."
        )
    check_image(input_shape, smallest=4)
    inputs = keras.Input(input_shape, name="input")
    x = conv(inputs, width, "stem_conv")
    x = layers.Activation(activation, name="stem_relu")(x)
    for stage in (1, 2, 3):
        for number in range((depth - 2) // 6):
            stride = 2 if stage > 1 and number == 0 else 1
            name = f"stage{stage}_block{number}"
            x = _basic_block(x, width * 2 ** (stage - 1), name, stride, activation)
    return finish(inputs, x, classes, f"resnet{depth}", activation, init, stable)


def _basic_block(x, filters, name, stride, activation):
    """Two 3x3 convolutions and the shortcut around them."""
    branch = conv(x, filters, f"{name}_conv1", stride=stride)
    branch = layers.Activation(activation, name=f"{name}_relu1")(branch)
    branch = conv(branch, filters, f"{name}_conv2")
    if stride > 1:
        x = conv(x, filters, f"{name}_shortcut", size=1, stride=stride)
    x = layers.Add(name=f"{name}_add")([x, branch])
    return layers.Activation(activation, name=f"{name}_relu2")(x)
