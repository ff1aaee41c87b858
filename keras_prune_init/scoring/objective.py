"""The objective that `fit` trains: what `model.compute_loss` returns for a batch.

Keras's own objects compute it. So losses of every form, labels of every structure,
weights, masks and losses that layers add mean the same here as in `fit`. Only the
penalties on weights (`kernel_regularizer`) are left out, because these weights are to
be pruned.
"""

from __future__ import annotations

import functools
import inspect
import threading
from typing import Any

import keras
import tensorflow as tf
from absl import logging
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.losses import loss as keras_loss
from keras.src.trainers.compile_utils import CompileLoss

from keras_prune_init.layers.patching import patched
from keras_prune_init.scoring import temperature
from keras_prune_init.scoring.temperature import OTHER, SIGMOID, SOFTMAX

# So many numbers of an output suffice to find out how a loss treats it.
ENOUGH = 2**22


class Objective:
    """What is differentiated, for any copy of a model.

    The loss is as in `compile`. `None`: only the losses that layers add, or what the
    model's own `compute_loss` returns.
    """

    def __init__(self, loss: Any = None, loss_weights=None, output_names=None):
        self._losses = None
        if loss is not None:
            self._losses = _Losses(loss, loss_weights, output_names=output_names)
        self.example: tuple = ()  # `(model, batch, outputs)` of the trial
        self.remark = ""  # what the user should know of the objective

    def __call__(
        self, model, x, y, outputs, sample_weight=None, temperature: float = 1.0
    ):
        """Return the loss of a batch, within the scope that made `outputs`.

        This `StatelessScope` must have been opened with `collect_losses=True`.
        """
        if temperature != 1.0:
            outputs = self._tempered(outputs, temperature)
        if isinstance(sample_weight, dict) and not isinstance(outputs, dict):
            sample_weight = [sample_weight.get(name) for name in model.output_names]
        with patched(self._changes(model, outputs)):
            return loss_of(model, x, y, outputs, sample_weight)

    @property
    def user_loss(self) -> Any:
        """The loss that was given."""
        return self._losses and self._losses._user_loss

    @property
    def was_used(self) -> bool:
        """Whether the given loss, if there is one, was part of the computation."""
        return self._losses is None or self._losses.built

    @property
    def is_sum(self) -> bool:
        """Whether the loss of a batch is a sum over its samples, and no mean."""
        parts = self._losses.losses() if self._losses else []
        return bool(parts) and all(p.reduction == "sum" for p in parts)

    @functools.cached_property
    def kinds(self) -> list[str | None]:
        """How the objective treats each output, as `temperature.kind_of` returns it.

        The first access runs the loss, so it must not be within a trace.
        """
        model, batch, outputs = self.example
        flat = keras.tree.flatten(outputs)
        own = has_own(model, "compute_loss")
        if self._losses is None and not own:  # there is only what layers add
            return [None] * len(flat)
        size = max(int(tf.size(v)) for v in flat)
        if size > ENOUGH:
            rows = max(1, ENOUGH * flat[0].shape[0] // size)
            batch = _first(batch, rows)
            flat = _first(flat, rows)
        x, y, sample_weight = batch

        def kind(i):
            def loss(output):
                varied = [*flat[:i], output, *flat[i + 1 :]]
                varied = keras.tree.pack_sequence_as(outputs, varied)
                with keras.StatelessScope(collect_losses=True):
                    if own:  # which may read what a forward pass has left
                        model(x, training=False)
                    return self(model, x, y, varied, sample_weight)

            return temperature.kind_of(loss, flat[i])

        kinds = [kind(i) if v.dtype.is_floating else None for i, v in enumerate(flat)]
        return temperature.confirmed(kinds, (SOFTMAX, SIGMOID), OTHER, model, x)

    def _tempered(self, outputs, divisor):
        divided = []
        for kind, output in zip(self.kinds, keras.tree.flatten(outputs), strict=True):
            new = temperature.tempered(output, kind, divisor)
            if new is not output and (mask := get_keras_mask(output)) is not None:
                set_keras_mask(new, mask)
            divided.append(new)
        return keras.tree.pack_sequence_as(outputs, divided)

    def _changes(self, model, outputs):
        """Return attributes to change while the loss is computed."""
        changes = [(model, "_compile_loss", self._losses)]
        changes += [
            (v, "_regularizer", None)
            for v in model.trainable_variables
            if v.regularizer is not None
        ]
        if any(v.dtype == tf.float64 for v in keras.tree.flatten(outputs)):
            # Keras's losses cast to float32, and cannot be added to what layers add.
            wide = self._losses.all() if self._losses else []
            changes += [(loss, "_dtype", "float64") for loss in wide]
            changes.append((model, "_aggregate_additional_loss", _wide_sum))
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            # Keras divides means by the number of replicas, as these share a batch;
            # here every replica has a batch of its own.
            own, scaled = threading.get_ident(), keras_loss.scale_loss_for_distribution

            def unscaled(value):
                return value if threading.get_ident() == own else scaled(value)

            changes.append((keras_loss, "scale_loss_for_distribution", unscaled))
        return changes


class _Losses(CompileLoss):
    """What `compile` makes of its argument `loss`, without means over an epoch."""

    def losses(self) -> list[keras.losses.Loss]:
        """Return those of the outputs; none before the first call."""
        used = [part.loss for part in self._flat_losses or ()]
        return [loss for loss in used if isinstance(loss, keras.losses.Loss)]

    def all(self) -> list[keras.losses.Loss]:
        return [self, *self.losses()]

    def build(self, y_true, y_pred):
        super().build(y_true, y_pred)
        self._metrics[:] = [None] * len(self._flat_losses)


def known_objective(model: keras.Model, loss: Any = None) -> Objective | None:
    """Return the objective that was given, compiled, or written as `compute_loss`."""
    names = getattr(model, "output_names", None)
    if loss is not None:
        return Objective(loss, None, names)
    compiled, own = model._compile_loss, has_own(model, "compute_loss")
    if compiled is None and not own:
        return None
    loss = compiled and compiled._user_loss
    weights = compiled and compiled._user_loss_weights
    found = Objective(loss, weights, names)
    if trains_another_loss(model):
        found.remark = (
            f"{type(model).__name__} has a `train_step` that does not call "
            "`compute_loss`, which was differentiated; pass `loss=` if it trains "
            "another loss."
        )
        logging.warning(found.remark)
    return found


def trains_another_loss(model: keras.Model) -> bool:
    """Whether a model has a training step that uses neither Keras's loss nor step."""
    if not has_own(model, "train_step"):
        return False
    codes = [model.train_step.__func__.__code__]
    for code in codes:  # those of functions within it, too
        codes += [c for c in code.co_consts if inspect.iscode(c)]
    names = {name for code in codes for name in code.co_names}
    return names.isdisjoint(("compute_loss", "compiled_loss", "train_step"))


def has_own(model: keras.Model, name: str) -> bool:
    """Whether a model has a method of its own in place of that of `keras.Model`."""
    return getattr(getattr(model, name), "__func__", None) is not getattr(
        keras.Model, name
    )


def loss_of(model: keras.Model, *arguments: Any) -> Any:
    """Return `model.compute_loss` of x, y, outputs and sample weights, for training.

    It is called by position, as `fit` does, else by name.
    """
    compute_loss = model.compute_loss
    signature = inspect.signature(compute_loss)
    options = {"training": True} if "training" in signature.parameters else {}
    try:
        signature.bind(*arguments, **options)
    except TypeError:
        names = "x", "y", "y_pred", "sample_weight"
        return compute_loss(**dict(zip(names, arguments, strict=True)), **options)
    return compute_loss(*arguments, **options)


def _first(values, rows):
    return keras.tree.map_structure(lambda v: v[:rows], values, none_is_leaf=False)


def _wide_sum(loss):
    return tf.reduce_sum(tf.cast(loss, "float64"))
