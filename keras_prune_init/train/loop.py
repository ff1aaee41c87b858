"""What training is made of: the optimizer, its schedule, and how long it lasts."""

import itertools

import keras

from keras_prune_init.train import strategy as strategies

SCHEDULES = ("constant", "cosine", "step")


def check(config, replicas: int = 1) -> None:
    """Raises ValueError if the `train` part of a configuration makes no training."""
    for name in ("epochs", "steps", "batch_size", "save_every"):
        if config[name] is not None and config[name] < 1:
            raise ValueError(
                f"`train.{name}` must be at least 1. Received: train.{name}="
                f"{config[name]}. Pass for example --config.train.{name}=8."
            )
    if config.batch_size % replicas:
        raise ValueError(
            "`train.batch_size` is that of all replicas together, of which each gets "
            f"the same part. Received: train.batch_size={config.batch_size} for "
            f"{replicas} replicas. Pass a multiple of {replicas}."
        )
    if config.schedule not in SCHEDULES:
        raise ValueError(
            f"`train.schedule` must be one of {SCHEDULES}. Received: "
            f"train.schedule={config.schedule!r}. Choose one of them."
        )
    if config.precision not in strategies.PRECISIONS:
        raise ValueError(
            f"`train.precision` must be one of {strategies.PRECISIONS}. Received: "
            f"train.precision={config.precision!r}. Choose one of them."
        )
    if config.warmup_epochs and config.schedule != "cosine":
        raise ValueError(
            "`train.warmup_epochs` works only with train.schedule='cosine'. Received: "
            f"train.warmup_epochs={config.warmup_epochs} with "
            f"train.schedule={config.schedule!r}. Set --config.train.warmup_epochs=0."
        )
    bounds = (0, *config.drops, 1)
    if not all(low < high for low, high in itertools.pairwise(bounds)):
        raise ValueError(
            "`train.drops` must be rising fractions of the training, between 0 and 1. "
            f"Received: train.drops={config.drops}. Pass for example "
            "--config.train.drops='(0.5, 0.75)'."
        )


def total_steps(config, steps: int) -> int:
    """Batches of the whole training, with `steps` batches in an epoch."""
    return config.steps or config.epochs * steps


def steps_taken(model: keras.Model) -> int:
    """Batches that the optimizer of a model has seen, also in earlier processes.

    Not those whose gradients overflowed in float16: a run that goes on repeats them.
    """
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def optimizer(config, steps: int) -> keras.optimizers.Optimizer:
    """SGD as the `train` part of the configuration describes it.

    Args:
        config: The `train` part; default_config.py explains its keys.
        steps: Batches in an epoch.
    """
    return keras.optimizers.SGD(
        _learning_rate(config, steps),
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay or None,
    )


def _learning_rate(config, steps):
    # A function of the optimizer's step count, so it needs nothing else to resume.
    schedules = keras.optimizers.schedules
    total, peak = total_steps(config, steps), config.learning_rate
    if config.schedule == "constant":
        return peak
    if config.schedule == "step":
        # Keras changes the rate after the boundary step, and counts from 0.
        boundaries = [round(total * drop) - 1 for drop in config.drops]
        rates = [peak * 0.1**count for count in range(len(boundaries) + 1)]
        return schedules.PiecewiseConstantDecay(boundaries, rates)
    warmup = min(round(config.warmup_epochs * steps), total - 1)
    if not warmup:
        return schedules.CosineDecay(peak, total)
    return schedules.CosineDecay(
        0.0, total - warmup, warmup_target=peak, warmup_steps=warmup
    )
