"""A training in phases: between two of them, the model becomes another one."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import keras
from absl import logging

from keras_prune_init.rounds.rewinding import set_steps, steps_taken
from keras_prune_init.train import fitting, run_folder, strategies
from keras_prune_init.train.during import Phase


def train(
    folder: pathlib.Path, config, data, model: keras.Model, phases: Sequence[Phase]
) -> keras.Model:
    """Train in all phases, from wherever the model is; return the last model.

    A file of the first step of a phase is one of the phase before. So the number of
    steps says which phase a file is of, and a change is made again if a run was stopped
    before the next file. A last phase without steps has no such file: its change must
    leave a model alone that it has made.
    """
    taken = steps_taken(model)
    for phase in phases:
        if phase.change and taken <= phase.begin:
            model = phase.change(model)
            set_steps(model, phase.begin)
            logging.info("After step %d the model has changed.", phase.begin)
        fitting.fit(
            folder,
            config,
            data,
            model,
            callbacks=phase.callbacks,
            last=phase.last,
            until=phase.end,
        )
        taken = max(taken, phase.end)
    unsaved = phases[-1].change and phases[-1].begin == phases[-1].end
    if unsaved and strategies.is_chief(model.distribute_strategy):
        with run_folder.saving(folder, "at its end", "Its training is."):
            with run_folder.atomic(folder / run_folder.MODEL) as path:
                model.save(path)
    return model
