"""`prune_at_init` and `score`: the story of the package in one page."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from absl import logging

from keras_prune_init import _gc
from keras_prune_init import plan as plans
from keras_prune_init._arguments import check_flag, check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.channels.choosing import check_arguments
from keras_prune_init.layers.filters import Filters
from keras_prune_init.masks.schedules import Schedule
from keras_prune_init.methods import Method
from keras_prune_init.reports import pruning
from keras_prune_init.scoring import checks
from keras_prune_init.surgery import agreement, exchange, layouts, rebuild
from keras_prune_init.theory import rescaling


@one_at_a_time
@_gc.old_objects_aside()
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
            changed. Its weights, pretrained or not, go to the new model. Frozen kernels
            are pruned like others, and stay frozen, unless `filters` leaves them out.
            A pruned model is pruned further: what its masks removed stays removed, so
            `sparsity` must not fall; scales are multiplied into the weights.
        dataset: A batched `tf.data.Dataset` of `(x, y)` or `(x, y, sample_weight)`, a
            tuple of arrays, of which batches of 128 are made (or of the size that the
            model's inputs have), a `keras.utils.PyDataset`, or a generator, whose
            batches are used up; in every structure that `fit` takes; of `x` alone if
            layers add the losses. `None` for methods that need no data.
        method: A name of `method_names()`, or a `Method` object.
        sparsity: Fraction of all prunable weights to remove, 0 <= sparsity < 1.
            Exactly floor(sparsity * total) weights or blocks go; of channels so many
            that it is reached.
        loss: The loss to differentiate, as in `compile`. Default: what the model's
            `compute_loss` returns, which `fit` trains; of a model that was not compiled
            it is inferred from labels and from what makes the output. Weight
            regularizers are no part of it, losses that layers add are. Pass it if the
            model's own `train_step` trains something else.
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
        min_per_layer: Weights, blocks or channels that every layer keeps at least.
        rescale: Use the rescaling trick: bring a deep plain network back to the edge of
            chaos; see `rescale`. Method `"robust"` decides by itself.
        filters: Which layers may be pruned: a regular expression searched in names and
            paths, a list of these, or a function from layer to bool. `None`: all.
            `"pointwise"`: 1x1 convolutions of images, which phones run sparsely; see
            `mobile_check`. `"trainable"`: kernels that training changes; frozen ones
            keep all their weights.
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
        multiple_of: Keep numbers of channels that are multiples of it, or halves of
            layers that have less than twice as many. Processors work on several at a
            time, 8 with AVX2, 16 with AVX-512, and gain little from fewer.
        seed: Seed of random methods.
        verbose: 1 shows a progress bar when scoring takes long, 0 never.

    Returns:
        A new model of the same class, a copy with `MaskedLayer`s in place of the pruned
        layers, compiled if `model` was (its optimizer starts anew), under the same
        `tf.distribute` strategy, also that of several workers. Train it with
        plain `fit`; removed weights stay 0. If channels were removed, its layers are
        smaller and no `MaskedLayer`s: see `shrink_report`.

    Raises:
        ValueError: If an argument, the model or the dataset does not fit, before any
            work starts; if a score is NaN or infinite, or all are 0; if the copy of the
            model computes something else than the model; if a layer would lose all its
            channels, with its name and the largest sparsity that works.
        TypeError: If `dataset` or `filters` is none of the kinds above.
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
    check_model(model)
    layouts.check_layout(layout)
    check_flag("rescale", rescale)
    check_arguments(granularity, budget, multiple_of)
    if granularity == "channel" and layout != "masked":
        raise ValueError(
            "Without channels a model is small as it is, and has no masks to store. "
            f"Received: granularity='channel', layout={layout!r}. Leave `layout` out."
        )
    if granularity != "channel":
        layouts.check_optimizer(model, layout)
    plan = plans.make(**arguments)
    if granularity == "channel":
        return _without_channels(plan, rescale)
    model, kernels = plan.recipe.model, plan.kernels_of_pruned()
    pruned = rebuild.wrap(model, kernels, plan.recipe.note, layout)
    targets = rescaling.targets(pruned) if rescale else None
    masks = {**plan.before, **plans.run(plan)[-1]}
    rebuild.set_masks(pruned, kernels, masks)
    agreement.check(model, pruned, plan.few_inputs(), kernels, masks)
    if rescale:
        rescaling.apply(targets)
    elif plan.recipe.finish:
        more = plan.recipe.finish(pruned, plan.network)
        rebuild.set_note(pruned, f"{plan.recipe.note} {more}")
    return pruned


@one_at_a_time
@_gc.old_objects_aside()
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
    scores, within, _ = plans.run(plans.make(**locals()))
    return scores if within is None else _lowest_where_gone(scores, within)


def _without_channels(plan, rescale):
    model, note = plan.recipe.model, plan.recipe.note
    if rescale:
        rescaling.check(model)
    small = plan.units.cut(model, plans.run(plan)[-1])
    if rescale or plan.recipe.finish:  # which work on scales
        wrapped = rebuild.wrap(small, checks.prunable_kernels(small))
        if rescale:
            rescaling.rescale(wrapped)
        else:
            note = f"{note} {plan.recipe.finish(wrapped, plan.network)}"
        small = rebuild.change_layers(wrapped, exchange.folded)
    if note:
        logging.info("%s: %s", model.name, note)
        pruning.keep_note(small, note)
    return small


def _lowest_where_gone(scores, within):
    pairs = list(zip(scores.items(), within, strict=True))
    lowest = min(np.min(s, where=w, initial=0) for (_, s), w in pairs)
    return {path: np.where(w, s, lowest) for (path, s), w in pairs}
