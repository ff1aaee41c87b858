"""How pruned weights are stored, and a model trained so far in the other way."""

from __future__ import annotations

import collections
import functools

import keras
import tensorflow as tf
from absl import logging

from keras_prune_init._arguments import check_choice, check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.layers.compact import CompactLayer
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.layers.walk import walk
from keras_prune_init.surgery import exchange, rebuild
from keras_prune_init.surgery.agreement import check_copy
from keras_prune_init.surgery.copier import Copier


def check_layout(layout: str) -> None:
    """Raises ValueError unless there is such a layout."""
    check_choice("layout", layout, exchange.LAYOUTS)


def check_optimizer(model: keras.Model, layout: str) -> None:
    """Raises ValueError if the optimizer of a model cannot train it in a layout."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if layout == "masked" and isinstance(optimizer, keras.optimizers.Adafactor):
        raise ValueError(
            "Keras's Adafactor divides by the mean gradient of a row, which is 0 where "
            "all weights of it are removed, and makes weights NaN. Received: "
            f"{model.name}, compiled with Adafactor, for the masked layout. "
            "Use layout='compact', or another optimizer."
        )


@one_at_a_time
def to_layout(model: keras.Model, layout: str) -> keras.Model:
    """Store a pruned model in another way, with the state of its optimizer.

    Args:
        model: A model from `prune_at_init`, trained or not. It is not changed.
        layout: `"masked"`: kernels with zeros, beside masks of their shape.
            `"compact"`: kept weights and their positions; what a weight takes, also in
            the optimizer and in files, it takes for kept ones only.

    Returns:
        A new model with the same outputs, which goes on training where `model` was.

    Raises:
        ValueError: If `layout` is neither, or the model was not pruned.

    Example:

    >>> compact = to_layout(pruned, "compact")
    >>> compact.fit(x, y)
    """
    check_model(model)
    check_layout(layout)
    check_optimizer(model, layout)
    if not exchange.masked_layers(model):
        raise ValueError(
            "`to_layout` takes a pruned model: one that `prune_at_init` returned. "
            f"Received: model={model.name}, which has no MaskedLayer. Prune it first."
        )
    new = rebuild.change_layers(model, exchange.to_layout(layout))
    check_copy(model, new)
    old, made = getattr(model, "optimizer", None), getattr(new, "optimizer", None)
    if old is not None and old.built:
        with new.distribute_strategy.scope():
            _copy_optimizer(old, made, model, new)
    return new


def as_masked(model: keras.Model) -> keras.Model:
    """The model itself, or if a layout hides its kernels, a copy that has them."""
    if not any(isinstance(v, CompactLayer) for v in exchange.masked_layers(model)):
        return model
    return rebuild.change_layers(model, exchange.to_layout("masked"))


def _copy_optimizer(old, new, source, target):
    """Give a new optimizer the state of another layout's."""
    if not new.built:
        new.build(target.trainable_variables)
    before, after = _weights(source), _weights(target)
    slots = _slots(old, source.trainable_variables)
    new_slots = _slots(new, target.trainable_variables)
    for (reference, kept), (new_reference, new_kept) in zip(
        [*before, (None, None)], [*after, (None, None)], strict=True
    ):
        pairs = zip(slots[id(reference)], new_slots[id(new_reference)], strict=True)
        for slot, new_slot in pairs:
            value = slot.value
            if reference is not None and slot.shape == reference.shape:
                value = kept.dense(value) if kept else value
                value = new_kept.gather(value) if new_kept else value
            if value.shape == new_slot.shape:
                new_slot.assign(value)
            else:
                logging.warning("%s begins anew in this layout", new_slot.path)


def _weights(model):
    """What optimizers see of a model, in an order that does not depend on the layout.

    Returns:
        Pairs of a trainable variable and, if it is the vector of a kernel's kept
        weights, its `KeptWeights`.
    """
    found = {}
    for _, layer in walk(model):
        for name in getattr(layer, "kernels", ()):
            if isinstance(layer, CompactLayer):
                kept = layer.kept[name]
                found[id(kept.values)] = kept.values, kept
            elif isinstance(layer, exchange.MaskedLayer):
                kernel = get_kernel(layer.layer, name)
                found[id(kernel)] = kernel, None
    trainable = {id(v): (v, None) for v in model.trainable_variables}
    kernels = [pair for key, pair in found.items() if key in trainable]
    others = [pair for key, pair in trainable.items() if key not in found]
    return kernels + others


def _slots(optimizer, references):
    """The variables of an optimizer by what they were made for, `id(None)`: others."""
    # A twin without any storage is built, to see it.
    owners = {}

    def note(plain, reference_variable, *args, **kwargs):
        slot = plain(reference_variable, *args, **kwargs)
        owners[id(slot)] = id(reference_variable)
        return slot

    with tf.variable_creator_scope(_without_value):
        twin = Copier(optimizer)(optimizer)
        makes = getattr(twin, "inner_optimizer", twin)
        plain = makes.add_variable_from_reference
        name = "add_variable_from_reference"
        object.__setattr__(makes, name, functools.partial(note, plain))
        twin.build(references)
    slots = collections.defaultdict(list)
    for variable, other in zip(optimizer.variables, twin.variables, strict=True):
        slots[owners.get(id(other), id(None))].append(variable)
    return slots


def _without_value(next_creator, **kwargs):
    kwargs["initial_value"] = tf.zeros([0], kwargs["dtype"])
    return next_creator(**kwargs)
