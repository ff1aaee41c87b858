"""Train the model of a run to its end, from wherever it is."""

import functools
import pathlib
import sys
from collections.abc import Sequence

import keras
from absl import logging

from keras_prune_init.distribute import workers
from keras_prune_init.rounds.rewinding import steps_taken
from keras_prune_init.train import checkpoints, strategies
from keras_prune_init.train.data import feed
from keras_prune_init.train.optimizer import LearningRate, float_steps, learning_rate


def fit(
    folder: pathlib.Path,
    config,
    data,
    pruned: keras.Model,
    first: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    last: Sequence[keras.callbacks.Callback] = (),
    until: int | None = None,
) -> None:
    """Train in floats to the end.

    Args:
        folder: Where the training is saved.
        config: The configuration of the run.
        data: Its images.
        pruned: The model, from wherever its training is.
        first: The step with which the training in this folder began.
        callbacks: Those that come before the one that saves.
        last: Those that come after it.
        until: The number of steps after which to end; `None`: all of the training.
    """
    batch_size = config.train.batch_size
    strategy = pruned.distribute_strategy
    chief = strategies.is_chief(strategy)
    replicas, hosts = strategy.num_replicas_in_sync, workers.hosts(strategy)
    steps = data.steps(batch_size)
    taken = steps_taken(pruned)
    total = float_steps(config.train, steps) if until is None else until
    if taken >= total:  # stopped between the last epoch and what follows
        return
    logging.info("Training from step %d to %d, %d an epoch", taken, total, steps)
    saving = checkpoints.Checkpoints(
        folder,
        taken,
        total,
        steps=steps,
        batch_size=batch_size,
        every=config.train.save_every,
        writes=chief,
        first=first,
    )

    rate = functools.partial(learning_rate, config.train, steps)

    def fit_to(end, taken):
        epoch, within = divmod(taken, steps)
        pruned.fit(
            feed.training(config, data, taken, end - epoch, hosts),
            shuffle=False,  # the batches are shuffled already
            initial_epoch=epoch,
            epochs=end,
            steps_per_epoch=steps - within,
            validation_data=feed.testing(config, data, replicas),
            callbacks=[*callbacks, LearningRate(rate, taken), saving, *last],
            verbose=(1 if sys.stdout.isatty() else 2) if chief else 0,
        )

    with saving.on_sigterm():
        if taken % steps:  # Keras knows epochs of one length only
            fit_to(taken // steps + 1, taken)
            taken += -taken % steps
        if taken < total:
            fit_to(-(-total // steps), taken)
