"""Whether a model and its data can be pruned at all, asked before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_prune_init.core import selection, surgery
from keras_prune_init.core.given import check_model
from keras_prune_init.core.selection import Filters, Kernel
from keras_prune_init.distribute import workers


def prunable_kernels(
    model: keras.Model,
    filters: Filters = None,
    fits: Callable[[Kernel], bool] = lambda kernel: True,
) -> list[Kernel]:
    """The kernels to prune: those that pass `filters` and fit the granularity.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, pruned already, or has nothing to prune.
    """
    check_model(model)
    if surgery.masked_layers(model):
        raise ValueError(
            "A model can be pruned once. "
            f"Received: {model.name}, which has MaskedLayers already. Prune the model "
            "that it was made from, or `strip` it first."
        )
    kernels, skipped = selection.find_kernels(model, filters)
    if not kernels:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped)
        raise ValueError(
            "The model must have at least one layer that can be pruned. "
            f"Received: {model.name}, without any ({reasons or 'no weights at all'})."
        )
    fitting = [k for k in kernels if fits(k)]
    if not fitting:
        raise ValueError(
            "The numbers of inputs and outputs must be multiples of what `granularity` "
            f"says, of one layer at least. Received: {model.name}, whose kernels have "
            f"shapes {', '.join(str(tuple(k.variable.shape)) for k in kernels)}."
        )
    return fitting


def output_shapes(model: keras.Model, x: Any):
    """Shape of the model's output for inputs `x`, or a structure of shapes.

    Raises:
        ValueError: If `x` does not look like a batch of the model's inputs.
    """
    if not selection.is_graph(model):
        specs = keras.tree.map_structure(
            lambda v: keras.KerasTensor(
                v.shape, keras.backend.standardize_dtype(v.dtype)
            ),
            x,
        )
        specs = model.compute_output_spec(specs)
        return keras.tree.map_structure(lambda v: tuple(v.shape), specs)
    given, wanted = keras.tree.flatten(x), model.inputs
    if len(given) != len(wanted):
        raise ValueError(
            "The dataset must give one array for each input of the model. "
            f"Received: {len(given)} arrays for {len(wanted)} inputs."
        )
    for array, tensor in zip(given, wanted, strict=True):
        _check_input(np.shape(array), tuple(tensor.shape))
    return model.output_shape


def _check_input(shape, wanted):
    if len(shape) == len(wanted) - 1:
        raise ValueError(
            "The dataset must be batched: the first axis of x counts samples. "
            f"Received: x of shape {tuple(shape)} for an input of shape {wanted}. "
            "Call `dataset.batch(128)`."
        )
    fits = len(shape) == len(wanted) and all(
        n is None or m == n for m, n in zip(shape[1:], wanted[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            "x must have the shape of the model's input. "
            f"Received: x of shape {tuple(shape)} for an input of shape {wanted}."
        )


def check_batched(y: Any) -> None:
    if any(np.ndim(v) == 0 for v in keras.tree.flatten(y)):
        raise ValueError(
            "The dataset must be batched: the first axis of y counts samples. "
            "Received: a scalar label. Call `dataset.batch(128)`."
        )


def check_workers(model: keras.Model, data: list) -> None:
    """See that all workers of a strategy score the same weights on the same data."""
    strategy = model.distribute_strategy
    values = (keras.ops.convert_to_numpy(v) for v in model.weights)
    advice = "Make the model in `strategy.scope()`, or from the same seed."
    workers.check_same(strategy, "weights", values, advice)
    values = (np.asarray(v) for v in keras.tree.flatten(data) if v is not None)
    advice = "Pass the whole dataset, not a shard; batches are dealt out by number."
    workers.check_same(strategy, "batches to score on", values, advice)
