"""`factorize`: put two smaller layers in the place of layers of low rank."""

from __future__ import annotations

import keras

from keras_prune_init._arguments import check_weights, is_number
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.factorize.matrices import matrix_kernels
from keras_prune_init.factorize.pairs import with_pairs
from keras_prune_init.factorize.ranks import Factors, factors
from keras_prune_init.layers.filters import Filters
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.layers.walk import Address
from keras_prune_init.reports.cost import KernelCost, cost, known_sum


@one_at_a_time
def factorize(
    model: keras.Model,
    energy: float = 0.9,
    *,
    form: str = "pointwise",
    filters: Filters = None,
) -> keras.Model:
    """Replace layers by two smaller ones each, of the lowest rank that keeps an energy.

    Use it after training with `callbacks.CompressionAware`, which lowers the ranks, or
    on any trained model, and train a little more afterwards. The kernel of a layer is a
    matrix whose singular values say what each rank is worth. A layer is replaced where
    two layers have fewer weights and multiply-adds than one. `factorize_report` tells
    what it does, layer by layer.

    Dense, Conv1D, Conv2D and Conv3D are replaced, in Sequential, Functional and
    subclassed models, nested and shared too. The second of the two layers has the bias,
    the activation and the rest of what the layer does. Both have the regularizer of the
    kernel. Layers with groups or a constraint on the kernel stay, and so do layers that
    share a variable, or lie inside of Keras's own layers.

    Args:
        model: A built model without masks. It is not changed.
        energy: Fraction of the sum of squares of a kernel's singular values that is
            kept, above 0 and up to 1. With 1, only values as small as rounding go.
        form: `"pointwise"`: a convolution of k x k becomes one of k x k to few channels
            and one of 1 x 1. `"separable"`: a `Conv2D` becomes one of k x 1 and one of
            1 x k.
        filters: Which layers may be replaced: a part of their names (a regular
            expression), a list of these, or a function from layer to bool.

    Returns:
        A new model, in which a Sequential model of two layers has the place and the
        name of each replaced layer. It is compiled if `model` was, with a fresh
        optimizer.

    Raises:
        ValueError: If an argument is out of its range, the model is pruned, no layer
            that may be replaced has a matrix, or the new model does not compute what it
            should. Then code of your own may read a kernel, or one Dense layer gets
            inputs with different numbers of axes: leave such layers out by `filters`.
        FloatingPointError: If a weight is NaN or infinite.
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    >>> model.set_weights([np.outer(range(8), range(8)), np.zeros(8)])  # of rank 1
    >>> small = kpi.factorize(model, energy=1.0)
    >>> model.count_params(), small.count_params()
    (72, 24)

    Reference:
        Alvarez, Salzmann, 2017, arXiv 1711.02638.
    """
    small, _, _ = factorized("factorize", model, energy, form, filters)
    return small


def factorized(
    function: str, model: keras.Model, energy: float, form: str, filters: Filters
) -> tuple[keras.Model, list[tuple[Factors, bool]], list[tuple[str, str]]]:
    """Return the smaller model, `(factors, whether used)`, and what was left out."""
    if not is_number(energy) or not 0 < energy <= 1:
        raise ValueError(
            "`energy` must be a number above 0 and up to 1. Received: "
            f"energy={energy!r}. Pass for example energy=0.9."
        )
    kernels, skipped = matrix_kernels(function, model, form, filters)
    check_weights(function, {kernel.path: kernel.value for kernel in kernels})
    found = [factors(kernel, energy, form) for kernel in kernels]
    used = [one for one in found if one.cheaper]
    small = with_pairs(model, used)
    if form == "separable":  # where strides and borders leave more to the first layer
        before, after = costs_of(model), costs_of(small)
        rest = [f for f in used if not _dearer(f.kernel.address, before, after)]
        if len(rest) < len(used):
            used, small = rest, with_pairs(model, rest)
    chosen = {id(one) for one in used}
    return small, [(one, id(one) in chosen) for one in found], skipped


def costs_of(model: keras.Model) -> dict[Address, KernelCost]:
    """Return what each kernel costs, by the address of its layer."""
    pairs = zip(find_kernels(model), cost(model).kernels, strict=True)
    return {kernel.address: found for kernel, found in pairs}


def macs_of_pair(address: Address, costs: dict[Address, KernelCost]) -> int | None:
    """Return the multiply-adds of the two layers in the place of one, if known."""
    return known_sum(costs[*address, str(i)].macs for i in range(2))


def _dearer(address, before, after):
    old, new = before[address].macs, macs_of_pair(address, after)
    return None not in (old, new) and new >= old
