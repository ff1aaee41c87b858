"""A run in rounds: what trains each of them, and where that is saved.

The folder of the run has a folder `rounds` with every round that is whole. In it,
`round-3` has what the training of round 3 saved, so one that was stopped goes on at its
last saved step.
"""

import pathlib
from typing import cast

import keras

import keras_prune_init as kpi
from keras_prune_init.rounds.driver import Rounds
from keras_prune_init.rounds.folder import Folder
from keras_prune_init.rounds.rewinding import build_optimizer, steps_taken
from keras_prune_init.rounds.settings import Settings
from keras_prune_init.train import fitting, prune_config, run_folder, strategies
from keras_prune_init.train.data import feed
from keras_prune_init.train.optimizer import float_steps


def run(
    folder: pathlib.Path, given: dict, config, data, model: keras.Model
) -> tuple[keras.Model, kpi.RoundsHistory]:
    """Prune and train a new model in all rounds of a configuration.

    `given` is the configuration as the folder keeps it.

    Raises:
        ValueError: If the training ends before the step that rounds go back to, or a
            file of a stopped run is damaged.
        OSError: If a round cannot be saved.
    """
    settings = cast(Settings, prune_config.rounds(config))
    total = float_steps(config.train, data.steps(config.train.batch_size))
    if isinstance(settings.rewind, int) and settings.rewind >= total:
        raise ValueError(
            "`prune.rewind` must be a step before the last one. Received: prune.rewind="
            f"{settings.rewind}, and a training of {total} steps. Set a smaller one, "
            "or train longer."
        )
    batches = feed.scoring(config, data)
    settings.check(model, batches)
    strategy = model.distribute_strategy
    inside = folder / run_folder.ROUNDS
    saved = Folder(inside, settings.description(model, None, None), strategy)
    replicas = strategy.num_replicas_in_sync

    def evaluate(model):
        test = feed.testing(config, data, replicas)
        return model.evaluate(test, return_dict=True, verbose=0)

    def train(model, number, watch, epoch):
        return _train(inside, config, data, model, number, watch)

    if strategies.is_chief(strategy):
        run_folder.write_json(folder / run_folder.CONFIG, given)
    return Rounds(model, batches, settings, train, evaluate, saved).run()


def _train(inside, config, data, model, number, watch):
    """Train a round to its end, from where its own folder is; return its model."""
    here, first = inside / f"round-{number}", steps_taken(model)
    writes = strategies.is_chief(model.distribute_strategy)
    if (here / run_folder.MODEL).exists():
        with model.distribute_strategy.scope():
            model = kpi.enable_workers(run_folder.read_model(here))
    elif writes:
        here.mkdir(parents=True, exist_ok=True)
        # The epochs before the step that it goes back to were those of round 0.
        if epochs := first // data.steps(config.train.batch_size):
            rows = run_folder.read_history(inside / "round-0", epochs)
            run_folder.write_history(here, rows)
    if writes and number:  # which is whole, and saved as such
        before = inside / f"round-{number - 1}"
        (before / run_folder.MODEL).unlink(missing_ok=True)
        run_folder.forget_progress(before, None)
    build_optimizer(model)
    fitting.fit(here, config, data, model, first, [watch] if watch else [])
    return model


def copy_history(folder: pathlib.Path, config, epochs: int) -> None:
    """Write what the last round saw of each epoch beside the final model."""
    last = folder / run_folder.ROUNDS / f"round-{config.prune.rounds}"
    run_folder.write_history(folder, run_folder.read_history(last, epochs))
