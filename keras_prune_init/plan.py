"""What `prune_at_init` and `score` do, from checked arguments to masks."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
from tqdm.auto import tqdm

from keras_prune_init import batches as batches_lib
from keras_prune_init import checks, first_batch
from keras_prune_init.core import allocation as allocation_lib
from keras_prune_init.core import granularity as granularity_lib
from keras_prune_init.core import masks as masks_lib
from keras_prune_init.core import structured
from keras_prune_init.core.schedules import check_schedule
from keras_prune_init.core.selection import Kernel, scoring_dtype
from keras_prune_init.distribute import workers
from keras_prune_init.methods import Method, Recipe, get_method
from keras_prune_init.tape import Network


class Plan(NamedTuple):
    """All arguments, checked.

    Attributes:
        method: What scores.
        recipe: What it makes of the model, besides.
        kernels: Those of the recipe's model that may be pruned.
        network: The recipe's model with its data.
        units: What is removed as one.
        sparsity, verbose: As in `prune_at_init`.
    """

    method: Method
    recipe: Recipe
    kernels: list[Kernel]
    network: Network
    units: granularity_lib.Weights | structured.Channels
    sparsity: float
    verbose: int


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
    allocation_lib.check_arguments(sparsity, allocation, min_per_layer)
    check_schedule(method.schedule, method.iterations, sparsity)
    structured.check_arguments(granularity, budget, multiple_of)
    units = None
    if granularity != "channel":
        units = granularity_lib.make(granularity, sparsity, allocation, min_per_layer)
    fits = units.fits if units else lambda kernel: True
    checks.prunable_kernels(model, filters, fits)
    recipe = method.recipe(model)
    model = recipe.model
    kernels = checks.prunable_kernels(model, filters, fits)
    if units is None:
        units = structured.Channels(
            model, kernels, sparsity, allocation, min_per_layer, budget, multiple_of
        )
    data, objective = [], None
    if method.needs_data:
        dtype = scoring_dtype(kernels)
        data, objective = _data(
            model, method, dataset, loss, batches, samples_per_class, dtype
        )
    checks.check_workers(model, data)
    network = Network(model, kernels, data, objective, method.iterations)
    recipe = recipe._replace(note=f"{recipe.note} {method.remark(network)}".strip())
    return Plan(method, recipe, kernels, network, units, sparsity, verbose)


def run(plan: Plan) -> tuple[dict, list | None, dict]:
    """The last scores, what they were chosen from (`None`: all), the final masks."""
    method, network, units = plan.method, plan.network, plan.units
    strategy = network.model.distribute_strategy
    weights, masks, total = method.start(network), None, method.iterations
    for i in tqdm(range(1, total + 1), "scoring", delay=3, disable=not plan.verbose):
        within = masks and list(masks.values())  # what is gone stays gone
        scores = units.scores(method, network, weights, within)
        masks_lib.check_finite(scores)
        if masks is None:
            masks_lib.check_nonzero(scores)
        last = i == total
        target = plan.sparsity if last else method.schedule(i / total, plan.sparsity)
        masks = units.choose(scores, target, within)
        masks = workers.from_chief(strategy, masks)
        if not last:
            weights = [
                tf.where(masks[k.path], w, tf.zeros((), w.dtype))
                for k, w in zip(plan.kernels, weights, strict=True)
            ]
    return scores, within, masks


def _method(method, iterations, schedule, batch_norm, seed):
    options = {"iterations": iterations, "schedule": schedule, "batch_norm": batch_norm}
    options = {k: v for k, v in options.items() if v is not None}
    if method == "random":
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

    data = batches_lib.take(dataset, inspect, batches, samples_per_class, dtype)
    return data, objective
