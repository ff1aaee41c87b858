"""Fully connected networks of any depth."""

from collections.abc import Sequence

import keras
from keras import layers

from keras_prune_init._arguments import check_whole, is_whole
from keras_prune_init.models.common import MOST, Init, check_common, initialized, normal
from keras_prune_init.theory.mean_field import Activation


def mlp(
    input_shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    *,
    depth: int = 3,
    width: int | Sequence[int] = 256,
    activation: Activation = "relu",
    init: Init = None,
    stable: bool | str = False,
) -> keras.Model:
    """Make a fully connected network: `depth - 1` hidden layers of `width` units.

    Use it for small images or feature vectors, and to study the theory of signal
    propagation. By default it is on the edge of chaos of ReLU, and biases are 0.

    Args:
        input_shape: Shape of one example, without the batch size; it is flattened.
        classes: Number of logits.
        depth: Number of layers with weights, at least 1 (a linear classifier).
        width: Number of units of each hidden layer, or a number for each of them, such
            as `(300, 100)` at depth 3.
        activation: Name of a Keras activation, or a callable.
        init: `"eoc"` (edge of chaos of the activation), `"ordered"` (far from it),
            `"orthogonal"`, or a Keras initializer. `None`: N(0, 2 / fan_in).
        stable: Must be `False`, because there are no residual branches.

    Returns:
        A Functional `keras.Model` from `(batch, *input_shape)` to `(batch, classes)`.

    Raises:
        ValueError: If an argument is not one of those above.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.models.mlp((28, 28, 1), depth=5, width=32, activation="tanh").output_shape
    (None, 10)

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797 (the FFNN of its experiments).
    """
    check_common(activation, stable, classes=classes, depth=depth)
    widths = _widths(width, depth)
    shape = input_shape if isinstance(input_shape, (tuple, list)) else ()
    if not shape or not all(is_whole(n, 1) for n in shape):
        raise ValueError(
            "`input_shape` must be the shape of one example, without the batch size. "
            f"Received: input_shape={input_shape!r}. Pass for example (28, 28, 1)."
        )
    inputs = x = keras.Input(input_shape, name="input")
    if len(input_shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    initializer = normal("fan_in")
    for number, units in enumerate(widths, 1):
        x = layers.Dense(
            int(units),
            activation=activation,
            kernel_initializer=initializer.clone(),
            name=f"dense{number}",
        )(x)
    logits = layers.Dense(int(classes), kernel_initializer=initializer, name="logits")
    model = keras.Model(inputs, logits(x), name=f"mlp{depth}")
    return initialized(model, activation, init, stable)


def _widths(width, depth):
    if not isinstance(width, (tuple, list)):
        check_whole("width", width, 1, MOST)
        return [width] * (depth - 1)
    if len(width) != depth - 1 or not all(is_whole(n, 1) and n <= MOST for n in width):
        raise ValueError(
            "`width` must be a whole number, or one for each of the `depth - 1` hidden "
            f"layers. Received: width={width!r}, depth={depth}. Pass for example "
            "width=(300, 100), depth=3."
        )
    return list(width)
