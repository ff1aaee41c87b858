"""Methods of `config.prune.method` that train a network into a smaller one.

The training has three phases, one after the other on the same schedule of the learning
rate: `dense_epochs` of plain training, then the method, then `tune_epochs` in which
what it removed stays removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import ml_collections

import keras_prune_init as kpi
from keras_prune_init.layers.filters import check_filters
from keras_prune_init.train import moving, prune_config
from keras_prune_init.train.data import feed
from keras_prune_init.train.optimizer import float_steps, total_steps
from keras_prune_init.train.systems import SYSTEMS, Middle, System

# Of `config.prune`, what only masks have that are chosen before training.
ELSEWHERE = {"layout": "masked", "allocation": "global", "min_per_layer": 0}
UNKNOWN = Middle(0, 10**15, None)  # before images are loaded


class Phase(NamedTuple):
    """A part of a training, whose steps are counted from the start of all of it.

    Attributes:
        begin: Number of steps before it.
        end: Number of steps after it.
        change: What makes its model of the one before it; `None`: that is the same.
        callbacks: Those before the one that saves.
        last: Those after it.
    """

    begin: int
    end: int
    change: Callable[[keras.Model], keras.Model] | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    last: Sequence[keras.callbacks.Callback] = ()


def phases(config: ml_collections.ConfigDict, data) -> list[Phase]:
    """Return the phases of a training, which is one for most methods.

    Raises:
        ValueError: If the method needs more steps than there are for it.
    """
    steps = data.steps(config.train.batch_size)
    total = float_steps(config.train, steps)
    if config.prune.method not in SYSTEMS:
        rules = moving.rules(config, total_steps(config.train, steps))
        return [Phase(0, total, callbacks=rules)]
    dense, tune = epochs(config)
    middle = Middle(dense * steps, total - tune * steps, data)
    system = _system(config, middle)
    return [
        Phase(0, middle.begin),
        Phase(*middle[:2], system.begin, system.callbacks, system.last),
        Phase(middle.end, total, system.end),
    ]


def changes(config: ml_collections.ConfigDict) -> bool:
    """Whether the method leaves other masks than it began with."""
    return config.prune.method in (*moving.RULES, *SYSTEMS)


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raise a ValueError if a system cannot run so; all keys have values that fit."""
    prune_config.check_moves(config, ELSEWHERE)
    check_filters(config.prune.filters)
    system, train = _system(config, UNKNOWN), config.train
    dense, tune = epochs(config)
    if (train.steps and dense + tune) or _float_epochs(config) <= dense + tune:
        raise ValueError(
            "`prune.options.dense_epochs` are the first and `tune_epochs` the last of "
            "the epochs, with others between them. Received: dense_epochs="
            f"{dense} and tune_epochs={tune} (by default a quarter of all), with "
            f"train.epochs={train.epochs} and train.steps={train.steps}. Set more "
            "--config.train.epochs, and no steps."
        )
    if system.tuned and not tune:
        raise ValueError(
            f"What {config.prune.method!r} makes must be trained on. Received: "
            "prune.options.tune_epochs=0. Set 1 or more."
        )


def begin(config: ml_collections.ConfigDict, data, model: keras.Model) -> keras.Model:
    """Return the model with which a training begins, from a new one.

    Raises:
        ValueError: If the method cannot treat the model.
    """
    if config.prune.method not in SYSTEMS:
        arguments = prune_config.arguments(moving.first(config))
        return kpi.prune_at_init(model, feed.scoring(config, data), **arguments)
    system = _system(config, UNKNOWN._replace(data=data))
    system.check(model)
    if not system.masked:
        return model
    # Masks that keep all: files have the paths of their kernels, from which draws come.
    place = {"filters": config.prune.filters, "sparsity": 0.0}
    return kpi.prune_at_init(model, method="magnitude", **place)


def epochs(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """Return the number of epochs before a system works, and after it."""
    options, system = config.prune.options, SYSTEMS[config.prune.method]
    quarter = max(_float_epochs(config) // 4, 1)
    begins_dense = system.trained and config.model.get("weights") is None
    dense, tune = options.dense_epochs, options.tune_epochs
    return (
        begins_dense * quarter if dense is None else dense,
        system.tuned * quarter if tune is None else tune,
    )


def _float_epochs(config):
    train = config.train
    return train.epochs - train.quantize_aware * train.quantize_epochs


def _system(config, middle) -> System:
    options = {k: v for k, v in config.prune.options.items() if v is not None}
    for name in ("dense_epochs", "tune_epochs"):
        options.pop(name, None)
    make = SYSTEMS[config.prune.method]
    return prune_config.made(config, make, config, middle, **options)
