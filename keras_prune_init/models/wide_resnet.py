"""Wide residual networks for small images."""

import keras
from keras import layers

from keras_prune_init._arguments import is_number
from keras_prune_init.models.common import (
    Init,
    check_common,
    check_image,
    conv,
    finish,
    normalization,
)
from keras_prune_init.theory.mean_field import Activation


def wide_resnet(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    *,
    depth: int = 28,
    widening: int = 10,
    dropout: float = 0.0,
    activation: Activation = "relu",
    init: Init = None,
    stable: bool | str = False,
) -> keras.Model:
    """Make a WRN-depth-widening: three stages of wide blocks, `depth = 6n + 4` layers.

    Use it where a few wide layers should do the work of many. WRN-28-10 has 36.5
    million weights, WRN-16-2 has 0.7 million. After a stem of 16 filters the stages
    have `widening` x (16, 32, 64) filters; the second and third start with stride 2.
    Blocks normalize and activate before each convolution. Where the shape changes, the
    shortcut is a 1x1 convolution. `depth` counts convolutions, including the three
    shortcuts.

    Args:
        input_shape: `(height, width, channels)` in pixels, at least 4x4.
        classes: Number of logits.
        depth: 6n + 4 with n blocks per stage, such as 10, 16, 22, 28 or 40.
        widening: Factor of the filters of a classic ResNet.
        dropout: Fraction of values dropped between the convolutions of a block, < 1.
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
    >>> kpi.models.wide_resnet((8, 8, 3), depth=10, widening=1).output_shape
    (None, 10)

    Reference:
        Zagoruyko, Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146.
    """
    check_common(activation, stable, classes=classes, depth=depth, widening=widening)
    if depth < 10 or depth % 6 != 4:
        nearest = max(10, 6 * round((depth - 4) / 6) + 4)
        raise ValueError(
            "`depth` of a wide ResNet must be 6n + 4 with n >= 1 (10, 16, 22, 28, 40, "
            f"...). Received: depth={depth}. Use depth={nearest}."
        )
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise ValueError(
            "`dropout` must be a fraction, 0 <= dropout < 1. Received: dropout="
            f"{dropout!r}. Pass for example dropout=0.3."
        )
    check_image(input_shape, smallest=4)
    inputs = keras.Input(input_shape, name="input")
    x = conv(inputs, 16, "stem_conv", batch_norm=False, bias=False)
    for stage in (1, 2, 3):
        for number in range((depth - 4) // 6):
            stride = 2 if stage > 1 and number == 0 else 1
            name = f"stage{stage}_block{number}"
            filters = 16 * widening * 2 ** (stage - 1)
            x = _wide_block(x, filters, name, stride, dropout, activation)
    x = layers.Activation(activation, name="relu")(normalization(x, "bn"))
    name = f"wide_resnet{depth}_{widening}"
    return finish(inputs, x, classes, name, activation, init, stable)


def _wide_block(x, filters, name, stride, dropout, activation):
    """Two 3x3 convolutions of normalized inputs, and the shortcut around them."""
    branch = normalization(x, f"{name}_bn")
    branch = layers.Activation(activation, name=f"{name}_relu1")(branch)
    if x.shape[-1] != filters or stride > 1:
        plain = {"stride": stride, "batch_norm": False, "bias": False}
        x = conv(branch, filters, f"{name}_shortcut", size=1, **plain)
    branch = conv(branch, filters, f"{name}_conv1", stride=stride)
    branch = layers.Activation(activation, name=f"{name}_relu2")(branch)
    if dropout:
        branch = layers.Dropout(dropout, name=f"{name}_dropout")(branch)
    branch = conv(branch, filters, f"{name}_conv2", batch_norm=False, bias=False)
    return layers.Add(name=f"{name}_add")([x, branch])
