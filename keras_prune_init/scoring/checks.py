"""Whether a model can be pruned at all, checked before any work."""

from __future__ import annotations

import os
from collections.abc import Callable

import keras
import numpy as np

from keras_prune_init._arguments import check_model
from keras_prune_init.distribute import workers
from keras_prune_init.layers.filters import Filters
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.prunable import prunable


def prunable_kernels(
    model: keras.Model,
    filters: Filters = None,
    fits: Callable[[Kernel], bool] = lambda kernel: True,
) -> list[Kernel]:
    """Return the kernels to prune: they pass `filters` and consist of whole units."""
    check_model(model)
    kernels, skipped = prunable(model, filters)
    if not kernels:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped)
        raise ValueError(
            "The model must have at least one layer that can be pruned. "
            f"Received: {model.name}, without any ({reasons or 'no weights at all'}). "
            "Give it one with a kernel, change `filters`, or call `register_layer`."
        )
    fitting = [k for k in kernels if fits(k)]
    if not fitting:
        raise ValueError(
            "In at least one layer, the numbers of inputs and outputs must be "
            f"multiples of what `what` says. Received: {model.name}, whose kernels "
            f"have shapes {', '.join(str(k.shape) for k in kernels)}. "
            "Choose another `what`."
        )
    return fitting


def check_memory(needed: float, what: str, advice: str) -> None:
    """Raise a ValueError if this machine does not have so many bytes of memory."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        sizes = f"{needed / 2**30:,.1f} GiB where {there / 2**30:,.1f} are"
        raise ValueError(f"{what}: {sizes}. {advice}")


def check_workers(model: keras.Model, data: list) -> None:
    """Check that all workers of a strategy score the same weights on the same data."""
    strategy = model.distribute_strategy
    values = (keras.ops.convert_to_numpy(v) for v in model.weights)
    advice = "Make the model in `strategy.scope()`, or from the same seed."
    workers.check_same(strategy, "weights", values, advice)
    values = (np.asarray(v) for v in keras.tree.flatten(data) if v is not None)
    advice = "Pass the whole dataset, not a shard; batches are dealt out by number."
    workers.check_same(strategy, "batches to score on", values, advice)
