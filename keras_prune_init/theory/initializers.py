"""Keras initializers from the theory: edge of chaos, and orthogonal kernels."""

from __future__ import annotations

import copy
import math
import zlib

import keras
import numpy as np

from keras_prune_init._arguments import called, check_whole, is_number, is_whole
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.masked import PACKAGE
from keras_prune_init.theory import edges as reading
from keras_prune_init.theory.matrices import (
    from_matrices,
    matrices_shape,
    matrix_kernels,
)
from keras_prune_init.theory.mean_field import LARGEST, Activation, edge_of_chaos
from keras_prune_init.theory.orthogonal import Orthogonal
from keras_prune_init.theory.quadrature import known_activation

__all__ = ["EdgeOfChaos", "Orthogonal", "ScaledNormal", "reinitialize"]


@keras.saving.register_keras_serializable(PACKAGE)
class ScaledNormal(keras.initializers.VarianceScaling):
    """Normal weights and biases of the deviations that mean field theory speaks of.

    For kernels and biases alike: a tensor with one axis is a bias, any other a kernel.

    An initializer sees only the shape, and takes it for that of a dense or convolution
    kernel: of a depthwise kernel (3, 3, channels, 1) it counts a fan-in of 9 * channels
    instead of 9. `reinitialize` knows the layers and counts right.

    Args:
        sigma_w: Standard deviation of a weight times the root of the fan-in, > 0.
        sigma_b: Standard deviation of a bias, >= 0.
        seed: Whole number, `keras.random.SeedGenerator`, or `None`.
        input_axes, output_axes: Axes of a kernel; EinsumDense sets them.

    Raises:
        ValueError: If a deviation is out of its range.

    Example:

    >>> start = ScaledNormal(1.5, 0.05)  # chaotic for tanh
    >>> Dense(100, "tanh", kernel_initializer=start, bias_initializer=start)

    Reference:
        Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, arXiv 1606.05340.
    """

    def __init__(
        self,
        sigma_w: float,
        sigma_b: float = 0.0,
        seed=None,
        input_axes=None,
        output_axes=None,
    ):
        numbers = is_number(sigma_w) and is_number(sigma_b)
        if not (numbers and 0 < sigma_w <= LARGEST and 0 <= sigma_b <= LARGEST):
            raise ValueError(
                "Standard deviations are finite, `sigma_w` positive and `sigma_b` 0 or "
                f"more. Received: sigma_w={sigma_w!r}, sigma_b={sigma_b!r}. "
                "For ReLU layers use sigma_w=2**0.5, sigma_b=0."
            )
        axes = {"input_axes": input_axes, "output_axes": output_axes}
        seed = int(seed) if is_whole(seed) else seed  # Keras takes none of numpy
        super().__init__(sigma_w**2, "fan_in", "untruncated_normal", seed, **axes)
        self.sigma_w, self.sigma_b = sigma_w, sigma_b

    def __call__(self, shape, dtype=None):
        if len(shape) > 1:
            return super().__call__(shape, dtype)
        biases = keras.initializers.RandomNormal(stddev=self.sigma_b, seed=self.seed)
        return biases(shape, dtype)

    def get_config(self):
        config = super().get_config()
        for name in ("scale", "mode", "distribution"):  # these follow from sigma_w
            del config[name]
        return {**config, "sigma_w": self.sigma_w, "sigma_b": self.sigma_b}


@keras.saving.register_keras_serializable(PACKAGE)
class EdgeOfChaos(ScaledNormal):
    """Normal weights and biases at which gradients neither vanish nor explode.

    Use it for the layers that read what `activation` puts out, kernels and biases
    alike; pruned networks train deeper from there. See `ScaledNormal` for how shapes
    are read.

    Args:
        activation: What the layers' inputs went through: a Keras activation, its name,
            or a registered function.
        sigma_b: Standard deviation of biases, >= 0.
        seed, **axes: As in `ScaledNormal`.

    Attributes:
        sigma_w: Standard deviation of weights times the root of the fan-in.

    Raises:
        ValueError: If `activation` has no edge of chaos at this `sigma_b`.

    Example:

    >>> start = EdgeOfChaos("tanh", 0.2)
    >>> Dense(100, "tanh", kernel_initializer=start, bias_initializer=start)

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", arXiv 2002.08797.
    """

    def __init__(
        self, activation: Activation = "relu", sigma_b: float = 0.0, seed=None, **axes
    ):
        edge = edge_of_chaos(activation, sigma_b)
        super().__init__(edge.sigma_w, sigma_b, seed, **axes)
        self.activation = known_activation(activation)

    def get_config(self):
        config = super().get_config()
        del config["sigma_w"]  # it follows from the activation
        return {**config, "activation": keras.activations.serialize(self.activation)}


