"""MobileNets in the form that phones' sparse kernels accept."""

import keras
from keras import layers

from keras_prune_init._arguments import is_number, is_whole
from keras_prune_init.models.common import Init, check_common, check_image, conv, finish
from keras_prune_init.theory.mean_field import Activation

# Filters and stride of each block.
V1 = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
V1 += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
# Expansion, filters, number of blocks, stride of the first of them.
V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
V2 += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
# Images are not made smaller than this, in pixels.
SMALLEST = 3


def mobilenet(
    input_shape: tuple[int, int, int] = (96, 96, 3),
    classes: int = 10,
    *,
    version: int = 1,
    alpha: float = 1.0,
    activation: Activation = "relu6",
    init: Init = None,
    stable: bool | str = False,
) -> keras.Model:
    """Make a MobileNetV1 or V2 that ARM processors can run sparsely.

    Use it, pruned with `filters="pointwise"`, where a network must be fast on a phone.
    If more than 2/3 of the weights of its 1x1 convolutions are removed, XNNPACK
    computes with the kept ones only. XNNPACK requires that convolutions with a stride
    pad one pixel on all four sides. This network does so, unlike those of
    keras.applications; see `mobile_check`. It works for small images too: a stride that
    would leave fewer than 3x3 pixels becomes 1.

    Args:
        input_shape: `(height, width, channels)` in pixels, at least 16x16. Only with 3
            channels it runs sparsely.
        classes: Number of logits.
        version: 1 or 2 (inverted residual blocks).
        alpha: Width multiplier, up to 100. The last layer of version 2 does not shrink.
        activation: Name of a Keras activation, or a callable.
        init: `"eoc"` (edge of chaos), `"ordered"` (far from it), `"orthogonal"`, or a
            Keras initializer. `None`: N(0, 2 / fan_out), and N(0, 0.01^2) for logits.
        stable: `True` (or `"uniform"`) and `"decreasing"` scale the residual branches
            of version 2 down, see `keras_prune_init.stabilize`.

    Returns:
        A Functional `keras.Model` from `(batch, *input_shape)` to `(batch, classes)`.

    Raises:
        ValueError: If an argument is not one of those above.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.models.mobilenet((32, 32, 3), classes=10, alpha=0.25).output_shape
    (None, 10)

    Reference:
        Howard et al., "MobileNets", 2017, arXiv 1704.04861; Sandler, Howard, Zhu,
        Zhmoginov, Chen, "MobileNetV2", 2018, arXiv 1801.04381.
    """
    check_common(activation, stable, classes=classes)
    check_image(input_shape, smallest=16)
    if not is_whole(version) or version not in (1, 2):
        raise ValueError(
            f"`version` must be 1 or 2. Received: version={version!r}. Pass one."
        )
    if not is_number(alpha) or not 0 < alpha <= 100:
        raise ValueError(
            f"`alpha` must be above 0, up to 100. Received: alpha={alpha!r}. 1 is the "
            "published width."
        )
    inputs = keras.Input(input_shape, name="input")
    x = conv(inputs, _width(32, alpha), "stem_conv", stride=2)
    x = layers.Activation(activation, name="stem_relu")(x)
    x = (_v1 if version == 1 else _v2)(x, alpha, activation)
    name = f"mobilenet_v{version}"
    return finish(inputs, x, classes, name, activation, init, stable)


def _v1(x, alpha, activation):
    for number, (filters, stride) in enumerate(V1):
        name = f"block{number}"
        x = _depthwise(x, stride, activation, name)
        x = _pointwise(x, _width(filters, alpha), activation, f"{name}_conv")
    return x


def _v2(x, alpha, activation):
    number = 0
    for expansion, filters, count, stride in V2:
        for i in range(count):
            name, step = f"block{number}", stride if i == 0 else 1
            width = _width(filters, alpha)
            x = _inverted_residual(x, expansion, width, step, activation, name)
            number += 1
    return _pointwise(x, _width(1280, max(alpha, 1.0)), activation, "head_conv")


def _inverted_residual(x, expansion, filters, stride, activation, name):
    branch = x
    if expansion > 1:
        wide = expansion * x.shape[-1]
        branch = _pointwise(branch, wide, activation, f"{name}_expand")
    branch = _depthwise(branch, stride, activation, name)
    branch = conv(branch, filters, f"{name}_project", size=1)
    if branch.shape == x.shape:
        return layers.Add(name=f"{name}_add")([x, branch])
    return branch


def _pointwise(x, filters, activation, name):
    x = conv(x, filters, name, size=1)
    return layers.Activation(activation, name=f"{name}_relu")(x)


def _depthwise(x, stride, activation, name):
    name = f"{name}_depthwise"
    if min(x.shape[1:3]) <= 2 * SMALLEST - 2:
        stride = 1
    x = conv(x, None, name, stride=stride)
    return layers.Activation(activation, name=f"{name}_relu")(x)


def _width(filters, alpha):
    """Return filters times `alpha`, rounded to a multiple of 8 as by the authors."""
    rounded = max(8, int(filters * alpha + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters * alpha else rounded
