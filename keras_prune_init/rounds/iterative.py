"""`iterative_pruning`: prune, train, and again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_prune_init._arguments import check_model
from keras_prune_init.masks.allocation import Allocation
from keras_prune_init.masks.densities import Densities
from keras_prune_init.masks.schedules import Schedule
from keras_prune_init.methods import Method
from keras_prune_init.rounds.checks import (
    check_evaluate,
    check_loads,
    check_rewind_fits,
    check_train,
)
from keras_prune_init.rounds.driver import Rounds
from keras_prune_init.rounds.folder import Folder, Nowhere
from keras_prune_init.rounds.history import RoundsHistory
from keras_prune_init.rounds.settings import Settings
from keras_prune_init.rounds.training import by_fit, by_function


def iterative_pruning(
    model: keras.Model,
    dataset: Any,
    method: str | Method,
    *,
    sparsity: float,
    rounds: int,
    train: Callable[[keras.Model], Any] | Mapping[str, Any],
    rewind: int | str | None = None,
    schedule: Schedule = "exponential",
    allocation: str | Densities | Mapping[str, float] | Allocation = "global",
    evaluate: Any = None,
    folder: str | os.PathLike | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[keras.Model, RoundsHistory]:
    """Prune a model in rounds, with training after each of them.

    Use it for what one step of pruning would break: a trained model that recovers
    between the steps (`rewind=None` or `"learning_rate"`), and lottery tickets, whose
    kept weights go back to what they were at step `rewind` of the first training.

    Args:
        model: A built Keras model; it is not changed. With a number as `rewind` it is
            at its initial weights, and is trained whole first, as round 0. Otherwise
            it is trained already.
        dataset: What the method reads, as in `prune`, but no generator, because each
            round reads it. `None` for methods that need none.
        method: A name of `method_names()` or a method object, such as `"magnitude"`.
        sparsity: Fraction of all prunable weights that is removed in the end,
            0 < sparsity < 1. The count is exact.
        rounds: Number of rounds, 1 or more.
        train: A function that trains the model that it is given, or a dict with the
            arguments of `fit`. The function may return a Keras `History` or a dict of
            metrics, which the result then holds, or a `keras.Model` to go on with in
            place of the given one. If it calls `compile`, the optimizer begins anew in
            each round.
        rewind: `None`: weights and the step count of the optimizer go on, so its
            schedule of the learning rate does too. `"learning_rate"`: weights go on,
            and the schedule is run anew in each round. A number `k`: kept weights and
            everything else (biases, statistics, optimizer with step count and slots)
            go back to their values after step `k` of round 0; 0 is before the first
            step. With `k` > 0 the training must run `fit`, and each later round takes
            `k` steps fewer than round 0.
        schedule: How the sparsity grows: `"exponential"` (the same fraction of what is
            left in each round), `"linear"`, or a function `(progress in (0, 1],
            sparsity) -> sparsity`.
        allocation: How much each layer loses, as in `prune`. The sparsities of a dict
            are those of the end, and grow by the same schedule.
        evaluate: What is measured after each round: data for the model's `evaluate`, or
            a function from model to a dict or number. `None`: what `train` returned,
            and of that what begins with `val_`, if there is any.
        folder: If given, every round is saved there: its model with the optimizer,
            history.json, and the values to go back to. The same call goes on after the
            last whole round. It must be empty or absent at first, and your own classes
            must be registered with Keras.
        seed: The seed of methods that draw random numbers. Before each round the seeds
            of the process and of the model's layers are set from it and the number of
            the round. So rounds that were stopped end with the same weights as others,
            bit for bit if operations are deterministic, and if the order of the data
            does not depend on earlier rounds, as that of `tf.data`'s `shuffle` does.
        **options: Other arguments of `prune`: `loss`, `what`, `batches`,
            `samples_per_class`, `filters`, `layout`, `verbose`. With `what="channels"`
            each round leaves a smaller model, and `rewind` can be no number.

    Returns:
        The pruned and trained model, and a `RoundsHistory` with a row for each round.

    Raises:
        ValueError: If an argument does not fit, or `folder` holds something else, other
            settings or damaged files; all this is checked before any work. During it,
            if a training does not go beyond step `rewind` or calls no `fit`, and for
            what `prune` refuses.
        FloatingPointError: If a training makes weights NaN or infinite.
        TypeError: If `model` is no Keras model, or `dataset` is of no known kind.
        OSError: If a round cannot be saved, as on a full disk.

    Example:

    >>> import keras, numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> ticket, history = kpi.iterative_pruning(
    ...     model, None, "magnitude", sparsity=0.75, rounds=2, rewind=0,
    ...     train=dict(x=x, y=y, verbose=0))
    >>> [row.kept for row in history.rows]
    [48, 24, 12]

    Reference:
        Frankle, Carbin, "The Lottery Ticket Hypothesis", 2019, arXiv 1803.03635;
        Frankle, Dziugaite, Roy, Carbin, "Linear Mode Connectivity and the Lottery
        Ticket Hypothesis", 2020, arXiv 1912.05671; Renda, Frankle, Carbin, "Comparing
        Rewinding and Fine-tuning in Neural Network Pruning", 2020, arXiv 2003.02389.
    """
    check_model(model)
    settings = Settings(
        method, sparsity, rounds, rewind, schedule, allocation, seed, options
    )
    check_train(train, model)
    check_rewind_fits(train, rewind)
    check_evaluate(evaluate, model)
    settings.check(model, dataset)
    saved = Nowhere()
    if folder is not None:
        check_loads(model)
        told = settings.description(model, dataset, train)
        saved = Folder(folder, told, model.distribute_strategy)
    trains = by_function(train) if callable(train) else by_fit(train)
    return Rounds(model, dataset, settings, trains, evaluate, saved).run()
