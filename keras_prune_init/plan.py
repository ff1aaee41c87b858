"""What `prune_at_init` and `score` have in common: from checked arguments to masks."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_prune_init.distribute import workers
from keras_prune_init.layers.kernels import Kernel, find_kernels, scoring_dtype
from keras_prune_init.masks.allocation import Masks
from keras_prune_init.masks.patterns import Units
from keras_prune_init.masks.schedules import check_schedule
from keras_prune_init.masks.top_k import check_finite, check_nonzero, removed_count
from keras_prune_init.methods import Method, Recipe, get_method
from keras_prune_init.options import Options
from keras_prune_init.scoring import checks, first_batch
from keras_prune_init.scoring.batches import size_for, take
from keras_prune_init.scoring.network import Network, Tensors, Values
from keras_prune_init.scoring.objective import Objective
from keras_prune_init.surgery import rebuild
from keras_prune_init.surgery.exchange import check_finished, masked_layers


class Plan(NamedTuple):
    """All that is needed to score and choose; everything is checked.

    `kernels` are those of the recipe's model that may be pruned, and `network` is this
    model with its data. `before` are the masks of a model that is pruned already.
    """

    method: Method
    recipe: Recipe
    kernels: list[Kernel]
    before: Masks
    network: Network
    units: Units
    options: Options

    def kernels_of_pruned(self) -> list[Kernel]:
        """Return the kernels that will have a mask: `kernels`, and old ones."""
        known = {k.path for k in self.kernels}
        found = find_kernels(self.recipe.model) if self.before else []
        others = [k for k in found if k.path in self.before and k.path not in known]
        return [*self.kernels, *others]

    def few_inputs(self) -> Any:
        """Return two samples of the data, or a batch of fixed size, or `None`."""
        if not self.network.batches:
            return None
        x = self.network.batches[0][0]
        sizes = [v.shape[0] for v in getattr(self.recipe.model, "inputs", None) or ()]
        if any(sizes):
            return x
        return keras.tree.map_structure(lambda v: v[:2], x)


def make(
    model: keras.Model, dataset: Any, method: str | Method, options: Options
) -> Plan:
    """Make the plan for checked options; it raises the errors of `prune_at_init`."""
    method = get_method(method)
    check_schedule(method.schedule, method.iterations, options.sparsity)
    before: Masks = {}
    check_finished("prune_at_init", model)
    if masked_layers(model):
        if options.cuts_channels:
            raise ValueError(
                "Channels can be removed only from a model without masks. "
                f"Received: what='channels' and {model.name}, which is pruned. "
                "`shrink` cuts out what its masks disconnect; `strip` it to begin anew."
            )
        # The copy's kernels have the names that the pruned ones go by.
        masks = [(k.path, k.mask) for k in find_kernels(model)]
        before = {path: mask for path, mask in masks if mask is not None}
        model = rebuild.without_masks(model)
    checks.prunable_kernels(model, options.filters, options.fits)
    recipe = method.recipe(model)
    model = recipe.model
    kernels = checks.prunable_kernels(model, options.filters, options.fits)
    options.allocation.check({k.path: k.shape for k in kernels}, options.sparsity)
    units = units_of(model, kernels, options)
    _check_rises(options, kernels, before)
    data: list = []
    objective: Objective | None = None
    if method.needs_data:
        data, objective = _data(model, dataset, method, options, scoring_dtype(kernels))
    checks.check_workers(model, data)
    repeats, quiet = method.iterations, not options.verbose
    network = Network(model, kernels, data, objective, repeats, options.seed, quiet)
    notes = recipe.note, method.remark(network), objective.remark if objective else ""
    recipe = recipe._replace(note=" ".join(filter(None, notes)))
    return Plan(method, recipe, kernels, before, network, units, options)


def units_of(model: keras.Model, kernels: Sequence[Kernel], options: Options) -> Units:
    """Return what can be removed as one from these kernels of a model."""
    given = options.sparsity, options.allocation
    return options.what.units(model, kernels, *given)


class Chosen(NamedTuple):
    """What `run` returns: the scores of the last iteration, and what came of them."""

    scores: dict[str, np.ndarray]
    within: Sequence | None  # the entries they were chosen from; `None`: all
    masks: Masks
    weights: Tensors  # what was scored


def run(plan: Plan) -> Chosen:
    """Score and choose, in all iterations of the method."""
    method, network, units = plan.method, plan.network, plan.units
    strategy, total = network.model.distribute_strategy, method.iterations
    weights, masks = method.start(network), _masks_before(plan)
    quiet = not plan.options.verbose
    for i in tqdm(range(1, total + 1), "scoring", delay=3, disable=quiet):
        within = masks and list(masks.values())  # what is gone stays gone
        scores = units.scores(method, network, weights, within)
        check_finite(scores)
        if i == 1:
            check_nonzero(scores)
        now = float if i == total else functools.partial(method.schedule, i / total)
        masks = units.choose(scores, within, now)
        masks = workers.from_chief(strategy, masks)
        if i < total:
            weights = _left(plan, weights, masks)
    return Chosen(scores, within, masks, weights)


def new_values(plan: Plan, weights: Tensors, masks: Masks) -> Values:
    """Return the values that the method gives to what masks leave of its weights."""
    values = plan.method.update(plan.network, weights, masks)
    arrays = {i: np.asarray(value) for i, (_, value) in enumerate(values)}
    arrays = workers.from_chief(plan.network.model.distribute_strategy, arrays)
    return [(v, arrays[i]) for i, (v, _) in enumerate(values)]


def _left(plan, weights, masks):
    """Return the weights of the next iteration: new ones, and 0 where none are left."""
    values = new_values(plan, weights, masks)
    if values:
        plan.network.set_others(values)
    new = {id(variable): value for variable, value in values}
    left = []
    for k, kernel, w in zip(plan.kernels, plan.network.kernels, weights, strict=True):
        w = tf.cast(new.get(id(kernel.variable), w), w.dtype)
        left.append(tf.where(masks[k.path], w, tf.zeros((), w.dtype)))
    return left


def _masks_before(plan):
    """Return the earlier masks of the kernels to prune; `None`: there are none."""
    if not any(k.path in plan.before for k in plan.kernels):
        return None
    return {
        k.path: plan.before.get(k.path, np.ones(k.shape, bool)) for k in plan.kernels
    }


def _check_rises(options, kernels, masks):
    sparsity = options.sparsity
    if isinstance(options.allocation.rule, Mapping):
        return  # which says more, and is checked with the scores
    removed = sum(np.sum(~masks[k.path]) for k in kernels if k.path in masks)
    total = sum(math.prod(k.shape) for k in kernels)
    if removed > removed_count(sparsity, total):
        raise ValueError(
            "A pruned model keeps its zeros, so `sparsity` cannot be lower now. "
            f"Received: sparsity={sparsity} for kernels of sparsity "
            f"{removed / total:.6g}. Pass more, or `strip` the model to begin anew."
        )


def _data(
    model: keras.Model, dataset: Any, method: Method, options: Options, dtype: str
) -> tuple[list, Objective | None]:
    """Return the batches to score on, and the objective to differentiate, if any."""
    if dataset is None:
        raise ValueError(
            "This method needs data. "
            f"Received: method={type(method).__name__}, dataset=None. Pass a dataset, "
            "or use 'synflow', 'magnitude' or 'random'."
        )
    tried: list[Objective] = []

    def inspect(batch):
        if not method.needs_loss and not options.samples_per_class:
            first_batch.run(model, batch[0])
            return
        objective = first_batch.objective_of(model, options.loss, batch)
        tried.append(objective)
        if options.samples_per_class:
            return first_batch.classes(objective.example[-1], batch[1])

    auto = options.batches == "auto"
    batches: Any = method.batches if auto else options.batches
    each, size = options.samples_per_class, size_for(model)
    data = take(dataset, inspect, batches, each, dtype, size, at_most=auto)
    if not tried:
        return data, None
    [objective] = tried
    first_batch.check_others(objective, data)
    return data, objective
