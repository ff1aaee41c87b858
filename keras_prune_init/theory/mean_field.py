"""Mean field theory of wide random networks: variances, correlations, edge of chaos.

A layer computes y = W phi(x) + b with independent weights of variance sigma_w^2 /
fan-in and biases of variance sigma_b^2. In the limit of infinite width the variance q
of its outputs, and the correlation c of its outputs for two inputs, depend only on
those of the layer before (Z1 and Z2 are normal variables of correlation c):

    q <- sigma_b^2 + sigma_w^2 E[phi(sqrt(q) Z)^2]
    c <- (sigma_b^2 + sigma_w^2 E[phi(sqrt(q) Z1) phi(sqrt(q) Z2)]) / q
    chi = sigma_w^2 E[phi'(sqrt(q) Z)^2]

Squared gradients are multiplied by chi from layer to layer: with depth they vanish if
chi < 1 (ordered phase) and explode if chi > 1 (chaotic phase). The edge of chaos is
chi = 1.

References:
    Poole et al., arXiv 1606.05340; Schoenholz et al., "Deep Information Propagation",
    arXiv 1611.01232; Hayou, Doucet, Rousseau, "On the Impact of the Activation Function
    on Deep Neural Networks Training", arXiv 1902.06853; Hayou et al., arXiv 2002.08797.
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

# What rounding and kinks of an activation may do to chi and to slopes.
SLACK = 1e-4
# Deviations whose squares are numbers in float32, too.
LARGEST = 1e15


class Edge(NamedTuple):
    """A point on the edge of chaos, as `edge_of_chaos` returns it.

    Attributes:
        sigma_w: Standard deviation of a weight times the root of its fan-in.
        sigma_b: Standard deviation of a bias.
        q: Variance of outputs that a layer does not change.
        chi: What a layer multiplies squared gradients by: 1 to rounding.
        stable: Whether variances near `q` go to `q`, or at least do not leave it.
    """

    sigma_w: float
    sigma_b: float
    q: float
    chi: float
    stable: bool


def edge_of_chaos(activation: Activation, sigma_b: float = 0.0) -> Edge:
    """The initialization at which gradients neither vanish nor explode with depth.

    Args:
        activation: A Keras activation, its name, or a function of tensors.
        sigma_b: Standard deviation of biases, >= 0.

    Returns:
        An `Edge`. For a positively homogeneous activation (ReLU, leaky ReLU)
        with `sigma_b=0` every variance is a fixed point; `q` is 1 then.

    Raises:
        ValueError: If `sigma_b` is negative, or there is no such point.

    Warns:
        UserWarning: If the variance does not stay at `q` (GELU, SiLU for small
            `sigma_b`): a deep network leaves the edge of chaos.

    Example:

    >>> edge_of_chaos("tanh", 0.2)
    Edge(sigma_w=1.3041, sigma_b=0.2, q=0.5121, ...)

    Reference:
        Hayou, Doucet, Rousseau, arXiv 1902.06853, algorithm 1 (by quadrature here).
    """
    _check_deviation("sigma_b", sigma_b)
    q, sigma_w, chi, slope = _edge(quadrature.known_activation(activation), sigma_b)
    if q == math.inf:
        raise ValueError(
            "An activation needs a variance that its layers do not change. "
            f"Received: activation={_name(activation)}, sigma_b={sigma_b!r}, with "
            f"none between {quadrature.LOWEST} and {quadrature.HIGHEST}. "
            "Choose another sigma_b."
        )
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
    """q, sigma_w, chi and the derivative of the variance map there."""
    function = quadrature.with_slopes(activation)

    def excess(q):
        moments = quadrature.moments(function, q)
        if not moments.slope:  # of a constant
            return math.inf
        return sigma_b**2 + moments.square / moments.slope - q

    q = quadrature.smallest_root(excess)
    if q == math.inf:
        return q, math.inf, math.inf, math.inf
    moments = quadrature.moments(function, q)
    sigma_w = 1 / math.sqrt(moments.slope)
    return q, sigma_w, sigma_w**2 * moments.slope, sigma_w**2 * moments.change


def variance_map(
    activation: Activation, sigma_w: float, sigma_b: float, q: float
) -> float:
    """Variance of the outputs of a layer whose inputs have variance `q`."""
    _check_deviation("sigma_w", sigma_w)
    _check_deviation("sigma_b", sigma_b)
    if not is_number(q) or q < 0:
        raise ValueError(
            f"`q` is a variance, a number, 0 or more. Received: q={q!r}. Pass for "
            "example q=1.0."
        )
    function = quadrature.with_slopes(activation)
    return sigma_b**2 + sigma_w**2 * quadrature.moments(function, q).square


def fixed_variance(activation: Activation, sigma_w: float, sigma_b: float) -> float:
    """The smallest variance that a layer does not change.

    Returns:
        The variance; 0 if it dies out; infinity if it grows without bound. For a
        positively homogeneous activation with every variance fixed, 1.
    """
    function = quadrature.with_slopes(activation)
    _check_deviation("sigma_w", sigma_w)
    _check_deviation("sigma_b", sigma_b)

    def excess(q):
        return sigma_b**2 + sigma_w**2 * quadrature.moments(function, q).square - q

    return quadrature.smallest_root(excess)


def chi(
    activation: Activation, sigma_w: float, sigma_b: float, q: float | None = None
) -> float:
    """What a layer multiplies squared gradients by, going backward.

    Args:
        activation: A Keras activation, its name, or a function of tensors.
        sigma_w: Standard deviation of a weight times the root of its fan-in.
        sigma_b: Standard deviation of a bias.
        q: Variance of the pre-activations. Default: `fixed_variance`.

    Returns:
        Below 1 in the ordered phase, above 1 in the chaotic one.

    Reference:
        Schoenholz et al., arXiv 1611.01232.
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
    """Correlation of a layer's outputs for two inputs of correlation `c`.

    Args:
        activation, sigma_w, sigma_b, q: As in `chi`.
        c: Correlation of the pre-activations before, -1 <= c <= 1.
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
        variance: That of the variance from its fixed point.
        correlation: That of correlations from 1, and of squared gradients. Infinite
            on the edge of chaos.
    """

    variance: float
    correlation: float


