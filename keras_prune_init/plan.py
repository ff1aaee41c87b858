"""What `prune_at_init` and `score` do, from checked arguments to masks."""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_prune_init._arguments import check_flag, check_whole
from keras_prune_init.channels.choosing import Channels
from keras_prune_init.distribute import workers
from keras_prune_init.layers.kernels import Kernel, find_kernels, scoring_dtype
from keras_prune_init.layers.prunable import prunable
from keras_prune_init.layers.walk import is_graph
from keras_prune_init.masks import patterns
from keras_prune_init.masks.allocation import check_arguments
from keras_prune_init.masks.schedules import check_schedule
from keras_prune_init.masks.top_k import check_finite, check_nonzero, removed_count
from keras_prune_init.methods import Method, Recipe, get_method
from keras_prune_init.scoring import checks, first_batch
from keras_prune_init.scoring.batches import ARRAY_BATCH, take
from keras_prune_init.scoring.network import Network
from keras_prune_init.surgery import rebuild


class Plan(NamedTuple):
    """All arguments, checked.

    Attributes:
        method: What scores.
        recipe: What it makes of the model, besides.
        kernels: Those of the recipe's model that may be pruned.
        before: `{kernel path: mask}` of a model that is pruned already.
        network: The recipe's model with its data.
        units: What is removed as one.
        sparsity, verbose: As in `prune_at_init`.
    """

    method: Method
    recipe: Recipe
    kernels: list[Kernel]
    before: dict[str, np.ndarray]
    network: Network
    units: patterns.Weights | Channels
    sparsity: float
    verbose: int

    def kernels_of_pruned(self) -> list[Kernel]:
        """Those that will have a mask: these, and others that had one before."""
        known = {k.path for k in self.kernels}
        found = prunable(self.recipe.model)[0] if self.before else []
        others = [k for k in found if k.path in self.before and k.path not in known]
        return [*self.kernels, *others]

    def few_inputs(self):
        """Two samples of the data, or a batch if its size is fixed; `None` without."""
        if not self.network.batches:
            return None
        x = self.network.batches[0][0]
        sizes = [v.shape[0] for v in getattr(self.recipe.model, "inputs", None) or ()]
        if any(sizes):
            return x
        return keras.tree.map_structure(lambda v: v[:2], x)


def make(
    model,
    dataset,
    method,
    *,
    sparsity,
    loss,
    allocation,
    iterations,
    schedule,
    batches,
    samples_per_class,
    batch_norm,
    min_per_layer,
    filters,
    seed,
    verbose,
    granularity="weight",
    budget="params",
    multiple_of=1,
) -> Plan:
    """Check the arguments of `prune_at_init`; raises as it does."""
    method = _method(method, iterations, schedule, batch_norm, seed)
    check_arguments(sparsity, allocation, min_per_layer)
    check_schedule(method.schedule, method.iterations, sparsity)
    check_flag("verbose", verbose)
    check_whole("seed", seed, 0)
    units = None
    if granularity != "channel":
        units = patterns.make(granularity, sparsity, allocation, min_per_layer)
    fits = units.fits if units else lambda kernel: True
    given_masks = {}
    if isinstance(model, keras.Model) and rebuild.masked_layers(model):
        model, given_masks = _stripped(model, granularity)
    checks.prunable_kernels(model, filters, fits)
    recipe = method.recipe(model)
    model = recipe.model
    kernels = checks.prunable_kernels(model, filters, fits)
    if units is None:
        units = Channels(
            model, kernels, sparsity, allocation, min_per_layer, budget, multiple_of
        )
    _check_rises(sparsity, kernels, given_masks)
    data, objective = [], None
    if method.needs_data:
        dtype = scoring_dtype(kernels)
        data, objective = _data(
            model, method, dataset, loss, batches, samples_per_class, dtype
        )
    checks.check_workers(model, data)
    network = Network(model, kernels, data, objective, method.iterations)
    notes = recipe.note, method.remark(network), objective.remark if objective else ""
    recipe = recipe._replace(note=" ".join(filter(None, notes)))
    return Plan(method, recipe, kernels, given_masks, network, units, sparsity, verbose)


