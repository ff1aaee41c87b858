"""`add_gates`: put hard-concrete gates into a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_prune_init._arguments import REST, by_pattern, check_model, check_pattern
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.gates.hardening import opened
from keras_prune_init.gates.options import Options, check_options
from keras_prune_init.gates.places import bias_of, gate_axes
from keras_prune_init.layers.compact import CompactLayer
from keras_prune_init.layers.filters import Filters
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.scoring.checks import prunable_kernels
from keras_prune_init.surgery import exchange, rebuild
from keras_prune_init.surgery.agreement import check_copy

PerKernel = float | Mapping[str, float]


@one_at_a_time
def add_gates(
    model: keras.Model,
    what: str = "inputs",
    *,
    penalty: PerKernel,
    data_size: int,
    drop: PerKernel = 0.5,
    weight_decay: float = 0.0,
    filters: Filters = None,
    seed: int = 0,
) -> keras.Model:
    """Put gates into a model, which learn in training what to remove.

    Use it for small networks whose size shall follow from the data: the number of kept
    weights is an outcome, and `penalty` steers it. Train the new model with `fit` as
    usual, then call `harden`. Each training step draws the gates, and what is open in
    expectation is added to the loss:

        penalty / data_size * sum over gates of count * P(open)
        + weight_decay / 2 * sum over gates of P(open) * sum of squared weights

    `count` is the number of weights that a gate holds. So `penalty` is comparable with
    a loss that is summed over the data; the loss of `fit` is a mean. `weight_decay` is
    not divided by `data_size`. Gates move slowly: train for at least as long as a dense
    network. On ResNet-50 the method is known to fail (Gale, Elsen, Hooker, 2019, arXiv
    1902.09574).

    Args:
        model: A built Keras model. It is not changed. If it is pruned, weights that
            were removed stay removed, and do not count.
        what: What one gate opens and closes. `"inputs"`: an input unit of a dense
            layer, or an input channel of a convolution. `"channels"`: an output unit or
            map, with its bias, which counts as one of its weights. `"weights"`: a
            single weight. A kernel of a layer with several (separable convolutions,
            attention, recurrent layers) has gates of its own.
        penalty: Cost of each open weight: a number, or a dict from pattern to number
            such as `{"conv1": 10.0, "*": 1.0}`. Its keys are regular expressions that
            are searched in the paths of kernels. The first key that is found counts,
            and `"*"` is for all others.
        data_size: Number of training examples, by which the penalty is divided.
        drop: Probability at the start that a gate is below 1/2 in training, from 0.01
            to 0.99; a number or a dict like `penalty`. The authors take 0.5, and 0.2
            for the first layer.
        weight_decay: Factor of w ** 2 / 2 of each weight behind an open gate. Use it in
            place of the optimizer's, which would also pull gates to 1/2.
        filters: Which layers get gates, as in `prune_at_init`.
        seed: Seed of the gates at the start, and of the draws.

    Returns:
        A new model of the same class, in which a `GatedLayer` stands in for each layer
        with gates. It is compiled if `model` was, with a fresh optimizer. Its outputs
        in inference differ from those of `model`, as gates begin half open.

    Raises:
        ValueError: If an argument or a layer does not fit (the message names it), or
            the model has gates already.
        TypeError: If `model` is no Keras model, or `filters` has no such type.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> gated = kpi.add_gates(model, "inputs", penalty=1.0, data_size=32)
    >>> gated.compile("adam", "mse")
    >>> x, y = np.random.rand(32, 4), np.random.rand(32, 2)
    >>> _ = gated.fit(x, y, epochs=2, verbose=0)
    >>> kpi.report(kpi.harden(gated)).kept  # as it has barely begun
    48

    Reference:
        Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0
        Regularization", 2018, arXiv 1712.01312.
    """
    check_model(model)
    check_options(Options(what, penalty, data_size, drop, weight_decay, seed))
    exchange.check_finished("add_gates", model)
    kernels = prunable_kernels(model, filters)
    for kernel in kernels:
        _check_kernel(kernel, what)
    penalties = _numbers("penalty", penalty, kernels)
    drops = _numbers("drop", drop, kernels)
    wrappers: dict[int, dict[str, Any]] = {}
    for kernel, cost, low in zip(kernels, penalties, drops, strict=True):
        own = Options(what, {}, data_size, {}, weight_decay, seed)._asdict()
        own |= {"layout": "gated", "note": f"Hard-concrete gates on {what}."}
        own |= {"kernels": [], "paths": []}
        options = wrappers.setdefault(id(kernel.wrapper or kernel.layer), own)
        options["kernels"].append(kernel.name)
        options["paths"].append(kernel.path)
        options["penalty"][kernel.name] = cost
        options["drop"][kernel.name] = low
    gated = rebuild.copy_model(model, change=_gating(wrappers))
    check_copy(model, gated, state=opened(gated))
    return gated


def _check_kernel(kernel: Kernel, what: str):
    """Raise a ValueError if a kernel cannot get gates."""
    gate_axes(kernel.layer, kernel.name, what)
    if what == "channels":
        bias_of(kernel.layer, kernel.name)
    if isinstance(kernel.wrapper, CompactLayer):
        raise ValueError(
            f"Gates need whole kernels. Received: {kernel.path}, in the layout "
            f"{kernel.wrapper.computes!r}. Call `to_layout(model, 'masked')` first."
        )
    names = kernel.wrapper.kernels if kernel.wrapper else [kernel.name]
    frozen = [n for n in names if not get_kernel(kernel.layer, n).trainable]
    if frozen:
        raise ValueError(
            "Gates are trained together with their weights. Received: "
            f"{kernel.path}, in `{kernel.layer.name}`, where {', '.join(frozen)} is "
            "frozen. Leave it out with `filters`, or let it be trained."
        )


def _numbers(name, value, kernels):
    """Return a number for each kernel."""
    paths = [k.path for k in kernels]
    if not isinstance(value, Mapping):
        return [value] * len(paths)
    for pattern in value:
        if pattern != REST:
            rule = f"A dict `{name}` has regular expressions as keys"
            check_pattern(rule, pattern)
    found = by_pattern(name, value, paths)
    if None in found:
        raise ValueError(
            f"A dict `{name}` must have a number for every kernel with gates. "
            f"Received: {name}={value!r}, which has none for "
            f"{paths[found.index(None)]}. Add the key '*' for all others, or leave "
            "kernels out with `filters`."
        )
    return found


def _gating(wrappers):
    """Put layers, masked or not, in wrappers with gates."""
    plain = exchange.masking(wrappers)

    def change(layer, copier):
        if not isinstance(layer, MaskedLayer) or id(layer) not in wrappers:
            return plain(layer, copier)
        values = {name: layer.kernel_value(name) for name in layer.kernels}
        inner = exchange.unwrapped(layer, copier, values)
        return exchange.wrapped_like(layer, inner, **wrappers[id(layer)])

    return change
