"""Check a configuration before any work."""

import itertools

import ml_collections

from keras_prune_init._arguments import is_number, is_whole
from keras_prune_init.train import (
    default_config,
    during,
    moving,
    prune_config,
    strategies,
)
from keras_prune_init.train.data import augment
from keras_prune_init.train.optimizer import SCHEDULES

# No run takes more steps, epochs or images in a batch.
MOST = 10**9


def flat(config: dict, prefix: str = "") -> dict:
    """Return `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    values: dict = {}
    for key, value in config.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


def _whole(least, most=MOST):
    rule = f"a whole number, {least} or more, and at most {most:,}"
    return rule, lambda v: is_whole(v, least) and v <= most


def _one_of(names):
    return f"one of {', '.join(map(repr, names))}", lambda v: v in names


def _rise(drops):
    if not isinstance(drops, (tuple, list)) or not all(map(is_number, drops)):
        return False
    return all(low < high for low, high in itertools.pairwise((0, *drops, 1)))


_FLAG = "True or False", lambda v: isinstance(v, bool)
_FROM_0 = "a number, 0 or more", lambda v: is_number(v) and v >= 0
_BELOW_1 = "a number, at least 0 and below 1", lambda v: is_number(v) and 0 <= v < 1

# Options whose ranges the methods know.
NUMBERS = (
    *("penalty", "drop", "weight_decay", "mu", "growth"),
    *("l0_penalty", "l1_penalty", "l1_ball", "nuclear", "group", "sparse"),
    *("strength", "rate_ratio", "least"),
)
DEFAULTS = flat(default_config.get_config().to_dict())
# Of every key that is no name: what it must be, and whether it is.
RULES = {
    "seed": _whole(0, 2**32 - 1),
    "smoke": _FLAG,
    "data.image_size": _whole(1),
    "data.skip_corrupt": _FLAG,
    "data.rand_augment": _BELOW_1,
    "data.mix": _one_of(augment.MIXES),
    "model.depth": _whole(1),
    "model.width": (
        "a whole number, 1 or more, or one for each hidden layer",
        lambda v: all(is_whole(n, 1) for n in (v if isinstance(v, tuple) else (v,))),
    ),
    "prune.sparsity": _BELOW_1,
    "prune.rounds": _whole(1),
    "prune.options.iterations": _whole(1),
    "prune.batches": _whole(1),
    "prune.samples_per_class": _whole(1),
    "prune.scoring_batch_size": _whole(1),
    "prune.min_per_layer": _whole(0),
    "prune.multiple_of": _whole(1),
    "prune.options.temperature": _FROM_0,
    "prune.options.pooled": _FLAG,
    "prune.options.every": _whole(1),
    "prune.options.begin": _whole(0),
    "prune.options.end": _whole(1),
    "prune.options.fraction": _FROM_0,
    "prune.options.power": _FROM_0,
    "prune.options.initial": _BELOW_1,
    "prune.options.dense_epochs": _whole(0),
    "prune.options.tune_epochs": _whole(0),
    **{f"prune.options.{name}": _FROM_0 for name in NUMBERS},
    "prune.options.energy": (
        "a number above 0 and up to 1",
        lambda v: is_number(v) and 0 < v <= 1,
    ),
    "prune.options.steps": _whole(1),
    "prune.options.augmented": _FLAG,
    "prune.rescale": _FLAG,
    "train.epochs": _whole(1),
    "train.steps": _whole(1),
    "train.save_every": _whole(1),
    "train.batch_size": _whole(1),
    "train.learning_rate": _FROM_0,
    "train.schedule": _one_of(SCHEDULES),
    "train.drops": (
        "rising fractions of the training between 0 and 1, such as (0.5, 0.75)",
        _rise,
    ),
    "train.warmup_epochs": _FROM_0,
    "train.momentum": ("a number, 0 to 1", lambda v: is_number(v) and 0 <= v <= 1),
    "train.nesterov": _FLAG,
    "train.weight_decay": _FROM_0,
    "train.label_smoothing": _BELOW_1,
    "train.quantize_aware": _FLAG,
    "train.quantize_epochs": _whole(1),
    "train.precision": _one_of(strategies.PRECISIONS),
}
# Those that may be None, as in the default.
OPTIONAL = {key for key in RULES if DEFAULTS[key] is None}


def check_config(config: ml_collections.ConfigDict, replicas: int = 1) -> None:
    """Raise a ValueError that names the first key with a wrong value.

    `replicas` is the number of devices that share a batch.
    """
    values = flat(config.to_dict())
    for key, (rule, fits) in RULES.items():
        if key.startswith("model.") and ":" in config.model.name:
            continue  # arguments of a function that is not ours
        value = values.get(key)
        if not (value is None and key in OPTIONAL or fits(value)):
            raise ValueError(
                f"`{key}` must be {rule}. Received: {key}={value!r}. Set another "
                f"--config.{key}."
            )
    if config.prune.method in during.SYSTEMS:
        during.check_config(config)
    else:
        _check_masks(config)
    train = config.train
    if train.batch_size % replicas:
        raise ValueError(
            "`train.batch_size` is for all replicas together, and each must get the "
            f"same part. Received: train.batch_size={train.batch_size} for "
            f"{replicas} replicas. Pass a multiple of {replicas}."
        )
    if train.quantize_aware and (train.steps or train.quantize_epochs >= train.epochs):
        raise ValueError(
            "`train.quantize_epochs` are the last of the epochs, which follow others. "
            f"Received: train.quantize_epochs={train.quantize_epochs} with "
            f"train.epochs={train.epochs} and train.steps={train.steps}. Set more "
            "--config.train.epochs, and no steps."
        )
    if train.warmup_epochs and train.schedule != "cosine":
        raise ValueError(
            "`train.warmup_epochs` works only with train.schedule='cosine'. Received: "
            f"train.warmup_epochs={train.warmup_epochs} with "
            f"train.schedule={train.schedule!r}. Set --config.train.warmup_epochs=0."
        )


def _check_masks(config):
    """Check what the masks at the start are, and how they change."""
    if not (rules := moving.rules(config)):
        prune_config.rounds(config)
    first = prune_config.arguments(moving.first(config))
    if first["layout"] != "masked" and not all(rule.fixed_counts for rule in rules):
        raise ValueError(
            f"`prune.layout` {first['layout']!r} stores a fixed number of weights. "
            f"Received: prune.method={config.prune.method!r}, which changes the "
            "number. Set --config.prune.layout=masked."
        )
