"""VGG networks for small images."""

import keras
from keras import layers

from keras_prune_init._arguments import check_flag, is_whole
from keras_prune_init.models.common import Init, check_common, check_image, conv, finish
from keras_prune_init.theory.mean_field import Activation

# Convolutions in each stage. The names count three linear layers on top; here is one.
STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
    34: (5, 5, 7, 7, 7),  # of Hayou et al.
}


def vgg(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    *,
    depth: int = 16,
    width: int = 64,
    batch_norm: bool = True,
    circular: bool = False,
    activation: Activation = "relu",
    init: Init = None,
    stable: bool | str = False,
) -> keras.Model:
    """Make a VGG for CIFAR: five stages of 3x3 convolutions, then one linear layer.

    Use it as a plain, very wide net with most of its weights in the last stages. Stages
    have `width` x (1, 2, 4, 8, 8) filters. There is 2x2 max pooling between them and
    global average pooling after the last one, so images need only 16x16 pixels. The two
    hidden linear layers of the ImageNet net are left out.

    Args:
        input_shape: `(height, width, channels)` in pixels, at least 16x16.
        classes: Number of logits.
        depth: 11, 13, 16, 19 or 34.
        width: Number of filters of the first stage.
        batch_norm: Whether each convolution is followed by batch normalization. Without
            it convolutions have biases, and deep nets need a small learning rate.
        circular: Whether to pad with the image's opposite side, as Hayou et al. do.
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
    >>> kpi.models.vgg((32, 32, 3), depth=11, width=8).output_shape
    (None, 10)

    Reference:
        Simonyan, Zisserman, 2015, arXiv 1409.1556; Hayou, Ton, Doucet, Teh, 2021,
        arXiv 2002.08797 (VGG-34, in its code).
    """
    if not is_whole(depth) or depth not in STAGES:
        raise ValueError(
            f"`depth` of a VGG must be one of {', '.join(map(str, STAGES))}. "
            f"Received: depth={depth!r}. Use depth=16."
        )
    check_common(activation, stable, classes=classes, width=width)
    check_flag("batch_norm", batch_norm)
    check_flag("circular", circular)
    check_image(input_shape, smallest=16)
    inputs = x = keras.Input(input_shape, name="input")
    for stage, count in enumerate(STAGES[depth], start=1):
        if stage > 1:
            x = layers.MaxPooling2D(name=f"stage{stage - 1}_pool")(x)
        filters = width * min(2 ** (stage - 1), 8)
        for number in range(count):
            name = f"stage{stage}_conv{number}"
            x = conv(x, filters, name, batch_norm=batch_norm, circular=circular)
            x = layers.Activation(activation, name=f"{name}_relu")(x)
    return finish(inputs, x, classes, f"vgg{depth}", activation, init, stable)
