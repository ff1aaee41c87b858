"""Check a configuration before any work."""

import itertools

import ml_collections

from keras_prune_init._arguments import is_number, is_whole
from keras_prune_init.train import prune_config, strategies
from keras_prune_init.train.data import augment
from keras_prune_init.train.optimizer import SCHEDULES

# No run takes more steps, epochs or images in a batch.
MOST = 10**9


def _whole(least):
    rule = f"a whole number, {least} or more, and at most {MOST:,}"
    return rule, lambda v: is_whole(v, least) and v <= MOST


def _from_0(most=float("inf"), below=float("inf")):
    end = " or more" if most == below else f" to {most}" if most < below else ""
    rule = f"a number, 0{end}" if end else f"a number, at least 0 and below {below}"
    return rule, lambda v: is_number(v) and 0 <= v <= most and v < below


_FLAG = "True or False", lambda v: isinstance(v, bool)


def _one_of(names):
    return f"one of {', '.join(map(repr, names))}", lambda v: v in names


# Of every key that is no name: what it must be, and whether it is.
RULES = {
    "seed": (
        "a whole number from 0 to 2**32 - 1",
        lambda v: is_whole(v, 0) and v < 2**32,
    ),
    "smoke": _FLAG,
    "data.image_size": _whole(1),
    "data.skip_corrupt": _FLAG,
    "data.rand_augment": _from_0(below=1),
    "data.mix": _one_of(augment.MIXES),
    "model.depth": _whole(1),
    "model.width": _whole(1),
    "prune.sparsity": _from_0(below=1),
    "prune.options.iterations": _whole(1),
    "prune.batches": _whole(1),
    "prune.samples_per_class": _whole(1),
    "prune.scoring_batch_size": _whole(1),
    "prune.min_per_layer": _whole(0),
    "prune.multiple_of": _whole(1),
    "prune.options.temperature": _from_0(),
    "prune.rescale": _FLAG,
    "train.epochs": _whole(1),
    "train.steps": _whole(1),
    "train.save_every": _whole(1),
    "train.batch_size": _whole(1),
    "train.learning_rate": _from_0(),
    "train.schedule": _one_of(SCHEDULES),
    "train.warmup_epochs": _from_0(),
    "train.momentum": _from_0(most=1),
    "train.nesterov": _FLAG,
    "train.weight_decay": _from_0(),
    "train.label_smoothing": _from_0(below=1),
    "train.precision": _one_of(strategies.PRECISIONS),
}
# Those that may be None, for a default.
OPTIONAL = {
    "data.image_size",
    "model.depth",
    "model.width",
    "prune.options.iterations",
    "prune.options.temperature",
    "prune.batches",
    "prune.samples_per_class",
    "prune.scoring_batch_size",
    "train.steps",
    "train.save_every",
}


def _part(config, path):
    for name in filter(None, path.split(".")):
        config = config[name]
    return config


def check_config(config: ml_collections.ConfigDict, replicas: int = 1) -> None:
    """Raise a ValueError that names the first key with a wrong value.

    Args:
        config: The whole configuration; `default_config.py` explains its keys.
        replicas: Number of devices that share a batch.
    """
    for key, (rule, fits) in RULES.items():
        part, _, name = key.rpartition(".")
        if part == "model" and ":" in config.model.name:
            continue  # arguments of a function that is not ours
        value = _part(config, part).get(name)
        if not (value is None and key in OPTIONAL or fits(value)):
            raise ValueError(
                f"`{key}` must be {rule}. Received: {key}={value!r}. Set another "
                f"--config.{key}."
            )
    prune_config.arguments(config)
    train = config.train
    if train.batch_size % replicas:
        raise ValueError(
            "`train.batch_size` is for all replicas together, and each must get the "
            f"same part. Received: train.batch_size={train.batch_size} for "
            f"{replicas} replicas. Pass a multiple of {replicas}."
        )
    if train.warmup_epochs and train.schedule != "cosine":
        raise ValueError(
            "`train.warmup_epochs` works only with train.schedule='cosine'. Received: "
            f"train.warmup_epochs={train.warmup_epochs} with "
            f"train.schedule={train.schedule!r}. Set --config.train.warmup_epochs=0."
        )
    drops = train.drops if isinstance(train.drops, (tuple, list)) else (None,)
    bounds = (0, *drops, 1)
    rising = all(map(is_number, bounds)) and all(
        low < high for low, high in itertools.pairwise(bounds)
    )
    if not rising:
        raise ValueError(
            "`train.drops` must be rising fractions of the training, between 0 and 1. "
            f"Received: train.drops={train.drops!r}. Pass for example "
            "--config.train.drops='(0.5, 0.75)'."
        )
