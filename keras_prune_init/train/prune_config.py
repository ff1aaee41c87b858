"""The part `config.prune` of a configuration as arguments of `prune_at_init`."""

from typing import Any

import ml_collections

from keras_prune_init.channels.choosing import Channels
from keras_prune_init.masks.allocation import Allocation
from keras_prune_init.masks.densities import ALLOCATIONS
from keras_prune_init.methods import get_method
from keras_prune_init.options import what_of


def arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the arguments of `prune_at_init` without model and dataset.

    Raises:
        ValueError: If a key has no such value, or two values do not go together.
    """
    given = config.prune.to_dict()
    given.pop("scoring_batch_size")
    options = {k: v for k, v in given.pop("options").items() if v is not None}
    rule = _rule(given.pop("allocation"))
    return {
        "method": get_method(given.pop("method"), **options),
        "what": _what(given.pop("what"), given.pop("budget"), given.pop("multiple_of")),
        "allocation": Allocation(rule, given.pop("min_per_layer")),
        "seed": config.seed,
        **given,
    }


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
