"""Mean field theory of wide random networks: variances, correlations, edge of chaos.

A layer computes y = W phi(x) + b with independent weights of variance sigma_w^2 /
fan-in and biases of variance sigma_b^2. In the limit of infinite width, the variance q
of its outputs depends only on that of the layer before, and so does the correlation c
of its outputs for two inputs (Z1 and Z2 are normal variables of correlation c):

    q <- sigma_b^2 + sigma_w^2 E[phi(sqrt(q) Z)^2]
    c <- (sigma_b^2 + sigma_w^2 E[phi(sqrt(q) Z1) phi(sqrt(q) Z2)]) / q
    chi = sigma_w^2 E[phi'(sqrt(q) Z)^2]

Squared gradients are multiplied by chi from layer to layer. With depth they vanish if
chi < 1 (ordered phase) and explode if chi > 1 (chaotic phase). The edge of chaos is
chi = 1. The functions name their sources.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

from keras_prune_init._arguments import check_whole, is_number
from keras_prune_init.theory import quadrature

Activation = str | Callable

# Largest error of chi and slopes, from rounding and kinks of an activation.
SLACK = 1e-4
# Deviations whose squares are numbers in float32, too.
LARGEST = 1e15


class Edge(NamedTuple):
    """A point on the edge of chaos, as `edge_of_chaos` returns it.

    Attributes:
        sigma_w: Standard deviation of a weight times the root of its fan-in.
        sigma_b: Standard deviation of a bias.
        q: Variance of outputs that a layer does not change.
        chi: Factor by which a layer multiplies squared gradients: 1 up to rounding.
        stable: Whether variances near `q` go to `q`, or at least do not leave it.
    """

    sigma_w: float
    sigma_b: float
    q: float
    chi: float
    stable: bool


def edge_of_chaos(activation: Activation, sigma_b: float = 0.0) -> Edge:
    """Return the initialization at which gradients neither vanish nor explode.

    Args:
        activation: A Keras activation, its name, or a function of tensors.
        sigma_b: Standard deviation of biases, >= 0.

    Returns:
        An `Edge`. For a positively homogeneous activation (ReLU, leaky ReLU) with
        `sigma_b=0` every variance is a fixed point; then `q` is 1.

    Raises:
        ValueError: If `sigma_b` is negative, or there is no such point.

    Warns:
        UserWarning: If the variance does not stay at `q` (GELU, SiLU for small
            `sigma_b`): a deep network leaves the edge of chaos.

    Example:

    >>> import keras_prune_init as kpi
    >>> edge = kpi.mean_field.edge_of_chaos("tanh", 0.2)
    >>> print(f"{edge.sigma_w:.4f} {edge.q:.4f} {edge.chi:.4f}")
    1.3041 0.5121 1.0000

    Reference:
        Hayou, Doucet, Rousseau, 2019, arXiv 1902.06853, algorithm 1 (by quadrature).
    """
    _check_deviations(sigma_b=sigma_b)
    q, sigma_w, chi, slope = _edge(quadrature.known_activation(activation), sigma_b)
    stable = slope < 1 + SLACK
    if not stable:
        warnings.warn(
            f"At sigma_b={sigma_b} the variance of {_name(activation)} layers does not "
            f"stay at its fixed point q={q:.4g}: a deviation grows by {slope:.4f} a "
            "layer, so a deep network leaves the edge of chaos. Choose a larger "
            "sigma_b or another activation.",
            stacklevel=2,
        )
    return Edge(sigma_w, sigma_b, float(q), float(chi), stable)


@functools.lru_cache(maxsize=100)  # every layer of a deep network asks for the same
def _edge(activation, sigma_b):
    """Return q, sigma_w, chi and the derivative of the variance map there."""
    function = quadrature.with_slopes(activation)

    def excess(q):
        moments = quadrature.moments(function, q)
        if not moments.slope:  # of a constant
            return math.inf
        return sigma_b**2 + moments.square / moments.slope - q

    q = quadrature.smallest_root(excess)
    if q == math.inf:
        raise ValueError(
            "An activation needs a variance that its layers do not change. "
            f"Received: activation={_name(activation)}, sigma_b={sigma_b!r}, with "
            f"none between {quadrature.LOWEST} and {quadrature.HIGHEST}. "
            "Choose another sigma_b."
        )
    moments = quadrature.moments(function, q)
    sigma_w = 1 / math.sqrt(moments.slope)
    return q, sigma_w, sigma_w**2 * moments.slope, sigma_w**2 * moments.change


def variance_map(
    activation: Activation, sigma_w: float, sigma_b: float, q: float
) -> float:
    """Return the variance of a layer's outputs, for inputs of variance `q`.

    Args:
        activation: A Keras activation, its name, or a function of tensors.
        sigma_w, sigma_b: Deviations of weights (times the root of fan-in) and biases.
        q: Variance of the pre-activations of the layer before, >= 0.

    Returns:
        sigma_b^2 + sigma_w^2 E[phi(sqrt(q) Z)^2].

    Raises:
        ValueError: If `q` or a deviation is out of its range.

    Example:

    >>> import keras_prune_init as kpi
    >>> print(f"{kpi.mean_field.variance_map('relu', 2**0.5, 0.0, q=3.0):.4f}")
    3.0000

    Reference:
        Poole et al., 2016, arXiv 1606.05340.
    """
    _check_deviations(sigma_w=sigma_w, sigma_b=sigma_b)
    _check_variance(activation, sigma_w, sigma_b, q)
    function = quadrature.with_slopes(activation)
    return sigma_b**2 + sigma_w**2 * quadrature.moments(function, q).square


def fixed_variance(activation: Activation, sigma_w: float, sigma_b: float) -> float:
    """Return the smallest variance that a layer does not change.

    Args:
        activation: A Keras activation, its name, or a function of tensors.
        sigma_w, sigma_b: Deviations of weights (times the root of fan-in) and biases.

    Returns:
        The variance: 0 if signals die out, infinity if they grow without bound, 1 if
        every variance is fixed, as for ReLU on the edge of chaos.

    Raises:
        ValueError: If a deviation is out of its range.

    Example:

    >>> import keras_prune_init as kpi
    >>> print(f"{kpi.mean_field.fixed_variance('relu', 1.0, 0.5):.3f}")
    0.500

    Reference:
        Poole et al., 2016, arXiv 1606.05340.
    """
    function = quadrature.with_slopes(activation)
    _check_deviations(sigma_w=sigma_w, sigma_b=sigma_b)

    def excess(q):
        return sigma_b**2 + sigma_w**2 * quadrature.moments(function, q).square - q

    return quadrature.smallest_root(excess)


def chi(
    activation: Activation, sigma_w: float, sigma_b: float, q: float | None = None
) -> float:
    """Return the factor by which a layer multiplies squared gradients, going backward.

    Args:
        activation: A Keras activation, its name, or a function of tensors.
        sigma_w, sigma_b: Deviations of weights (times the root of fan-in) and biases.
        q: Variance of the pre-activations. Default: `fixed_variance`.

    Returns:
        sigma_w^2 E[phi'(sqrt(q) Z)^2]: < 1 in the ordered phase, > 1 in the chaotic.

    Raises:
        ValueError: If a deviation or `q` is out of its range.

    Example:

    >>> import keras_prune_init as kpi
    >>> print(f"{kpi.mean_field.chi('relu', 2**0.5, 0.0, q=1.0):.4f}")
    1.0000

    Reference:
        Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, 2017, arXiv 1611.01232.
    """
    q = _variance(activation, sigma_w, sigma_b, q)
    return sigma_w**2 * quadrature.moments(quadrature.with_slopes(activation), q).slope


def correlation_map(
    activation: Activation,
    sigma_w: float,
    sigma_b: float,
    c: float,
    q: float | None = None,
) -> float:
    """Return the correlation, -1 to 1, of a layer's outputs for two inputs.

    Args:
        activation: A Keras activation, its name, or a function of tensors.
        sigma_w, sigma_b: Deviations of weights (times the root of fan-in) and biases.
        c: Correlation of the pre-activations of the layer before, -1 <= c <= 1.
        q: Variance of the pre-activations. Default: `fixed_variance`.

    Raises:
        ValueError: If `c`, `q` or a deviation is out of its range.

    Example:

    >>> import keras_prune_init as kpi
    >>> print(f"{kpi.mean_field.correlation_map('relu', 2**0.5, 0, c=0, q=1):.4f}")
    0.3183

    Reference:
        Poole et al., 2016, arXiv 1606.05340.
    """
    if not is_number(c) or not -1 <= c <= 1:
        raise ValueError(
            f"`c` is a correlation, a number from -1 to 1. Received: c={c!r}. Pass for "
            "example c=0.5."
        )
    q = _variance(activation, sigma_w, sigma_b, q)
    function = quadrature.with_slopes(activation)
    product = quadrature.product(function, q, c)
    after = variance_map(activation, sigma_w, sigma_b, q)
    return (sigma_b**2 + sigma_w**2 * product) / after


class DepthScales(NamedTuple):
    """Numbers of layers in which a deviation shrinks by a factor of e.

    Attributes:
        variance: For the deviation of the variance from its fixed point.
        correlation: For the deviation of correlations from 1, and for squared
            gradients. Infinite on the edge of chaos.
    """

    variance: float
    correlation: float


def depth_scales(activation: Activation, sigma_w: float, sigma_b: float) -> DepthScales:
    """Return how many layers signals pass; a much deeper network does not train.

    Args:
        activation: A Keras activation, its name, or a function of tensors.
        sigma_w, sigma_b: Deviations of weights (times the root of fan-in) and biases.

    Raises:
        ValueError: If a deviation is out of its range, or no finite variance is fixed.

    Example:

    >>> import keras_prune_init as kpi
    >>> scales = kpi.mean_field.depth_scales("relu", 1.0, 0.5)
    >>> print(f"{scales.variance:.2f} {scales.correlation:.2f}")
    1.44 1.44

    Reference:
        Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, 2017, arXiv 1611.01232.
    """
    q = _variance(activation, sigma_w, sigma_b)
    moments = quadrature.moments(quadrature.with_slopes(activation), q)
    factor = sigma_w**2
    return DepthScales(_scale(factor * moments.change), _scale(factor * moments.slope))


def _scale(rate):
    distance = abs(math.log(rate)) if rate > 0 else math.inf
    return 1 / distance if distance > SLACK else math.inf


def critical_sparsity_bound(chi: float, depth: int, width: int) -> float:
    """Return an upper bound on the critical sparsity of SBP in the ordered phase.

    Args:
        chi: Factor by which a layer multiplies squared gradients, > 0.
        depth: Number of layers L.
        width: Number of units N of a layer.

    Returns:
        The bound on its expectation, (1 + log(k L N^2) / k) / L with k = |log chi| / 8,
        without the term that vanishes for large L N^2. It is at most 1. A bound of 1,
        as near the edge of chaos, says nothing.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> import keras_prune_init as kpi
    >>> bound = kpi.mean_field.critical_sparsity_bound(0.01, depth=100, width=100)
    >>> print(f"{bound:.3f}")
    0.240

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797, theorem 1.
    """
    if not is_number(chi) or chi <= 0:
        raise ValueError(
            f"`chi` must be a positive number. Received: chi={chi!r}. Take what "
            "`mean_field.chi` returns."
        )
    check_whole("depth", depth, 1)
    check_whole("width", width, 1)
    k = abs(math.log(chi)) / 8
    if k * depth * width**2 <= 1:
        return 1.0
    return min(1.0, (1 + math.log(k * depth * width**2) / k) / depth)


def _variance(activation, sigma_w, sigma_b, q=None):
    """Return `q`, or the fixed variance, or a small one where signals die out."""
    _check_deviations(sigma_w=sigma_w, sigma_b=sigma_b)
    q = fixed_variance(activation, sigma_w, sigma_b) if q is None else q
    _check_variance(activation, sigma_w, sigma_b, q)
    return max(q, quadrature.LOWEST)


def _check_variance(activation, sigma_w, sigma_b, q):
    if not is_number(q) or q < 0:
        raise ValueError(
            "`q` is a variance, a finite number, 0 or more. "
            f"Received: q={q!r} for activation={_name(activation)}, sigma_w={sigma_w}, "
            f"sigma_b={sigma_b}. Pass for example q=1.0. If you passed none, variances "
            "grow from layer to layer: choose a smaller sigma_w."
        )


def _name(activation):
    return getattr(activation, "__name__", activation)


def _check_deviations(**deviations):
    for name, value in deviations.items():
        if not is_number(value) or not 0 <= value <= LARGEST:
            raise ValueError(
                f"`{name}` is a standard deviation, from 0 to {LARGEST:g}. Received: "
                f"{name}={value!r}. Pass for example {name}=0.2."
            )