def depth_scales(activation: Activation, sigma_w: float, sigma_b: float) -> DepthScales:
    """How deep a signal reaches: a network much deeper does not train.

    Reference:
        Schoenholz et al., "Deep Information Propagation", arXiv 1611.01232.
    """
    q = _variance(activation, sigma_w, sigma_b)
    moments = quadrature.moments(quadrature.with_slopes(activation), q)
    rates = sigma_w**2 * moments.change, sigma_w**2 * moments.slope
    return DepthScales(*(_scale(rate) for rate in rates))


def _scale(rate):
    distance = abs(math.log(rate)) if rate > 0 else math.inf
    return 1 / distance if distance > SLACK else math.inf


def critical_sparsity_bound(chi: float, depth: int, width: int) -> float:
    """Upper bound on the expected critical sparsity of SBP in the ordered phase.

    (1 + log(k L N^2) / k) / L with k = |log chi| / 8, without the term that vanishes
    for large L N^2.

    Args:
        chi: What a layer multiplies squared gradients by, > 0.
        depth: Number of layers L.
        width: Number of units N of a layer.

    Returns:
        The bound, at most 1, where it says nothing: near or at the edge of chaos.

    Reference:
        Hayou, Ton, Doucet, Teh, arXiv 2002.08797, theorem 1.
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
    """`q`, or the fixed variance; where signals die out, what the limit is taken of."""
    _check_deviation("sigma_w", sigma_w)
    _check_deviation("sigma_b", sigma_b)
    q = fixed_variance(activation, sigma_w, sigma_b) if q is None else q
    if not is_number(q) or q < 0:
        raise ValueError(
            "The variance must be a finite number, 0 or more. "
            f"Received: q={q} for activation={_name(activation)}, sigma_w={sigma_w}, "
            f"sigma_b={sigma_b}, where it may grow from layer to layer. Pass `q`, or "
            "choose a smaller sigma_w."
        )
    return max(q, quadrature.LOWEST)


def _name(activation):
    return getattr(activation, "__name__", activation)


def _check_deviation(name, value):
    if not is_number(value) or not 0 <= value <= LARGEST:
        raise ValueError(
            f"`{name}` is a standard deviation, from 0 to {LARGEST:g}. Received: "
            f"{name}={value!r}. Pass for example {name}=0.2."
        )
