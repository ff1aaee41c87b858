"""A small convolutional network for quick experiments."""

import keras
from keras import layers

from keras_prune_init._arguments import check_whole
from keras_prune_init.models.common import Init, check_common, check_image, conv, finish
from keras_prune_init.theory.mean_field import Activation


def cnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    *,
    depth: int = 3,
    width: int = 16,
    activation: Activation = "relu",
    init: Init = None,
    stable: bool | str = False,
) -> keras.Model:
    """Make a plain network of `depth` convolutions, each followed by pooling.

    Use it where a run should take seconds: tests, first trials, teaching. Each stage is
    a 3x3 convolution with bias, an activation and 2x2 max pooling, without batch
    normalization. The number of filters doubles from stage to stage.

    Args:
        input_shape: `(height, width, channels)` in pixels.
        classes: Number of logits.
        depth: Number of convolutions. Images need `2 ** depth` pixels on each side.
        width: Number of filters of the first convolution.
        activation: Name of a Keras activation, or a callable.
        init: `"eoc"` (edge of chaos), `"ordered"` (far from it), `"orthogonal"`, or a
            Keras initializer. `None`: N(0, 2 / fan_out), and N(0, 0.01^2) for logits.
        stable: Must be `False`, because there are no residual branches.

    Returns:
        A Functional `keras.Model` from `(batch, *input_shape)` to `(batch, classes)`.

    Raises:
        ValueError: If an argument is not one of those above.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.models.cnn((28, 28, 1), classes=10).output_shape
    (None, 10)

    Reference:
        LeCun, Bottou, Bengio, Haffner, 1998 (the family of nets it belongs to).
    """
    check_common(activation, stable, classes=classes, depth=depth, width=width)
    check_whole("depth", depth, 1, 20)  # each halves the image
    check_image(input_shape, smallest=2**depth)
    inputs = x = keras.Input(input_shape, name="input")
    for stage in range(1, depth + 1):
        x = conv(x, width * 2 ** (stage - 1), f"stage{stage}_conv", batch_norm=False)
        x = layers.Activation(activation, name=f"stage{stage}_relu")(x)
        x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    return finish(inputs, x, classes, f"cnn{depth}", activation, init, stable)
