"""`prune_at_init` and `score`: the story of the package in one page."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm.auto import tqdm

from keras_prune_init import batches as batches_lib
from keras_prune_init import checks, losses
from keras_prune_init.core import allocation as allocation_lib
from keras_prune_init.core import copying, garbage, layouts, structured, surgery
from keras_prune_init.core import granularity as granularity_lib
from keras_prune_init.core import masks as masks_lib
from keras_prune_init.core.schedules import Schedule
from keras_prune_init.core.selection import Filters, Kernel, scoring_dtype
from keras_prune_init.distribute import workers
from keras_prune_init.methods import Method, Recipe, get_method
from keras_prune_init.signal import rescaling
from keras_prune_init.tape import Network


@garbage.old_objects_aside()
def prune_at_init(
    model: keras.Model,
    dataset=None,
    method: str | Method = "snip",
    *,
    sparsity: float = 0.9,
    loss: Any = None,
    allocation: str = "global",
    iterations: int | None = None,
    schedule: Schedule | None = None,
    batches: int | None = 1,
    samples_per_class: int | None = None,
    batch_norm: str | None = None,
    min_per_layer: int = 0,
    rescale: bool = False,
    filters: Filters = None,
    layout: str = "masked",
    granularity: str = "weight",
    budget: str = "params",
    multiple_of: int = 1,
    seed: int = 0,
    verbose: int = 1,
) -> keras.Model:
    """Prune a model before its first training step.

    Args:
        model: A built Keras model: Sequential, Functional or subclassed. It is not
            changed. Its weights, pretrained or not, go to the new model.
        dataset: A batched `tf.data.Dataset` of `(x, y)`, a tuple of arrays, of which
            batches of 128 are made, or a `keras.utils.PyDataset`. `None` for methods
            that need no data.
        method: A name of `method_names()`, or a `Method` object.
        sparsity: Fraction of all prunable weights to remove, 0 <= sparsity < 1.
            Exactly floor(sparsity * total) weights go.
        loss: The loss to differentiate. Default: the compiled loss, else inferred
            from labels and last activation. Regularization is no part of it.
        allocation: `"global"`, `"uniform"` (the same sparsity in each tensor) or
            `"erk"`; see `select`.
        iterations: Pruning steps, with new scores in each. Default: the method's.
        schedule: `"exponential"`, `"linear"` or a function `(progress, sparsity) ->
            sparsity`. Default: the method's.
        batches: How many batches to score on; gradients are summed over them. `None`:
            all. Replicas of a `tf.distribute` strategy share them out, each batch
            whole, so that masks do not depend on the number of devices.
        samples_per_class: Score on so many samples of each class instead, the first of
            the dataset. The authors use 10.
        batch_norm: Batch normalization while scoring: `"train"` (batch statistics) or
            `"eval"`. Default: the method's; see `DataMethod`.
        min_per_layer: Weights that every tensor keeps at least.
        rescale: Use the rescaling trick: bring a deep plain network back to the edge of
            chaos; see `rescale`. Method `"robust"` decides by itself.
        filters: Which layers may be pruned: a regular expression searched in names and
            paths, a list of these, or a function from layer to bool. `None`: all.
            `"pointwise"`: 1x1 convolutions of images, which phones run sparsely; see
            `mobile_check`.
        layout: `"masked"` keeps whole kernels and masks of their shape. `"compact"`
            stores kept weights and their positions only: training takes memory in
            proportion to the density, see `to_layout`.
        granularity: What is removed as one. `"weight"`. `"channel"`: whole units and
            filters, with all that they are added to and all who read them; they are cut
            out, and an ordinary smaller model is left, fast everywhere. `"block:RxC"`:
            R neighbouring outputs at C neighbouring inputs, scored by their sum.
            `"N:M"`: all but N of M neighbouring inputs, sparsity 1 - N / M. Layers that
            do not consist of whole blocks or groups of M are left out.
        budget: What the sparsity of channels is a fraction of: `"params"`, the weights
            of all kernels, or `"flops"`, their multiply-adds. Channels go, least score
            by cost first, until at least that is saved.
        multiple_of: Keep numbers of channels that are multiples of it, where a layer
            has more. 8 is faster on most processors.
        seed: Seed of random methods.
        verbose: 1 shows a progress bar when scoring takes long, 0 never.

    Returns:
        A new `keras.Model` with `MaskedLayer`s in place of the pruned layers, compiled
        if `model` was, under the same `tf.distribute` strategy, also that of several
        workers. Train it with plain `fit`; removed weights stay 0. If channels were
        removed, its layers are smaller and no `MaskedLayer`s: see `shrink_report`.

    Raises:
        ValueError: If an argument, the model or the dataset does not fit, before any
            work starts; if a score is NaN or infinite; if channels are removed and no
            layer may lose all: with the name of one that would, and the largest
            sparsity that works.
        TypeError: If `dataset` is none of the kinds above.
        RuntimeError: If `model` belongs to another strategy than the one in scope.

    Example:

    >>> pruned = prune_at_init(model, (x_train, y_train), "snip", sparsity=0.95)
    >>> pruned.compile("adam", "sparse_categorical_crossentropy")
    >>> pruned.fit(x_train, y_train)

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", arXiv 2002.08797.
    """
    arguments = locals()
    rescale, layout = arguments.pop("rescale"), arguments.pop("layout")
    layouts.check_layout(layout)
    if granularity == "channel" and layout != "masked":
        raise ValueError(
            "Without channels a model is small as it is, and has no masks to store. "
            f"Received: granularity='channel', layout={layout!r}. Leave `layout` out."
        )
    plan = _plan(**arguments)
    if granularity == "channel":
        return _without_channels(plan, rescale)
    # First, so that a model that cannot be copied is refused before it is scored.
    pruned = surgery.wrap(plan.recipe.model, plan.kernels, plan.recipe.note, layout)
    targets = rescaling.targets(pruned) if rescale else None
    surgery.set_masks(pruned, plan.kernels, _run(plan)[-1])
    if rescale:
        rescaling.apply(targets)
    elif plan.recipe.finish:
        more = plan.recipe.finish(pruned, plan.network)
        surgery.set_note(pruned, f"{plan.recipe.note} {more}")
    return pruned


@garbage.old_objects_aside()
def score(
    model: keras.Model,
    dataset=None,
    method: str | Method = "snip",
    *,
    sparsity: float = 0.9,
    loss: Any = None,
    allocation: str = "global",
    iterations: int | None = None,
    schedule: Schedule | None = None,
    batches: int | None = 1,
    samples_per_class: int | None = None,
    batch_norm: str | None = None,
    min_per_layer: int = 0,
    filters: Filters = None,
    seed: int = 0,
    verbose: int = 1,
) -> dict[str, np.ndarray]:
    """Saliency of every prunable weight; the model is left as it is, to the bit.

    Use it to look at scores, to compare methods, or to make masks with `select`.

    Args:
        model, dataset, method, ...: As in `prune_at_init`. `sparsity` and `allocation`
            only matter with more than one iteration: the scores are those of the last
            one, in which weights that went before have the lowest score.

    Returns:
        `{path of the kernel variable: array}`, kernel-shaped, in the model's dtype, or
        float64 where a method needed it. Larger means keep.

    Raises:
        As `prune_at_init`.

    Example:

    >>> scores = score(model, (x, y), "snip")
    >>> masks = select(scores, sparsity=0.95)
    """
    arguments = {
        **locals(),
        "granularity": "weight",
        "budget": "params",
        "multiple_of": 1,
    }
    scores, within, _ = _run(_plan(**arguments))
    return scores if within is None else _lowest_where_gone(scores, within)


class _Plan(NamedTuple):
    """All arguments, checked."""

    method: Method
    recipe: Recipe
    kernels: list[Kernel]
    network: Network
    units: granularity_lib.Weights | structured.Channels
    sparsity: float
    verbose: int


def _plan(
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
    granularity,
    budget,
    multiple_of,
    seed,
    verbose,
):
    method = _method(method, iterations, schedule, batch_norm, seed)
    allocation_lib.check_arguments(sparsity, allocation, min_per_layer)
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
            model, kernels, allocation, min_per_layer, budget, multiple_of
        )
    data, resolved = [], None
    if method.needs_data:
        dtype = scoring_dtype(kernels)
        data, resolved = _data(
            model, method, dataset, loss, batches, samples_per_class, dtype
        )
    checks.check_workers(model, data)
    network = Network(model, kernels, data, resolved, method.iterations)
    return _Plan(method, recipe, kernels, network, units, sparsity, verbose)


def _without_channels(plan, rescale):
    model, note = plan.recipe.model, plan.recipe.note
    if rescale:
        rescaling.check(model)
    small = plan.units.cut(model, _run(plan)[-1])
    if rescale or plan.recipe.finish:  # which work on scales
        wrapped = surgery.wrap(small, checks.prunable_kernels(small))
        if rescale:
            rescaling.rescale(wrapped)
        else:
            note = f"{note} {plan.recipe.finish(wrapped, plan.network)}"
        small = surgery.change_layers(wrapped, copying.folded)
    if note:
        logging.info("%s: %s", model.name, note)
    return small


def _run(plan):
    """The last scores, what they were chosen from (`None`: all), the final masks."""
    method, network, units = plan.method, plan.network, plan.units
    strategy = network.model.distribute_strategy
    weights, masks, total = method.start(network), None, method.iterations
    for i in tqdm(range(1, total + 1), "scoring", delay=3, disable=not plan.verbose):
        within = masks and list(masks.values())  # what is gone stays gone
        scores = units.scores(method, network, weights, within)
        masks_lib.check_finite(scores)
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


def _lowest_where_gone(scores, within):
    pairs = list(zip(scores.items(), within, strict=True))
    lowest = min(np.min(s, where=w, initial=0) for (_, s), w in pairs)
    return {path: np.where(w, s, lowest) for (path, s), w in pairs}


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
    shapes = None

    def inspect(batch):
        nonlocal shapes
        checks.check_batched(batch[1])
        shapes = checks.output_shapes(model, batch[0])
        return shapes[-1] if isinstance(shapes, tuple) else None

    data = batches_lib.take(dataset, inspect, batches, samples_per_class)
    return data, losses.resolve(model, loss, data[0][1], shapes, dtype)
