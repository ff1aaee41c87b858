"""Plain convolutional networks of any depth."""

import keras
from keras import layers

from keras_prune_init.models.common import Init, check_common, check_image, conv, finish
from keras_prune_init.theory.mean_field import Activation


def vcnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    *,
    depth: int = 20,
    width: int = 32,
    stride: int = 1,
    activation: Activation = "tanh",
    init: Init = None,
    stable: bool | str = False,
) -> keras.Model:
    """Make a vanilla CNN: `depth - 1` convolutions in a row, on images without edges.

    Use it, up to depth 100 or so, to study the theory of signal propagation in
    convolutional nets. It has 3x3 filters, biases and circular padding, and no
    normalization. Before the classifier each filter is averaged over all positions.
    With normal weights only this average reaches the end of a deep net, and a
    classifier of flattened images would hold most of the weights.

    Args:
        input_shape: `(height, width, channels)` in pixels, at least 3x3.
        classes: Number of logits.
        depth: Number of layers with weights, at least 1 (a linear classifier).
        width: Number of filters of each convolution.
        stride: Stride of the first convolution; 2 is about four times faster.
        activation: Name of a Keras activation, or a callable.
        init: `"eoc"`, also `None` (edge of chaos, which a deep net needs), `"ordered"`
            (far from it), `"orthogonal"`, or a Keras initializer.
        stable: Must be `False`, because there are no residual branches.

    Returns:
        A Functional `keras.Model` from `(batch, *input_shape)` to `(batch, classes)`.

    Raises:
        ValueError: If an argument is not one of those above.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.models.vcnn((28, 28, 1), depth=5, activation="relu").output_shape
    (None, 10)

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797 (its CNN); Xiao, Bahri,
        Sohl-Dickstein, Schoenholz, Pennington, 2018, arXiv 1806.05393.
    """
    numbers = {"classes": classes, "depth": depth, "width": width, "stride": stride}
    check_common(activation, stable, **numbers)
    check_image(input_shape, smallest=3)
    inputs = x = keras.Input(input_shape, name="input")
    for number in range(1, depth):
        name = f"conv{number}"
        first = int(stride) if number == 1 else 1
        x = conv(x, width, name, stride=first, batch_norm=False, circular=True)
        x = layers.Activation(activation, name=f"{name}_activation")(x)
    init = "eoc" if init is None else init
    return finish(inputs, x, classes, f"vcnn{depth}", activation, init, stable)
