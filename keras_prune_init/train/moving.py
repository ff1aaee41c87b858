"""Methods of `config.prune.method` that change masks while the network trains."""

from __future__ import annotations

import copy

import keras
import ml_collections

from keras_prune_init import callbacks
from keras_prune_init.train import prune_config

# Of each: its class, and the method of the first masks; `None`: they keep everything.
RULES = {
    "set": (callbacks.SET, "random"),
    "rigl": (callbacks.RigL, "random"),
    "granet": (callbacks.GraNet, "random"),
    "gradual_magnitude": (callbacks.GradualMagnitude, None),
    "acdc": (callbacks.ACDC, None),
}
# The sparsity with which `granet` begins, as its authors do.
HALF = 0.5


def first(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Return a configuration whose `prune` says what the first masks are."""
    if config.prune.method not in RULES:
        return config
    rule, method = RULES[config.prune.method]
    config = copy.deepcopy(config)
    if method is None:
        config.prune.method, config.prune.allocation = "magnitude", "global"
        config.prune.sparsity, config.prune.min_per_layer = 0.0, 0
    else:
        config.prune.method = method
        config.prune.sparsity = _initial(config, rule)
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
    prune = config.prune
    for key, value in (("rounds", None), ("what", "weights"), ("rescale", False)):
        if prune[key] != value:
            raise ValueError(
                f"`prune.{key}` is for masks that stay. Received: prune.{key}="
                f"{prune[key]!r} with prune.method={prune.method!r}, which changes "
                f"masks. Leave it out, or use another method."
            )
    options = {k: v for k, v in prune.options.items() if v is not None}
    if not issubclass(rule, (callbacks.SET, callbacks.RigL)) or _rises(rule):
        options |= {"sparsity": prune.sparsity}
        options |= {"allocation": prune_config.allocation(config)}
    if _rises(rule):
        options["initial"] = _initial(config, rule)
    if rule is callbacks.SET:
        options["seed"] = config.seed
    if steps is not None:
        begin = options.get("begin", 0)
        options.setdefault("end", max(steps * 3 // 4, begin + 1))
    try:
        return [rule(**options)]
    except TypeError as e:  # an option of another method
        raise ValueError(
            f"`prune.options` must be those of the method. Received: {options} for "
            f"prune.method={prune.method!r}, of which Python says: {e}. Change them."
        ) from e


def _rises(rule):
    return rule in (callbacks.GraNet, callbacks.GradualMagnitude)


def _initial(config, rule):
    """Return the sparsity before the first change."""
    if not _rises(rule):
        return config.prune.sparsity
    given = config.prune.options.get("initial")
    default = HALF if rule is callbacks.GraNet else 0.0
    return default if given is None else given
