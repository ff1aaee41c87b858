"""The loop over the rounds: prune, go back, train, measure, save."""

from __future__ import annotations

import time

import keras
import numpy as np
from absl import logging

from keras_prune_init._arguments import is_number
from keras_prune_init.api import prune
from keras_prune_init.distribute import replicas
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.masks.top_k import digest
from keras_prune_init.rounds import training
from keras_prune_init.rounds.history import Round, RoundsHistory, numbers
from keras_prune_init.rounds.rewinding import (
    State,
    fix_draws,
    fix_seed,
    optimizer_of,
    set_steps,
    steps_taken,
)
from keras_prune_init.rounds.settings import kept, size
from keras_prune_init.surgery import layouts, rebuild


class Rounds:
    """The rounds of one model, for checked arguments.

    Args:
        model: The model before all pruning.
        dataset: What the method reads.
        settings: The other arguments.
        train: A function of `(model, number of the round, watch, epoch)` that trains.
            It gives `watch`, if there is one, to `fit` as a callback. The training goes
            on with `epoch`.
        evaluate: As in `iterative_pruning`.
        saved: The folder of the rounds.
    """

    def __init__(self, model, dataset, settings, train, evaluate, saved):
        self.given, self.dataset, self.settings = model, dataset, settings
        self.train, self.evaluate, self.saved = train, evaluate, saved
        self.history = RoundsHistory([])
        self.state: State | None = None  # to go back to
        self.total = size(settings.kernels(model))
        self.cost = settings.cost(model) if settings.cuts_channels else 0

    def run(self) -> tuple[keras.Model, RoundsHistory]:
        """Run all rounds that are not in the folder yet."""
        self.saved.begin()
        if self.saved.rounds:
            logging.info("Going on with round %d", self.saved.rounds)
            self.history, model = self.saved.history(), self.saved.model()
            self.state = self.saved.state() if self.settings.rewinds else None
        elif self.settings.whole:
            model = self._round(0, self._with_full_masks())
        else:
            model = self.given
            self._add_row(0, model, 0, 0.0, None)
        for number in range(len(self.history.rows), self.settings.rounds + 1):
            model = self._round(number, model)
        return model, self.history

    def _with_full_masks(self):
        # So that all rounds have the same structure.
        if self.settings.cuts_channels:
            return rebuild.copy_model(self.given)
        kernels = self.settings.kernels(self.given)
        model = rebuild.wrap(self.given, kernels)
        if self.settings.rewind == 0:
            self._note(State.of(model))
        return model

    def _note(self, state):
        self.state = state
        self.saved.write_state(state)

    def _round(self, number, model):
        started = time.perf_counter()
        if number:
            fix_seed(self.settings.seed, number)
            model = self._pruned(number, model)
        fix_draws(model, self.settings.seed, number)
        first, optimizer = _steps(model), optimizer_of(model)
        before = _structure(model)
        found = self._trained(number, model)
        if isinstance(found, keras.Model):
            model = found
            _check_returned(model, before)
        elif optimizer_of(model) is not optimizer:  # the function called `compile`
            first = 0
        replicas.average_statistics(model)  # so the file holds what is measured
        taken = _steps(model)
        steps = None if taken is None else taken - (first or 0)
        self._add_row(number, model, steps, time.perf_counter() - started, found)
        self.saved.write(model, self.history)
        return model

    def _pruned(self, number, model):
        arguments = self.settings.arguments(number)
        if self.cost:
            now = self.settings.cost(model)
            arguments["sparsity"] = self.settings.relative(number, self.cost, now)
        layout = arguments["layout"]
        if self.settings.rewinds:  # which needs whole kernels
            arguments["layout"] = "masked"
        pruned = prune(model, self.dataset, self.settings.method, **arguments)
        self._rewind(pruned, model)
        return pruned if layout == "masked" else layouts.to_layout(pruned, layout)

    def _rewind(self, pruned, before):
        if self.state:
            self.state.restore(pruned)
        elif optimizer_of(pruned):
            if self.settings.rewind is None:
                set_steps(pruned, steps_taken(before))
            else:
                _reset_rate(pruned.optimizer, optimizer_of(self.given))

    def _trained(self, number, model):
        watch, epoch = None, 0
        if self.settings.rewind and self.settings.rewinds:
            last = self.history.rows[0].steps if number else None
            watch = training.Watch(self.settings.rewind, self._note, last)
            epoch = self.state.epoch if self.state and number else 0
        found = self.train(model, number, watch, epoch)
        if watch and watch.late and not self.state:
            self.state = self.saved.state()  # of the process that took the step
        model = found if isinstance(found, keras.Model) else model
        ends = watch and not number and steps_taken(model) <= self.settings.rewind
        if watch and (ends or not self.state):
            raise ValueError(
                "The training must run `fit` of the model that it is given, and go "
                f"beyond step `rewind`. Received: rewind={self.settings.rewind}, and a "
                f"training of {steps_taken(model)} steps. Pass a smaller one (with "
                "`steps_per_execution`, a multiple of that), or train longer."
            )
        _check_trained(number, model)
        return found

    def _add_row(self, number, model, steps, seconds, found):
        left = kept(self.settings.kernels(model))
        before = self.history.rows[-1].total_steps if self.history.rows else 0
        counted = None if None in (steps, before) else before + steps
        metrics = numbers(found)
        if self.evaluate is not None:
            metrics = self._measured(model)
        sparsity = 1 - left / self.total
        row = Round(
            number, sparsity, left, self.total, steps, counted, seconds, metrics
        )
        self.history = RoundsHistory([*self.history.rows, row])
        told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        logging.info("Round %d: sparsity %.4f, %s", number, sparsity, told or "trained")

    def _measured(self, model):
        if callable(self.evaluate):
            found = self.evaluate(model)
            return {"value": float(found)} if is_number(found) else numbers(found)
        arguments = {"x": self.evaluate}
        if isinstance(self.evaluate, tuple):
            names = ("x", "y", "sample_weight")
            arguments = dict(zip(names, self.evaluate, strict=False))
        return numbers(model.evaluate(**arguments, return_dict=True, verbose=0))


def _structure(model):
    masks = [k.mask for k in find_kernels(model) if k.mask is not None]
    return [v.shape for v in model.weights], digest(masks)


def _check_trained(number, model):
    wrong = [v.path for v in model.trainable_variables if not np.isfinite(v).all()]
    if wrong:
        raise FloatingPointError(
            f"Weights must stay finite. Received: NaN or infinite ones in {wrong[0]} "
            f"after the training of round {number}. Check the data and the learning "
            "rate; earlier rounds are not changed."
        )


def _check_returned(model, before):
    if _structure(model) != before:
        raise ValueError(
            "A model that `train` returns must have the weights and masks of the one "
            f"that it was given. Received: {model.name}, with others. Return a copy of "
            "the given model, or None."
        )


def _steps(model):
    return steps_taken(model) if optimizer_of(model) else None


def _reset_rate(optimizer, given):
    # A schedule has no state but the step count, which is 0 in a copy.
    rate = given and given.learning_rate
    if isinstance(rate, keras.Variable):
        optimizer.learning_rate = rate.value
