"""`prune_at_init`, which is `prune` too, and `score`: what most users need."""

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
from keras_prune_init.scoring import checks
from keras_prune_init.surgery import exchange, layouts, rebuild
from keras_prune_init.surgery.agreement import check_copy
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
    batches: int | str | None = "auto",
    samples_per_class: int | None = None,
    filters: Filters = None,
    layout: str = "masked",
    rescale: bool = False,
    seed: int = 0,
    verbose: int = 1,
) -> keras.Model:
    """Prune a model before its first training step, or a trained one.

    `prune` is the same function, under the name that fits a trained model.

    Args:
        model: A built Keras model: Sequential, Functional or subclassed. It is not
            changed. The new model gets its weights, pretrained or not. Frozen kernels
            are pruned too and stay frozen; `filters="trainable"` leaves them out. A
            model that was pruned before is pruned further: removed weights stay
            removed, so `sparsity` must not fall, and scales are multiplied into the
            weights.
        dataset: A batched `tf.data.Dataset` of `(x, y)` or `(x, y, sample_weight)`, a
            tuple of such arrays, a `keras.utils.PyDataset`, or a generator. A generator
            loses the batches that are read. Arrays are cut into batches of 128, or of
            the batch size that the model's inputs fix. `x` and `y` may be nested as in
            `fit`; `y` may be missing if layers add the losses. `None` for methods that
            need no data.
        method: A name of `method_names()`, or a method object with options, such as
            `keras_prune_init.methods.SNIP(iterations=5)`.
        sparsity: Fraction of all prunable weights to remove, 0 <= sparsity < 1.
            Exactly floor(sparsity * total) weights or blocks are removed. Channels are
            removed until the sparsity is reached.
        loss: The loss to differentiate, as in `compile`. Default: what the model's
            `compute_loss` returns, because `fit` trains that. If the model was not
            compiled, the loss is inferred from the labels and the output layer. Losses
            that layers add are included; weight regularizers are not. Pass `loss` if
            the model's own `train_step` trains something else.
        what: What is removed as one unit. `"weights"`: single weights. `"channels"`:
            whole units and filters are cut out, and an ordinary smaller model is left;
            see `Channels`. `"1x4"`: blocks of 1 output x 4 inputs; see `Blocks`.
            `"2:4"`: 2 of each 4 neighbouring inputs are kept; see `NofM`. Or an object
            of one of these classes. Layers that do not consist of whole blocks or
            groups are not pruned.
        allocation: How much each layer loses: `"global"` (scores decide), `"uniform"`
            (the same sparsity in each kernel), `"erk"`, a dict from pattern to sparsity
            such as `{"stage3.*": 0.98, "logits": 0.5}`, a function, or an `Allocation`,
            which can also keep a minimum in every layer.
        batches: Number of batches to score on, from the start of the dataset; `None`:
            all. `"auto"`: as many as the method asks for, or all if there are fewer.
            Most methods ask for one. Gradients are summed over them; a batch of fewer
            samples counts less. The replicas of a `tf.distribute` strategy get whole
            batches, so masks do not depend on the number of devices.
        samples_per_class: If given, score on the first so many samples of each class,
            and ignore `batches`. The authors use 10.
        filters: Which layers may be pruned: a regular expression that is searched in
            names and paths, a list of these, or a function from layer to bool. `None`:
            all. `"pointwise"`: 1x1 convolutions of images, which phones run sparsely;
            see `mobile_check`. `"trainable"`: no frozen kernels.
        layout: `"masked"` keeps whole kernels and masks of their shape. `"compact"`
            stores only the kept weights and their positions, so the memory for training
            is in proportion to the density. `"sparse"` also multiplies with them only,
            so on a CPU the time is, too. `"auto"` does this in the layers where it is
            faster. See `to_layout`.
        rescale: Whether to bring a deep plain network back to the edge of chaos with
            the rescaling trick; see `rescale`. Method `"robust"` decides by itself.
        seed: Seed of methods that draw random numbers.
        verbose: 1 shows a progress bar when scoring takes long, 0 never.

    Returns:
        A new model of the same class, in which a `MaskedLayer` stands in for each
        pruned layer. It is compiled if `model` was, with a fresh optimizer, and belongs
        to the same `tf.distribute` strategy. Train it with plain `fit`; removed weights
        stay 0. If channels were removed, there is no `MaskedLayer`; the layers are
        smaller instead.

    Raises:
        ValueError: If an argument, the model or the dataset does not fit (this is
            checked before any work starts); if a score is NaN or infinite, or all are
            0; if the pruned copy does not compute what the model does; if a layer would
            lose all its channels (the message names the layer and the largest sparsity
            that works).
        TypeError: If `model` is no Keras model, or `dataset` or `filters` is none of
            the kinds above.
        RuntimeError: If `model` belongs to another strategy than the one in scope.
        ImportError: If `layout` is `"sparse"` and numba is not installed.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> pruned = kpi.prune_at_init(model, (x, y), "snip", sparsity=0.75)
    >>> kpi.report(pruned).kept  # of 4 * 8 + 8 * 2 = 48 weights
    12

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", 2021,
        arXiv 2002.08797.
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
    return pruned(model, dataset, method, options)


prune = prune_at_init


def pruned(
    model: keras.Model, dataset: Any, method: str | Method, options: Options
) -> keras.Model:
    """Do what `prune_at_init` does, for options that are checked."""
    made = plan.make(model, dataset, method, options)
    return _without_channels(made) if options.cuts_channels else _masked(made)


def _masked(made: plan.Plan) -> keras.Model:
    model, kernels, note = made.recipe.model, made.kernels_of_pruned(), made.recipe.note
    pruned = rebuild.wrap(model, kernels, note, made.options.layout)
    targets = rescaling.targets(pruned) if made.options.rescale else None
    chosen = plan.run(made)
    masks = {**made.before, **chosen.masks}
    rebuild.set_masks(pruned, kernels, masks)
    check_copy(model, pruned, made.few_inputs(), kernels, masks)
    values = plan.new_values(made, chosen.weights, chosen.masks)
    rebuild.set_values(pruned, made.network.model, values)
    if targets is not None:
        rescaling.apply(targets)
    elif made.recipe.finish:
        _add_note(pruned, made.recipe.finish(pruned, made.network))
    if made.recipe.tell:
        _add_note(pruned, made.recipe.tell(pruned, made.network))
    return pruned


def _add_note(pruned, more):
    """Add to the notes of a pruned model's layers: a text, or one for each kernel."""
    for layer in exchange.masked_layers(pruned):
        texts = [more]
        if isinstance(more, Mapping):
            texts = [more.get(layer.path_of(name), "") for name in layer.kernels]
        layer.note = " ".join(filter(None, [layer.note, *texts]))


