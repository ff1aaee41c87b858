"""The part `config.prune` of a configuration as arguments of `prune_at_init`."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from keras_prune_init.channels.choosing import Channels
from keras_prune_init.masks.allocation import Allocation
from keras_prune_init.masks.densities import ALLOCATIONS
from keras_prune_init.methods import get_method
from keras_prune_init.options import what_of
from keras_prune_init.rounds.settings import LEARNING_RATE, Settings


def arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the arguments of `prune_at_init` without model and dataset.

    Raises:
        ValueError: If a key has no such value, or two values do not go together.
    """
    given = config.prune.to_dict()
    for name in ("scoring_batch_size", "rounds", "rewind"):
        given.pop(name)
    options = {k: v for k, v in given.pop("options").items() if v is not None}
    for name in ("allocation", "min_per_layer"):
        given.pop(name)
    batches = given.pop("batches")
    return {
        "method": get_method(given.pop("method"), **options),
        "what": _what(given.pop("what"), given.pop("budget"), given.pop("multiple_of")),
        "allocation": allocation(config),
        "batches": "auto" if batches is None else batches,
        "seed": config.seed,
        **given,
    }


def allocation(config: ml_collections.ConfigDict) -> Allocation:
    """Return the argument `allocation` of `prune_at_init`."""
    return Allocation(_rule(config.prune.allocation), config.prune.min_per_layer)


def rewind(config: ml_collections.ConfigDict) -> int | str:
    """Return the argument `rewind` of `iterative_pruning`."""
    text = config.prune.rewind
    if text is None:  # the schedules of this binary end after one training
        return LEARNING_RATE
    if text != LEARNING_RATE and not text.isdecimal():
        raise ValueError(
            "`prune.rewind` must be 'learning_rate' or the number of a step. Received: "
            f"prune.rewind={text!r}. Set for example --config.prune.rewind=0."
        )
    return text if text == LEARNING_RATE else int(text)


def rounds(config: ml_collections.ConfigDict) -> Settings | None:
    """Return the arguments of `iterative_pruning`; `None`: there is one pruning.

    Raises:
        ValueError: If a key has no such value, or two values do not go together.
    """
    back = rewind(config)
    if config.prune.rounds is None:
        if config.prune.rewind is not None:
            raise ValueError(
                "`prune.rewind` says how rounds begin. Received: prune.rewind="
                f"{config.prune.rewind!r} and no rounds. Set --config.prune.rounds."
            )
        return None
    options = arguments(config)
    if options.pop("rescale") or config.train.quantize_aware:
        raise ValueError(
            "Rounds prune what was trained, in floats: `prune.rescale` is for networks "
            "before training, and `train.quantize_aware` for one training that ends "
            f"in int8. Received: prune.rounds={config.prune.rounds} with one of them. "
            "Set it to False."
        )
    given = {name: options.pop(name) for name in ("method", "sparsity", "allocation")}
    return Settings(
        **given,
        rounds=config.prune.rounds,
        rewind=back,
        schedule="exponential",
        seed=options.pop("seed"),
        options=options,
        # A model without weights of a file was never trained.
        whole=config.model.get("weights") is None,
    )


def check_moves(
    config: ml_collections.ConfigDict, more: Mapping[str, Any] | None = None
) -> None:
    """Raise a ValueError if a key has a value that methods while training do not read.

    `more` has the defaults of other such keys.
    """
    prune, stays = config.prune, {"rounds": None, "what": "weights", "rescale": False}
    for key, value in {**stays, **(more or {})}.items():
        if prune[key] != value:
            raise ValueError(
                f"`prune.{key}` is for masks that stay. Received: prune.{key}="
                f"{prune[key]!r} with prune.method={prune.method!r}, which decides "
                f"while the network trains. Leave it out, or use another method."
            )


def made(config: ml_collections.ConfigDict, make: Callable, *args, **options):
    """Return what a function makes of the options of a method.

    Raises:
        ValueError: If they are those of another method.
    """
    try:
        return make(*args, **options)
    except TypeError as e:
        raise ValueError(
            f"`prune.options` must be those of the method. Received: {options} for "
            f"prune.method={config.prune.method!r}, of which Python says: {e}. Change "
            "them."
        ) from e


def _what(name, budget, multiple_of):
    if name == "channels":
        return Channels(budget, multiple_of)
    if budget != "params" or multiple_of != 1:
        raise ValueError(
            "`prune.budget` and `prune.multiple_of` are of channels. "
            f"Received: prune.what={name!r}, prune.budget={budget!r}, "
            f"prune.multiple_of={multiple_of}. Set --config.prune.what=channels."
        )
    return what_of(name)


def _rule(text):
    """Return the name of an allocation, or the dict of `pattern=sparsity,...`."""
    if text in ALLOCATIONS:
        return text
    rule = {}
    for part in text.split(","):
        pattern, _, sparsity = part.rpartition("=")
        try:
            rule[pattern.strip()] = float(sparsity)
        except ValueError:
            raise ValueError(
                "`prune.allocation` must be one of "
                f"{', '.join(ALLOCATIONS)}, or pattern=sparsity,pattern=sparsity. "
                f"Received: {part!r} in prune.allocation={text!r}. Write it as in "
                "stage3=0.98,logits=0.5."
            ) from None
    return rule
