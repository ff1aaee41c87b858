"""`prune_at_init` for models of Keras 2, with the wrappers of tfmot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_prune_init import api
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.layers.filters import Filters
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.walk import walk
from keras_prune_init.masks.allocation import Allocation
from keras_prune_init.masks.densities import Densities
from keras_prune_init.masks.patterns import What
from keras_prune_init.methods import Method, get_method
from keras_prune_init.options import Options
from keras_prune_init.scoring import checks
from keras_prune_init.tfmot import packages, wrappers
from keras_prune_init.tfmot.convert import check_keras2, check_same, converted
from keras_prune_init.tfmot.converter import Converter


@one_at_a_time
def prune_at_init(
    model: Any,
    dataset: Any = None,
    method: str | Method = "snip",
    *,
    sparsity: float = 0.9,
    loss: Any = None,
    what: str | What = "weights",
    allocation: str | Densities | Mapping[str, float] | Allocation = "global",
    batches: int | str | None = "auto",
    samples_per_class: int | None = None,
    filters: Filters = None,
    seed: int = 0,
    verbose: int = 1,
    custom_objects: Mapping[str, Any] | None = None,
) -> Any:
    """Prune a model of Keras 2 (`tf_keras`) before its first training step.

    The model is scored as its twin in Keras 3, see `to_keras3`. The masks are put into
    tfmot's own wrappers, whose schedule never begins, so they stay as they are.
    Everything that tfmot has for pruned models goes on working.

    Args:
        model: A built Sequential or Functional model of `tf_keras`, nested or not. It
            is not changed.
        dataset: A batched `tf.data.Dataset` of `(x, y)`, a tuple of arrays, or a
            `tf_keras.utils.Sequence`. `None` for methods that need no data.
        method: A name of `method_names()`, or a method object. Methods that change the
            network itself, such as `"sbp_sr"`, are refused.
        sparsity: Fraction of all weights that tfmot can prune to remove.
        loss: The loss to differentiate, of either Keras. Default: the model's own.
        what: `"weights"`, blocks such as `"1x4"`, or N of M such as `"2:4"`.
        allocation: How much each layer loses, as in `keras_prune_init.prune_at_init`.
        batches: Number of batches to score on; `None`: all; `"auto"`: as many as the
            method asks for.
        samples_per_class: If given, score on the first so many samples of each class.
        filters: Which layers may be pruned. A function gets layers of Keras 3.
        seed: Seed of methods that draw random numbers.
        verbose: 1 shows a progress bar when scoring takes long, 0 never.
        custom_objects: `{name: class of Keras 3}` for layers of your own.

    Returns:
        A new model of `tf_keras`, in which a `PruneLowMagnitude` of tfmot stands in for
        each pruned layer. It is compiled if `model` was. Train it with the callback
        `tfmot.sparsity.keras.UpdatePruningStep()`, as tfmot demands; removed weights
        are 0 after each epoch, and in each step. tfmot has no wrapper for depthwise
        convolutions and `EinsumDense`; they are not pruned. If the method rescales the
        network, as `"robust"` may, the scale is multiplied into the weights.

    Raises:
        ValueError: As `keras_prune_init.prune_at_init` and `to_keras3`; if the model is
            pruned by tfmot already; if tfmot can prune none of its layers.
        TypeError: If `model` is no model of Keras 2.
        ImportError: If tensorflow-model-optimization is not installed.

    Example:

    >>> import keras_prune_init as kpi
    >>> import tf_keras
    >>> old = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    >>> pruned = kpi.tfmot.prune_at_init(old, method="magnitude", sparsity=0.5)
    >>> type(pruned.layers[0]).__name__, int((pruned.get_weights()[0] == 0).sum())
    ('PruneLowMagnitude', 4)
    """
    packages.tfmot()
    check_keras2(model)
    converter = Converter(True, custom_objects)
    twin = converted(model, converter)
    old = {id(new): layer for layer, new in converter.layers}
    known = {k.path for k in find_kernels(twin) if _has_wrapper(k, old)}
    options = Options(
        sparsity=sparsity,
        loss=converter.objects(loss),
        what=what,
        allocation=allocation,
        batches=batches,
        samples_per_class=samples_per_class,
        filters=filters,
        seed=seed,
        verbose=verbose,
        only=lambda kernel: kernel.path in known,
    )
    _check(twin, method, options)
    if packages.is_keras2(dataset):
        dataset = _batches(dataset)
    pruned = api.pruned(twin, dataset, method, options)
    layers = dict(walk(twin))
    masks: dict[int, dict[int, np.ndarray]] = {}
    values: dict[int, dict[int, np.ndarray]] = {}
    for address, layer in walk(pruned):
        before = layers[address]
        inner = layer.layer if isinstance(layer, MaskedLayer) else layer
        pairs = zip(before.weights, inner.weights, strict=True)
        for position, (weight, new) in enumerate(pairs):
            if not np.array_equal(weight, new):  # the method moved it
                mine = id(old[id(before)])
                values.setdefault(mine, {})[position] = np.asarray(new)
    for kernel in find_kernels(pruned):
        if kernel.mask is not None:
            layer = layers[kernel.address]
            position = _position(layer, kernel)
            mine = id(old[id(layer)])
            masks.setdefault(mine, {})[position] = kernel.mask
            values.setdefault(mine, {})[position] = kernel.effective()
    copy = wrappers.wrapped(model, masks, values)
    check_same(pruned, copy)
    return copy


def _batches(sequence):
    for i in range(len(sequence)):
        yield sequence[i]


def _has_wrapper(kernel, old):
    """Whether tfmot can prune a kernel of the twin."""
    layer = old[id(kernel.layer)]
    weights = {id(w) for w in wrappers.prunable_weights(layer)}
    return id(layer.weights[_position(kernel.layer, kernel)]) in weights


def _position(layer, kernel):
    """Return the position of a kernel among the weights of its layer."""
    path = kernel._replace(layer=layer, wrapper=None).variable
    return next(i for i, w in enumerate(layer.weights) if w is path)


def _check(twin, method, options):
    kernels = checks.prunable_kernels(twin, options.filters)
    if not any(map(options.only, kernels)):
        raise ValueError(
            "tfmot must have a wrapper for at least one kernel. Received: "
            f"{twin.name} with {', '.join(k.path for k in kernels)}. Prune "
            "`to_keras3(model)`, which has masks for all kinds of layers."
        )
    if options.cuts_channels:
        raise ValueError(
            "tfmot's wrappers hold masks, so they cannot cut out channels. Received: "
            "what='channels'. Prune `to_keras3(model)` with it, and pass the result to "
            "`from_keras3`."
        )
    if get_method(method).recipe(twin).model is not twin:
        raise ValueError(
            "tfmot's wrappers hold masks, so the network must stay as it is. Received: "
            f"method={method!r}, which changes the network. Prune `to_keras3(model)` "
            "with it, and train that."
        )