def _without_channels(made: plan.Plan) -> keras.Model:
    model, note, finish = made.recipe.model, made.recipe.note, made.recipe.finish
    if made.options.rescale:
        rescaling.check_plain(model)
    chosen = plan.run(made)
    values = plan.new_values(made, chosen.weights, chosen.masks)
    units = made.units
    if values:
        model = rebuild.copy_model(model)
        rebuild.set_values(model, made.network.model, values)
        units = plan.units_of(model, made.kernels, made.options)
    small = cast(ChannelUnits, units).cut(model, chosen.masks)
    if made.options.rescale or finish:  # which work on scales
        wrapped = rebuild.wrap(small, checks.prunable_kernels(small))
        if made.options.rescale:
            rescaling.rescale(wrapped)
        elif finish:
            note = f"{note} {finish(wrapped, made.network)}"
        small = rebuild.copy_model(wrapped, change=exchange.folded)
    if note:
        logging.info("%s: %s", model.name, note)
        small.pruning_note = note  # for `report`, as there is no `MaskedLayer`
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
    batches: int | str | None = "auto",
    samples_per_class: int | None = None,
    filters: Filters = None,
    seed: int = 0,
    verbose: int = 1,
) -> dict[str, np.ndarray]:
    """Compute the saliency of every prunable weight, and leave the model as it is.

    Use it to look at scores, to compare methods, or to make masks with `select`.

    Args:
        model: A built Keras model, pruned or not.
        dataset: A batched `tf.data.Dataset`, a tuple of arrays, a
            `keras.utils.PyDataset` or a generator, of `(x, y)` or
            `(x, y, sample_weight)`. `None` for methods that need no data.
        method: A name of `method_names()`, or a method object with options.
        sparsity: Fraction of the weights that is removed by the last iteration. It
            matters only for methods with more than one iteration.
        loss: The loss to differentiate, as in `compile`. Default: the model's own, or
            one that is inferred from labels and outputs.
        allocation: How much each layer loses, as in `Allocation`. It matters only for
            methods with more than one iteration.
        batches: Number of batches to score on; `None`: all; `"auto"`: as many as the
            method asks for.
        samples_per_class: If given, score on the first so many samples of each class.
        filters: Which layers are scored: a regular expression, a list of these, a
            function from layer to bool, `"pointwise"` or `"trainable"`. `None`: all.
        seed: Seed of methods that draw random numbers.
        verbose: 1 shows a progress bar when scoring takes long, 0 never.

    Returns:
        `{path of the kernel: array}`. Each array has the shape of its kernel; larger
        means keep. The dtype is that of the model, or float64 if the method needs it.
        After several iterations these are the scores of the last one. No weight that is
        left has a lower score than those that earlier iterations removed. Some may have
        an equal one, such as SynFlow's 0 for weights on no path.

    Raises:
        ValueError: If an argument, the model or the dataset does not fit; if a score is
            NaN or infinite, or all are 0.
        TypeError: If `model` is no Keras model, or `dataset` or `filters` is none of
            the kinds above.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> scores = kpi.score(model, (x, y), "snip")
    >>> {path: array.shape for path, array in scores.items()}
    {'dense1/kernel': (4, 8), 'logits/kernel': (8, 2)}
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
    chosen = plan.run(plan.make(model, dataset, method, options))
    if chosen.within is None:
        return chosen.scores
    return _lowest_where_gone(chosen.scores, chosen.within)


def _lowest_where_gone(scores, within):
    pairs = list(zip(scores.items(), within, strict=True))
    lowest = min(np.min(s, where=w, initial=0) for (_, s), w in pairs)
    return {path: np.where(w, s, lowest) for (path, s), w in pairs}
