"""Copy a model with its weights: put `MaskedLayer`s in, take them out again."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_prune_init._arguments import check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.distribute import replicas, workers
from keras_prune_init.layers.kernel_paths import get_kernel, kernel_names
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.penalized import PenalizedLayer
from keras_prune_init.layers.walk import walk
from keras_prune_init.surgery import composites, exchange
from keras_prune_init.surgery.agreement import check_copy
from keras_prune_init.surgery.copier import Copier
from keras_prune_init.surgery.exchange import masked_layers


@contextlib.contextmanager
def preserved_random_state():
    """Undo the draws of random numbers inside; Keras draws one for each layer."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def copy_model(
    model: keras.Model,
    dtype: str | None = None,
    change: exchange.Change | None = None,
    call: Callable | None = None,
    scope: bool = True,
) -> keras.Model:
    """Return a copy of a model with its weights.

    `dtype`, `change` and `call` are those of `Copier`. `call` is needed if layers have
    other shapes. The copy belongs to the strategy of the model if `scope` is true.
    """
    inside = replicas.scope(model) if scope else contextlib.nullcontext()
    with preserved_random_state(), inside:
        new = Copier(model, change, call, dtype)(model)
        if call is not None:
            composites.remember_graphs(model, new)
        composites.remember_masks(new)
        return enable_workers(new) if scope else new


def wrap(
    model: keras.Model,
    kernels: Iterable[Kernel],
    note: str = "",
    layout: str | Mapping[str, str] = "masked",
) -> keras.Model:
    """Copy a model with wrappers around the given kernels.

    `layout` is that of all layers, or of the layer of each kernel by its path. The
    wrappers remove nothing yet. In the layout `"compact"` they cannot run before
    `set_masks`.
    """
    wrappers: dict[int, dict] = {}
    for kernel in kernels:
        own = layout if isinstance(layout, str) else layout[kernel.path]
        options = {"layout": own, "kernels": [], "note": note, "paths": []}
        wrapper = wrappers.setdefault(id(kernel.layer), options)
        wrapper["kernels"].append(kernel.name)
        wrapper["paths"].append(kernel.path)
    return copy_model(model, change=exchange.masking(wrappers))


def set_masks(
    pruned: keras.Model, kernels: Iterable[Kernel], masks: Mapping[str, np.ndarray]
) -> None:
    """Set masks and kept weights of a model that `wrap` made, for the same kernels."""
    layers = dict(walk(pruned))
    with replicas.scope(pruned):
        for kernel in kernels:
            mask, value = masks[kernel.path], kernel.variable.value
            layers[kernel.address].install(kernel.name, mask, value)


def set_values(
    model: keras.Model,
    source: keras.Model,
    values: Iterable[tuple[keras.Variable, Any]],
) -> None:
    """Give a copy of `source`, pruned or not, new values of variables of `source`.

    What masks remove stays 0.
    """
    places = _places(model, source)
    with replicas.scope(model):
        for variable, value in values:
            for assign in places[id(variable)]:
                assign(np.asarray(value, variable.dtype))


def _places(model, source):
    """Return what assigns a variable of `source` in its copy, by id; more if shared."""
    places: dict[int, list[Callable]] = {}
    layers = dict(walk(model))
    for address, layer in walk(source):
        copy, names = layers[address], kernel_names(layer)
        masked = isinstance(copy, MaskedLayer)
        inner = copy.layer if masked else copy
        kernels = {
            id(get_kernel(one, name)) for one in (layer, inner) for name in names
        }
        for name in names:
            kernel, new = get_kernel(layer, name), get_kernel(inner, name)
            if not isinstance(kernel, keras.Variable):  # made in each call, as by LoRA
                continue
            if masked and name in copy.kernels:
                assign = functools.partial(copy.set_kernel, name)
            else:
                assign = new.assign
            places.setdefault(id(kernel), []).append(assign)
        # A wrapper moves kernels, so only the others are in the same order.
        others = (
            [v for v in one.weights if id(v) not in kernels] for one in (layer, inner)
        )
        for variable, other in zip(*others, strict=True):
            places.setdefault(id(variable), []).append(other.assign)
    return places


@one_at_a_time
def strip(model: keras.Model) -> keras.Model:
    """Turn a pruned model into one of ordinary layers, for inference and export.

    Args:
        model: A model from `prune_at_init`, trained or not.

    Returns:
        A new model without `MaskedLayer`s, whose kernels are `kernel * mask * scale`.
        Its outputs are those of `model` up to rounding.

    Raises:
        ValueError: If the model has no `MaskedLayer`, or is in training by
            `callbacks.LearningCompression`, which removes weights in the end.
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.75)
    >>> [type(layer).__name__ for layer in kpi.strip(pruned).layers[1:]]
    ['Dense', 'Dense']
    """
    exchange.check_pruned("strip", model)
    exchange.check_finished("strip", model, PenalizedLayer)
    # It leaves its strategy: one process of several may want it.
    return without_masks(model, scope=False)


def without_masks(model: keras.Model, scope: bool = True) -> keras.Model:
    """Return a copy of ordinary layers, in the strategy of the model with `scope`."""
    plain = copy_model(model, change=exchange.folded, scope=scope)
    check_copy(model, plain)
    return plain


def enable_workers(model: keras.Model) -> keras.Model:
    """Let `fit` of a loaded model run on several workers.

    Models from `prune_at_init` need no call. Keras 3.15 cannot `fit` under a
    `MultiWorkerMirroredStrategy` by itself (keras-team/keras issue 20585); this works
    around it.

    Args:
        model: A model that was made or loaded in the scope of a
            `tf.distribute.MultiWorkerMirroredStrategy`. Other models are not changed.

    Returns:
        The same model.

    Raises:
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras
    >>> import tensorflow as tf
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.75)
    >>> pruned.save("pruned.keras")
    >>> strategy = tf.distribute.get_strategy()  # or MultiWorkerMirroredStrategy()
    >>> with strategy.scope():
    ...     loaded = kpi.enable_workers(keras.models.load_model("pruned.keras"))
    >>> kpi.report(loaded).sparsity
    0.75
    """
    check_model(model, built=False)

    def fixed():
        return [v for layer in masked_layers(model) for v in layer.fixed]

    workers.enable_fit(model, fixed)
    return model
