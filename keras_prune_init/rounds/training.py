"""One round of training: by the user's function, or by `fit` with his arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_prune_init.layers.patching import patched
from keras_prune_init.rounds.rewinding import State, steps_taken


class Watch(keras.callbacks.Callback):
    """Keep the state after a step of round 0, and end later rounds at its last step.

    Args:
        step: The step to go back to, 1 or more.
        note: A function that gets the state after this step.
        last: Number of steps at which later rounds end; `None` in round 0.
    """

    def __init__(self, step: int, note: Callable[[State], None], last: int | None):
        super().__init__()
        self.step, self.note, self.last = step, note, last
        self.late = False  # whether a training began at the step or after it

    def on_train_begin(self, logs=None):
        taken = steps_taken(self.model)
        self.late |= self.last is None and taken >= self.step
        if self.last is not None and taken < self.step:
            raise ValueError(
                "A later round begins with the optimizer of the step that it goes back "
                f"to. Received: rewind={self.step}, and a `fit` that begins with step "
                f"{taken}, of another optimizer. Do not call `compile` in `train`."
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        taken = steps_taken(self.model)
        if self.last is None and taken == self.step:
            ends = batch + 1 == self.params.get("steps")
            self.note(State.of(self.model, self.epoch + ends))
        if self.last is not None and taken >= self.last:
            self.model.stop_training = True

    def ended(self, model: keras.Model) -> bool:
        """Whether a model has taken all steps of a later round."""
        return self.last is not None and steps_taken(model) >= self.last


def by_fit(arguments: Mapping[str, Any]) -> Callable:
    """Return a training that calls `fit` with arguments."""

    def train(model, number, watch, epoch):
        given = dict(arguments)
        if watch:
            given["callbacks"] = _with(given.get("callbacks"), watch)
        if epoch:  # else `fit` has its own default
            given["initial_epoch"] = epoch
        return model.fit(**given)

    return train


def by_function(function: Callable[[keras.Model], Any]) -> Callable:
    """Return a training that calls a function of the user, whose `fit` is watched."""

    def train(model, number, watch, epoch):
        if not watch:
            return function(model)
        with patched([(model, "fit", _watched(model, watch))]):
            return function(model)

    return train


def _watched(model, watch):
    plain = model.fit
    names = list(inspect.signature(keras.Model.fit).parameters)[1:]  # without self

    def fit(*args, **kwargs):
        if watch.ended(model):  # in an earlier call
            return model.history
        given = dict(zip(names, args, strict=False)) | kwargs
        given["callbacks"] = _with(given.get("callbacks"), watch)
        return plain(**given)

    return fit


def _with(callbacks, watch):
    return [*keras.tree.flatten(callbacks or []), watch]
