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
from keras_prune_init.theory import matrices
from keras_prune_init.theory.edges import edges
from keras_prune_init.theory.mean_field import LARGEST, Activation, edge_of_chaos
from keras_prune_init.theory.orthogonal import Orthogonal
from keras_prune_init.theory.quadrature import known_activation

__all__ = ["EdgeOfChaos", "Orthogonal", "ScaledNormal", "reinitialize"]


@keras.saving.register_keras_serializable(PACKAGE)
class ScaledNormal(keras.initializers.VarianceScaling):
    """Draw normal weights and biases with the deviations of mean field theory.

    It is an initializer for kernels and biases alike: a tensor with one axis is a bias,
    any other is the kernel of a dense or convolution layer. For a depthwise kernel
    (3, 3, channels, 1) it counts a fan-in of 9 * channels instead of 9. `reinitialize`
    knows the layers and counts right.

    Args:
        sigma_w: Standard deviation of a weight times the root of the fan-in, > 0.
        sigma_b: Standard deviation of a bias, >= 0.
        seed: Whole number, `keras.random.SeedGenerator`, or `None`.
        input_axes, output_axes: Axes of a kernel; `EinsumDense` sets them.

    Raises:
        ValueError: If a deviation is out of its range.

    Example:

    >>> import keras
    >>> import keras_prune_init as kpi
    >>> start = kpi.initializers.ScaledNormal(1.5, 0.05, seed=0)  # chaotic for tanh
    >>> layer = keras.layers.Dense(100, kernel_initializer=start)
    >>> layer.build((None, 400))
    >>> print(f"{layer.kernel.numpy().std():.3f}")  # 1.5 / sqrt(400)
    0.075

    Reference:
        Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, 2016, arXiv 1606.05340.
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
    """Draw normal weights and biases at which gradients neither vanish nor explode.

    Use it for kernels and biases of the layers that read the outputs of `activation`.
    Pruned networks that start there can be deeper and still train. Shapes are read as
    by `ScaledNormal`.

    Args:
        activation: A Keras activation, its name, or a registered function.
        sigma_b: Standard deviation of biases, >= 0.
        seed: Whole number, `keras.random.SeedGenerator`, or `None`.
        **axes: `input_axes` and `output_axes` of a kernel; `EinsumDense` sets them.

    Attributes:
        sigma_w: Standard deviation of weights times the root of the fan-in.

    Raises:
        ValueError: If `activation` has no edge of chaos at this `sigma_b`.

    Example:

    >>> import keras
    >>> import keras_prune_init as kpi
    >>> start = kpi.initializers.EdgeOfChaos("tanh", 0.2)
    >>> print(f"{start.sigma_w:.3f}")
    1.304
    >>> both = {"kernel_initializer": start, "bias_initializer": start}
    >>> layer = keras.layers.Dense(100, "tanh", **both)

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797.
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

    Use it before `prune_at_init`, on a model that was made with Keras's defaults. Or
    use it after, to train given masks from other weights: removed weights stay 0, and
    scales go back to 1, because they belong to the old weights. A kernel is drawn with
    its layer's own fan-in, also of depthwise, grouped and transposed convolutions;
    strides do not count. Normalization, embeddings and recurrent layers stay.

    Args:
        model: A built Keras model, pruned or not.
        initializer: `"eoc"`: the edge of chaos of the activation that a layer's inputs
            went through. It is found upstream, through normalization, pooling,
            reshaping, dropout and additions. Layers that read the model's inputs use
            the activation that follows them. `"orthogonal"`: `Orthogonal()`. Or a Keras
            initializer or its name, for kernels; a `ScaledNormal` is used for biases
            too. Otherwise biases are set by their layer's own initializer.
        sigma_b: Standard deviation of biases, for `"eoc"`. Default: 0 for activations
            with phi(2x) = 2 phi(x) (ReLU, leaky ReLU, none), else 0.2.
        seed: Seed of all draws, together with the paths of the variables.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model is not built or has no such layer; if `initializer`, or
            an activation and its edge of chaos, is not known. The model is unchanged.

    Example:

    >>> import keras
    >>> import keras_prune_init as kpi
    >>> layers = [keras.layers.Dense(n, "relu") for n in (400, 400)]
    >>> model = keras.Sequential([keras.Input((400,)), *layers])
    >>> kpi.initializers.reinitialize(model, "eoc")
    >>> print(f"{layers[1].kernel.numpy().std():.3f}")  # sqrt(2 / 400)
    0.071

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797.
    """
    kernels = matrices.matrix_kernels(model)
    check_whole("seed", seed, 0)
    named = initializer if isinstance(initializer, str) else None
    if named == "eoc":
        found = edges(model, kernels, sigma_b)
        chosen = [ScaledNormal(edge.sigma_w, edge.sigma_b) for edge in found]
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
    """Yield pairs of a variable and its new value: kernel, scale, bias."""
    key = f"{seed} {kernel.path}"
    groups, *shape = matrices.matrices_shape(kernel)
    dtype = kernel.variable.dtype
    draws = [_draw(initializer, shape, dtype, f"{key} {i}") for i in range(groups)]
    yield kernel, matrices.from_matrices(kernel, np.stack(draws))
    if kernel.scale is not None:
        yield kernel.scale, np.ones(kernel.scale.shape)
    bias = getattr(kernel.owner, "bias", None)
    if bias is None or kernel.name == "depthwise_kernel":  # the pointwise one follows
        return
    shape = list(bias.shape)
    if isinstance(initializer, ScaledNormal):  # which takes one axis for a bias
        shape = [math.prod(shape)]
    else:
        initializer = kernel.owner.bias_initializer
    value = _draw(initializer, shape, bias.dtype, f"{key} b")
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
