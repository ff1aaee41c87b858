"""Methods of `config.prune.method` that change masks while the network trains."""

from __future__ import annotations

import copy
import inspect

import keras
import ml_collections

from keras_prune_init import callbacks
from keras_prune_init.train import prune_config

RANDOM = {"method": "random"}
DENSE = {"method": "magnitude", "sparsity": 0.0, "allocation": "global"}
# Of each: its class, and what of `config.prune` is other for the first masks.
RULES = {
    "set": (callbacks.SET, RANDOM),
    "rigl": (callbacks.RigL, RANDOM),
    # As its authors begin.
    "granet": (callbacks.GraNet, RANDOM | {"sparsity": 0.5, "allocation": "erk"}),
    "gradual_magnitude": (callbacks.GradualMagnitude, DENSE),
    "acdc": (callbacks.ACDC, DENSE),
}


def first(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Return a configuration whose `prune` says what the first masks are."""
    if config.prune.method not in RULES:
        return config
    _, changes = RULES[config.prune.method]
    initial = config.prune.options.initial
    config = copy.deepcopy(config)
    config.prune.update(changes)
    if initial is not None:
        config.prune.sparsity = initial
    config.prune.options = {}
    return config


def rules(
    config: ml_collections.ConfigDict, steps: int | None = None
) -> list[keras.callbacks.Callback]:
    """Return the callback that changes masks, if there is one.

    `steps` is the number of steps of the training.

    Raises:
        ValueError: If a key has no such value, or two values do not go together.
    """
    if config.prune.method not in RULES:
        return []
    rule, _ = RULES[config.prune.method]
    prune_config.check_moves(config)
    prune = config.prune
    known = {
        "sparsity": prune.sparsity,
        "allocation": prune_config.allocation(config),
        "initial": first(config).prune.sparsity,
        "seed": config.seed,
    }
    wanted = inspect.signature(rule).parameters
    options = {k: v for k, v in known.items() if k in wanted}
    options |= {k: v for k, v in prune.options.items() if v is not None}
    if steps is not None:
        begin = options.get("begin", 0)
        options.setdefault("end", max(steps * 3 // 4, begin + 1))
    made = prune_config.made(config, rule, **options)
    made.origin = 0  # a run may go on in the middle of an epoch
    return [made]
