"""`prune_at_init` and `score`: the story of the package in one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import keras
import numpy as np
from absl import logging

from keras_prune_init import _gc, plan
from keras_prune_init._arguments import check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.channels.choosing import ChannelUnits
from keras_prune_init.layers.filters import Filters
from keras_prune_init.masks.allocation import Allocation
from keras_prune_init.masks.densities import Densities
from keras_prune_init.masks.patterns import What
from keras_prune_init.methods import Method
from keras_prune_init.options import Options
from keras_prune_init.reports import pruning
from keras_prune_init.scoring import checks
from keras_prune_init.surgery import agreement, exchange, layouts, rebuild
from keras_prune_init.theory import rescaling


@one_at_a_time
@_gc.old_objects_aside()
def prune_at_init(
    model: keras.Model,
    dataset: Any = None,
    method: str | Method = "snip",
    *,
    sparsity: float = 0.9,
    loss: Any = None,
    what: str | What = "weights",
    allocation: str | Densities | Mapping[str, float] | Allocation = "global",
    batches: int | None = 1,
    samples_per_class: int | None = None,
    filters: Filters = None,
    layout: str = "masked",
    rescale: bool = False,
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
        method: A name of `method_names()`, or a method object with options, such as
            `keras_prune_init.methods.SNIP(iterations=5)`.
        sparsity: Fraction of all prunable weights to remove, 0 <= sparsity < 1.
            Exactly floor(sparsity * total) weights or blocks go. Channels go until it
            is reached.
        loss: The loss to differentiate, as in `compile`. Default: what the model's
            `compute_loss` returns, which `fit` trains; of a model that was not compiled
            it is inferred from labels and from what makes the output. Weight
            regularizers are no part of it, losses that layers add are. Pass it if the
            model's own `train_step` trains something else.
        what: What is removed as one. `"weights"`. `"channels"`: whole units and
            filters are cut out, and an ordinary smaller model is left; see `Channels`.
            `"1x4"`: blocks of so many outputs x inputs, see `Blocks`. `"2:4"`: all but
            2 of 4 neighbouring inputs, see `NofM`. Or an object of one of these
            classes. Layers that do not consist of whole blocks or groups are left out.
        allocation: How much each layer loses: `"global"`, `"uniform"` (the same
            sparsity in each tensor), `"erk"`, a dict from pattern to sparsity such as
            `{"stage3.*": 0.98, "logits": 0.5}`, a function, or an object with a minimum
            for every layer; see `Allocation`.
        batches: How many batches to score on; gradients are summed over them. `None`:
            all. Replicas of a `tf.distribute` strategy share them out, each batch
            whole, so that masks do not depend on the number of devices.
        samples_per_class: Score on so many samples of each class instead, the first of
            the dataset. The authors use 10.
        filters: Which layers may be pruned: a regular expression searched in names and
            paths, a list of these, or a function from layer to bool. `None`: all.
            `"pointwise"`: 1x1 convolutions of images, which phones run sparsely; see
            `mobile_check`. `"trainable"`: kernels that training changes; frozen ones
            keep all their weights.
        layout: `"masked"` keeps whole kernels and masks of their shape. `"compact"`
            stores kept weights and their positions only: training takes memory in
            proportion to the density, see `to_layout`.
        rescale: Use the rescaling trick: bring a deep plain network back to the edge of
            chaos; see `rescale`. Method `"robust"` decides by itself.
        seed: Seed of methods that draw random numbers.
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
    check_model(model)
    options = Options(
        sparsity=sparsity,
        loss=loss,
        what=what,
        allocation=allocation,
        batches=batches,
        samples_per_class=samples_per_class,
        filters=filters,
        layout=layout,
        rescale=rescale,
        seed=seed,
        verbose=verbose,
    )
    if not options.cuts_channels:
        layouts.check_optimizer(model, layout)
    made = plan.make(model, dataset, method, options)
    if options.cuts_channels:
        return _without_channels(made)
    return _masked(made)


def _masked(made: plan.Plan) -> keras.Model:
    model, kernels, note = made.recipe.model, made.kernels_of_pruned(), made.recipe.note
    pruned = rebuild.wrap(model, kernels, note, made.options.layout)
    targets = rescaling.targets(pruned) if made.options.rescale else None
    masks = {**made.before, **plan.run(made)[-1]}
    rebuild.set_masks(pruned, kernels, masks)
    agreement.check(model, pruned, made.few_inputs(), kernels, masks)
    if targets is not None:
        rescaling.apply(targets)
    elif made.recipe.finish:
        more = made.recipe.finish(pruned, made.network)
        rebuild.set_note(pruned, f"{note} {more}")
    return pruned


def _without_channels(made: plan.Plan) -> keras.Model:
    model, note, finish = made.recipe.model, made.recipe.note, made.recipe.finish
    if made.options.rescale:
        rescaling.check(model)
    units = cast(ChannelUnits, made.units)
    small = units.cut(model, plan.run(made)[-1])
    if made.options.rescale or finish:  # which work on scales
        wrapped = rebuild.wrap(small, checks.prunable_kernels(small))
        if made.options.rescale:
            rescaling.rescale(wrapped)
        elif finish:
            note = f"{note} {finish(wrapped, made.network)}"
        small = rebuild.change_layers(wrapped, exchange.folded)
    if note:
        logging.info("%s: %s", model.name, note)
        pruning.keep_note(small, note)
    return small


@one_at_a_time
@_gc.old_objects_aside()
def score(
    model: keras.Model,
    dataset: Any = None,
    method: str | Method = "snip",
    *,
    sparsity: float = 0.9,
    loss: Any = None,
    allocation: str | Densities | Mapping[str, float] | Allocation = "global",
    batches: int | None = 1,
    samples_per_class: int | None = None,
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
    check_model(model)
    options = Options(
        sparsity=sparsity,
        loss=loss,
        allocation=allocation,
        batches=batches,
        samples_per_class=samples_per_class,
        filters=filters,
        seed=seed,
        verbose=verbose,
    )
    scores, within, _ = plan.run(plan.make(model, dataset, method, options))
    return scores if within is None else _lowest_where_gone(scores, within)


def _lowest_where_gone(scores, within):
    pairs = list(zip(scores.items(), within, strict=True))
    lowest = min(np.min(s, where=w, initial=0) for (_, s), w in pairs)
    return {path: np.where(w, s, lowest) for (path, s), w in pairs}
