"""The arguments of `iterative_pruning` in one object, checked before any work."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_prune_init import plan
from keras_prune_init._arguments import check_whole, is_whole
from keras_prune_init.api import prune
from keras_prune_init.channels.groups import ChannelGroups
from keras_prune_init.layers.kernels import Kernel, find_kernels
from keras_prune_init.masks.allocation import Allocation
from keras_prune_init.masks.patterns import NofM
from keras_prune_init.masks.schedules import check_schedule, get_schedule
from keras_prune_init.masks.selection import check_sparsity
from keras_prune_init.masks.top_k import removed_count
from keras_prune_init.methods import Method, get_method
from keras_prune_init.options import Options, what_of
from keras_prune_init.rounds.folder import described, described_object
from keras_prune_init.rounds.rewinding import optimizer_of
from keras_prune_init.scoring.checks import prunable_kernels
from keras_prune_init.surgery.exchange import masked_layers

LEARNING_RATE = "learning_rate"
# The other arguments of `prune` with their defaults. No `rescale`: it is for networks
# that were never trained.
OPTIONS = {
    name: inspect.signature(prune).parameters[name].default
    for name in (
        *("loss", "what", "batches", "samples_per_class", "filters", "layout"),
        "verbose",
    )
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """When rounds prune how much, and what they go back to.

    The attributes have the names of the arguments of `iterative_pruning`. With `whole`,
    the model is trained whole first, in round 0.
    """

    method: str | Method
    sparsity: float
    rounds: int
    rewind: int | str | None
    schedule: Any
    allocation: Any
    seed: int
    options: dict[str, Any]
    whole: bool = False

    def __post_init__(self):
        check_sparsity(self.sparsity)
        check_whole("rounds", self.rounds, 1)
        check_rewind(self.rewind)
        object.__setattr__(self, "method", get_method(self.method))
        object.__setattr__(self, "schedule", get_schedule(self.schedule))
        object.__setattr__(self, "allocation", Allocation.of(self.allocation))
        object.__setattr__(self, "whole", self.whole or self.rewinds)
        unknown = [name for name in self.options if name not in OPTIONS]
        if unknown:
            raise ValueError(
                "Other arguments of `iterative_pruning` are arguments of `prune`: "
                f"{', '.join(OPTIONS)}. Received: {', '.join(unknown)}. Leave it out."
            )
        self._check_rises()
        object.__setattr__(self, "options", OPTIONS | self.options)
        self._check_options()

    def _check_rises(self):
        check_schedule(self.schedule, self.rounds, self.sparsity)
        found = [0.0, *(self.sparsity_of(n) for n in range(1, self.rounds + 1))]
        if not all(a < b for a, b in zip(found, found[1:], strict=False)):
            raise ValueError(
                "Every round must prune more than the one before. Received: the "
                f"sparsities {', '.join(f'{s:.4g}' for s in found[1:])}, of sparsity="
                f"{self.sparsity}, rounds={self.rounds}. Pass another `schedule`, or a "
                "larger sparsity."
            )

    def _check_options(self):
        if self.rounds > 1 and isinstance(what_of(self.options["what"]), NofM):
            raise ValueError(
                "N of M weights are kept from the first round on, so there is nothing "
                f"left for others. Received: what={self.options['what']!r}, rounds="
                f"{self.rounds}. Pass rounds=1."
            )
        every = [self.options_of(n) for n in range(1, self.rounds + 1)]
        if every[0].cuts_channels and self.rewinds:
            raise ValueError(
                "A model without its channels has no place for earlier weights. "
                f"Received: what='channels', rewind={self.rewind}. Pass rewind=None or "
                f"rewind={LEARNING_RATE!r}."
            )

    @property
    def rewinds(self) -> bool:
        """Whether rounds go back to earlier weights."""
        return is_whole(self.rewind)

    @property
    def cuts_channels(self) -> bool:
        """Whether whole channels are removed."""
        return self.options_of(1).cuts_channels

    def sparsity_of(self, number: int, final: float | None = None) -> float:
        """Return the sparsity after a round; `final` is that of the last one."""
        final = self.sparsity if final is None else final
        if number == self.rounds:
            return final
        return float(self.schedule(number / self.rounds, final))

    def arguments(self, number: int) -> dict[str, Any]:
        """Return the arguments of `prune` for a round, for a model before pruning."""
        rule = self.allocation.rule
        if isinstance(rule, Mapping):
            rule = {k: self.sparsity_of(number, v) for k, v in rule.items()}
        allocation = Allocation(rule, self.allocation.min_per_layer)
        sparsity = self.sparsity_of(number)
        return {
            "sparsity": sparsity,
            "allocation": allocation,
            "seed": self.seed,
            **self.options,
        }

    def options_of(self, number: int) -> Options:
        """Return these arguments, checked."""
        return Options(**self.arguments(number))

    def kernels(self, model: keras.Model) -> list[Kernel]:
        """Return the kernels that are pruned, of a model at any time."""
        if masked_layers(model):
            return [k for k in find_kernels(model) if k.wrapper]
        options = self.options_of(1)
        return prunable_kernels(model, options.filters, options.fits)

    def cost(self, model: keras.Model) -> int:
        """Return what the sparsity is a fraction of, if channels are removed."""
        budget = self.options_of(1).what.budget
        return ChannelGroups(model, self.kernels(model), budget).cost

    def relative(self, number: int, before: int, now: int) -> float:
        """Return how much of a model without some channels a round removes.

        Its cost is `now`; without pruning it was `before`.
        """
        keep = before - removed_count(self.sparsity_of(number), before)
        return max(0.0, 1 - keep / now)

    def check(self, model: keras.Model, dataset: Any) -> None:
        """Raise the errors of all rounds, before the first one."""
        if self.rewinds and masked_layers(model):
            raise ValueError(
                "A model that goes back to earlier weights is pruned from the start. "
                f"Received: rewind={self.rewind}, and {model.name}, which is pruned. "
                "`strip` it, or pass rewind=None."
            )
        if self.rewind and self.rewinds and not optimizer_of(model):
            raise ValueError(
                "Steps are counted by the optimizer. Received: rewind="
                f"{self.rewind}, and {model.name}, which has none. Call `compile` "
                "before, and not in `train`."
            )
        if isinstance(dataset, Iterator):
            raise ValueError(
                "Every round reads the dataset anew, and a generator can be read once. "
                f"Received: dataset={dataset!r}. Pass arrays, a tf.data.Dataset, or a "
                "keras.utils.PyDataset."
            )
        made = plan.make(model, dataset, self.method, self.options_of(1))
        other = made.recipe.model is not model and not masked_layers(model)
        if made.recipe.finish or other:
            raise ValueError(
                "Rounds prune networks that were trained. Received: method="
                f"{type(self.method).__name__}, which also changes a network before "
                "its training. Pass another method, such as 'magnitude'."
            )
        shapes = {k.path: k.shape for k in made.kernels}
        for each in map(self.options_of, range(1, self.rounds + 1)):
            each.allocation.check(shapes, each.sparsity)

    def description(
        self, model: keras.Model, dataset: Any, train: Any
    ) -> dict[str, Any]:
        """Return what must be the same if the rounds go on in another process."""
        return {
            "method": described_object(self.method),
            "sparsity": self.sparsity,
            "rounds": self.rounds,
            "rewind": self.rewind,
            "schedule": described(self.schedule),
            "allocation": described_object(self.allocation),
            "seed": self.seed,
            "options": {k: _what(v) for k, v in self.options.items()},
            "dataset": described(dataset),
            "train": described(train),
            "weights": [list(v.shape) for v in model.weights],
        }


def _what(value):
    own = type(value).__module__.startswith("keras_prune_init.")
    return described_object(value) if own else described(value)


def check_rewind(rewind: Any) -> None:
    """Raise a ValueError unless `rewind` is one of what rounds can go back to."""
    if rewind not in (None, LEARNING_RATE) and not is_whole(rewind, 0):
        raise ValueError(
            "`rewind` must be None (go on), 'learning_rate', or the number of the step "
            f"to go back to, 0 or more. Received: rewind={rewind!r}. Pass rewind=0 for "
            "lottery tickets."
        )


def size(kernels: list[Kernel]) -> int:
    """Return how many weights some kernels have, removed or not."""
    return sum(math.prod(k.shape) for k in kernels)


def kept(kernels: list[Kernel]) -> int:
    """Return how many weights of some kernels are kept."""
    return sum(
        math.prod(k.shape) if k.mask is None else int(k.mask.sum()) for k in kernels
    )