def reinitialize(
    model: keras.Model,
    initializer="eoc",
    *,
    sigma_b: float | None = None,
    seed: int = 0,
) -> None:
    """Give the dense and convolution layers of a model new weights, in place.

    Use it before `prune_at_init`, on a model made with Keras's defaults; or after, to
    train given masks from other weights: removed weights stay 0, and scales, which
    belong to the old weights, go back to 1. A kernel is drawn with its layer's own
    fan-in (of depthwise, grouped and transposed convolutions too; strides do not
    count). Other layers keep their weights: normalization, embeddings, recurrent ones.

    Args:
        model: A built Keras model, pruned or not.
        initializer: `"eoc"`: the edge of chaos of the activation that a layer's inputs
            went through, upstream through normalization, pooling, reshaping, dropout,
            additions; of layers that read the model's inputs, of the one that follows.
            `"orthogonal"`: `Orthogonal()`. Or a Keras initializer or its name, for
            kernels; a `ScaledNormal` is for biases too. Biases otherwise are set by
            their layer's own initializer.
        sigma_b: Standard deviation of biases, for `"eoc"`. Default: 0 for activations
            with phi(2x) = 2 phi(x) (ReLU, leaky ReLU, none), else 0.2.
        seed: Seed of all draws, together with the paths of the variables.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built or has no such layer, if `initializer` is not
            known, if the activation that a layer reads is not known or has no edge of
            chaos. The model is left as it was.

    Example:

    >>> model = keras.applications.MobileNetV2(weights=None)
    >>> reinitialize(model, "eoc")

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", arXiv 2002.08797.
    """
    kernels = matrix_kernels(model)
    check_whole("seed", seed, 0)
    named = initializer if isinstance(initializer, str) else None
    if named == "eoc":
        edges = reading.deviations(model, kernels, sigma_b)
        chosen = [ScaledNormal(*edge) for edge in edges]
    elif sigma_b is not None:
        raise ValueError(
            '`sigma_b` goes with initializer="eoc". '
            f"Received: sigma_b={sigma_b!r}, initializer={initializer!r}. "
            "Pass ScaledNormal(sigma_w, sigma_b)."
        )
    elif named == "orthogonal":
        chosen = [Orthogonal()] * len(kernels)
    else:
        chosen = [_known(initializer)] * len(kernels)
    # All before the first is assigned: an error leaves the model as it was.
    pairs = zip(kernels, chosen, strict=True)
    values = [v for kernel, c in pairs for v in _values(kernel, c, seed)]
    for variable, value in values:
        variable.assign(value)


def _known(initializer):
    try:
        found = keras.initializers.get(initializer)
        if not callable(found):
            raise ValueError("it cannot be called")
        return found
    except Exception as e:  # whatever Keras raises of other things
        raise ValueError(
            "`initializer` must be 'eoc', 'orthogonal', or a Keras initializer or its "
            f"name. Received: initializer={initializer!r} ({e}). Pass for example "
            "'he_normal'."
        ) from e


def _values(kernel: Kernel, initializer, seed):
    """Pairs of what to assign to and its new value: kernel, scale, bias."""
    key = f"{seed} {kernel.path}"
    groups, *shape = matrices_shape(kernel)
    dtype = kernel.variable.dtype
    draws = [_draw(initializer, shape, dtype, f"{key} {i}") for i in range(groups)]
    values = from_matrices(kernel, np.stack(draws))
    yield kernel, values
    if kernel.scale is not None:
        yield kernel.scale, np.ones(kernel.scale.shape)
    bias = getattr(kernel.owner, "bias", None)
    if bias is None or kernel.name == "depthwise_kernel":  # the pointwise one follows
        return
    if isinstance(initializer, ScaledNormal):  # which takes one axis for a bias
        value = _draw(initializer, (math.prod(bias.shape),), bias.dtype, f"{key} b")
    else:
        own = kernel.owner.bias_initializer
        value = _draw(own, bias.shape, bias.dtype, f"{key} b")
    yield bias, np.reshape(value, bias.shape)


def _draw(initializer, shape, dtype, key):
    if hasattr(initializer, "seed"):
        initializer = copy.copy(initializer)
        initializer.seed = zlib.crc32(key.encode())
    value = np.asarray(called("initializer", initializer, tuple(shape), dtype))
    if value.shape != tuple(shape):
        raise ValueError(
            "`initializer` must return an array of the shape that it is given. "
            f"Received: initializer={initializer!r}, with shape {value.shape} for "
            f"{tuple(shape)}. Pass for example 'he_normal'."
        )
    if not np.isfinite(value.astype("float32")).all():
        raise ValueError(
            "`initializer` must return finite numbers. Received: initializer="
            f"{initializer!r}, with NaN or infinite ones. Nothing was changed; pass "
            "for example 'he_normal'."
        )
    return value
