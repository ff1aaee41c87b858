"""`to_layout`: how pruned weights are stored, and how to change it."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
from absl import logging

from keras_prune_init._lock import one_at_a_time
from keras_prune_init.layers.compact import CompactLayer, without_storage
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.surgery import exchange, rebuild
from keras_prune_init.surgery.agreement import check_copy
from keras_prune_init.surgery.copier import Copier


def check_optimizer(model: keras.Model, layout: str) -> None:
    """Raise a ValueError if the optimizer of a model cannot train it in a layout."""
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
        layout: How the model stores weights, and computes with them.

            - `"masked"`: kernels with zeros, and masks of their shape.
            - `"compact"`: only the kept weights and their positions, also in the
              optimizer and in files. Layers compute with whole kernels, which exist
              only while they run.
            - `"sparse"`: the same variables. Layers multiply with the kept weights
              only, so training and prediction on a CPU are faster the sparser the
              network is. It needs numba: `pip install 'keras_prune_init[sparse]'`.
              Where compiled loops cannot run, it computes as `"compact"`.
            - `"auto"`: `"sparse"` for the kernels where that is faster on this machine.
              `report` says which, and how long a training step is expected to take.

    Returns:
        A new model with the same outputs. Training continues where `model` was.

    Raises:
        ValueError: If `layout` is none of them, or the model was not pruned.
        TypeError: If `model` is no Keras model.
        ImportError: If `layout` is `"sparse"` and numba is not installed.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.75)
    >>> compact = kpi.to_layout(pruned, "compact")
    >>> compact.trainable_weights[1].shape == pruned.trainable_weights[1].shape
    False
    """
    exchange.check_pruned("to_layout", model)
    exchange.check_finished("to_layout", model)
    exchange.check_layout(layout)
    check_optimizer(model, layout)
    new = rebuild.copy_model(model, change=exchange.to_layout(layout))
    check_copy(model, new)
    old, made = getattr(model, "optimizer", None), getattr(new, "optimizer", None)
    if old is not None and old.built:
        with new.distribute_strategy.scope():
            _copy_optimizer(old, made, model, new)
    return new


def as_masked(model: keras.Model) -> keras.Model:
    """Return the model, or a copy with kernels if the layout has none."""
    if not any(isinstance(v, CompactLayer) for v in exchange.masked_layers(model)):
        return model
    return rebuild.copy_model(model, change=exchange.to_layout("masked"))


def _copy_optimizer(old, new, source, target):
    """Give a new optimizer the state of the optimizer of another layout."""
    if not new.built:
        new.build(target.trainable_variables)
    slots = slots_of(old, source.trainable_variables)
    new_slots = slots_of(new, target.trainable_variables)
    weights = zip(_weights(source), _weights(target), strict=True)
    for (reference, kept), (new_reference, new_kept) in weights:
        kept_slots, to_fill = slots[id(reference)], new_slots[id(new_reference)]
        if len(kept_slots) != len(to_fill):  # Muon keeps more for vectors
            path = getattr(new_reference, "path", new.name)
            logging.warning("%s: its optimizer begins anew", path)
            continue
        for slot, new_slot in zip(kept_slots, to_fill, strict=True):
            value, made = slot.variable.value, new_slot.variable
            if reference is not None and value.shape == reference.shape:
                value = kept.dense(value, slot.initial) if kept else value
                value = new_kept.gather(value) if new_kept else value
            if value.shape == made.shape:
                made.assign(value)
            else:
                logging.warning("%s begins anew in this layout", made.path)


def _weights(model):
    """Return what optimizers see of a model, in the same order for every layout.

    These are pairs of a trainable variable and its `KeptWeights`, or `None` if it is
    not the vector of a kernel's kept weights. The last pair is for what an optimizer
    keeps for no variable.
    """
    found = {}
    for layer in exchange.masked_layers(model):
        for name in layer.kernels:
            kept = layer.kept[name] if isinstance(layer, CompactLayer) else None
            variable = kept.values if kept else get_kernel(layer.layer, name)
            found[id(variable)] = variable, kept
    trainable = {id(v): (v, None) for v in model.trainable_variables}
    kernels = [pair for key, pair in found.items() if key in trainable]
    others = [pair for key, pair in trainable.items() if key not in found]
    return [*kernels, *others, (None, None)]


class Slot(NamedTuple):
    """What an optimizer keeps for a variable, and the number that it begins with."""

    variable: keras.Variable
    initial: float

    def where(self, stays: np.ndarray, values) -> np.ndarray:
        """Return values for all weights, which begin anew where they do not stay."""
        values = keras.ops.convert_to_numpy(values)
        return np.where(stays, values, np.asarray(self.initial, values.dtype))


def slots_of(
    optimizer: keras.optimizers.Optimizer, references: Sequence[keras.Variable]
) -> Mapping[int, list[Slot]]:
    """Return what an optimizer keeps, by the id of its reference, or of `None`."""
    # A twin without any storage is built, to see it.
    owners = {}

    def note(reference_variable, name=None, initializer="zeros"):
        slot = plain(reference_variable, name, initializer)
        begins = keras.initializers.get(initializer)([1], slot.dtype)
        owners[id(slot)] = id(reference_variable), float(begins[0])
        return slot

    with without_storage():
        twin = Copier(optimizer)(optimizer)
        makes = getattr(twin, "inner_optimizer", twin)
        plain = makes.add_variable_from_reference
        vars(makes)["add_variable_from_reference"] = note
        twin.build(references)
    slots = collections.defaultdict(list)
    for variable, other in zip(optimizer.variables, twin.variables, strict=True):
        reference, initial = owners.get(id(other), (id(None), 0.0))
        slots[reference].append(Slot(variable, initial))
    return slots