def run(plan: Plan) -> tuple[dict, list | None, dict]:
    """The last scores, what they were chosen from (`None`: all), the final masks."""
    method, network, units = plan.method, plan.network, plan.units
    strategy = network.model.distribute_strategy
    weights, masks, total = (
        method.start(network),
        _masks_before(plan),
        method.iterations,
    )
    least = _sparsity(masks) if masks else 0.0
    for i in tqdm(range(1, total + 1), "scoring", delay=3, disable=not plan.verbose):
        within = masks and list(masks.values())  # what is gone stays gone
        scores = units.scores(method, network, weights, within)
        check_finite(scores)
        if i == 1:
            check_nonzero(scores)
        last = i == total
        target = plan.sparsity
        if not last:
            target = float(method.schedule(i / total, plan.sparsity))
        masks = units.choose(scores, max(target, least), within)
        masks = workers.from_chief(strategy, masks)
        if not last:
            weights = [
                tf.where(masks[k.path], w, tf.zeros((), w.dtype))
                for k, w in zip(plan.kernels, weights, strict=True)
            ]
    return scores, within, masks


def _stripped(model, granularity):
    """A pruned model without its wrappers, and its masks by path of the kernel."""
    if granularity == "channel":
        raise ValueError(
            "Channels are removed from a model without masks. "
            f"Received: granularity='channel' and {model.name}, which is pruned. "
            "`shrink` cuts out what its masks disconnect; `strip` it to begin anew."
        )
    # The copy's kernels have the names that the pruned ones go by.
    masks = {k.path: k.mask for k in find_kernels(model) if k.wrapper}
    return rebuild.strip(model), masks


def _masks_before(plan):
    """The masks to go on from, of the kernels to prune; `None` if there are none."""
    if not any(k.path in plan.before for k in plan.kernels):
        return None
    return {
        k.path: plan.before.get(k.path, np.ones(k.shape, bool)) for k in plan.kernels
    }


def _sparsity(masks):
    kept = sum(np.count_nonzero(mask) for mask in masks.values())
    return 1 - kept / sum(mask.size for mask in masks.values())


def _check_rises(sparsity, kernels, masks):
    sizes = {k.path: math.prod(k.shape) for k in kernels}
    removed = sum(
        n - np.count_nonzero(masks[p]) for p, n in sizes.items() if p in masks
    )
    total = sum(sizes.values())
    if removed > removed_count(sparsity, total):
        raise ValueError(
            "Pruning a pruned model goes on from its masks, so `sparsity` rises. "
            f"Received: sparsity={sparsity} for kernels of sparsity "
            f"{removed / total:.6g}. Pass more, or `strip` the model to begin anew."
        )


def _method(method, iterations, schedule, batch_norm, seed):
    options = {"iterations": iterations, "schedule": schedule, "batch_norm": batch_norm}
    options = {k: v for k, v in options.items() if v is not None}
    if isinstance(method, str) and method == "random":
        options["seed"] = seed
    return get_method(method, **options)


def _data(model, method, dataset, loss, batches, samples_per_class, dtype):
    if dataset is None:
        raise ValueError(
            "This method differentiates the loss, so it needs data. "
            f"Received: method={type(method).__name__}, dataset=None. Pass a dataset, "
            "or use 'synflow', 'magnitude' or 'random'."
        )
    objective = None

    def inspect(batch):
        nonlocal objective
        objective = first_batch.objective_of(model, loss, batch)
        if samples_per_class:
            return first_batch.classes(objective.example[-1], batch[1])

    size = ARRAY_BATCH
    if is_graph(model) and model.inputs:
        size = model.inputs[0].shape[0] or size
    data = take(dataset, inspect, batches, samples_per_class, dtype, size)
    first_batch.check_others(objective, data)
    return data, objective
