"""The arguments of `prune_at_init` in one object, checked before any work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from keras_prune_init._arguments import check_flag, check_whole
from keras_prune_init.channels.choosing import Channels
from keras_prune_init.layers.filters import Filters, check_filters
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.masks.allocation import Allocation
from keras_prune_init.masks.patterns import Blocks, NofM, Weights, What
from keras_prune_init.masks.selection import check_sparsity
from keras_prune_init.surgery.exchange import check_layout


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `prune_at_init` without the model, its data and the method.

    The attributes have the names of the arguments. `what` and `allocation` are objects,
    also if names were given.
    """

    sparsity: float
    loss: Any
    allocation: Any
    batches: int | str | None
    samples_per_class: int | None
    filters: Filters
    seed: int
    verbose: int
    what: Any = "weights"
    layout: str = "masked"
    rescale: bool = False
    only: Callable[[Kernel], bool] | None = None  # which kernels can be pruned at all

    def __post_init__(self):
        check_sparsity(self.sparsity)
        object.__setattr__(self, "what", what_of(self.what))
        object.__setattr__(self, "allocation", Allocation.of(self.allocation))
        self.what.check(self.sparsity, self.allocation)
        check_filters(self.filters)
        check_layout(self.layout)
        if self.cuts_channels and self.layout != "masked":
            raise ValueError(
                "If channels are cut out there are no masks, so there is no `layout`."
                f" Received: what='channels', layout={self.layout!r}. Leave `layout` "
                "out."
            )
        check_flag("rescale", self.rescale)
        check_flag("verbose", self.verbose)
        if self.batches not in (None, "auto"):
            check_whole("batches", self.batches, 1)
        check_whole("seed", self.seed, 0)

    @property
    def cuts_channels(self) -> bool:
        """Whether whole channels are removed, so that no masks are left."""
        return isinstance(self.what, Channels)

    def fits(self, kernel: Kernel) -> bool:
        """Whether a kernel consists of whole units, and is one that can be pruned."""
        return self.what.fits(kernel) and (self.only is None or self.only(kernel))


def what_of(value: str | What) -> What:
    """Return the object that an argument `what` stands for."""
    if isinstance(value, What):
        return value
    named = {"weights": Weights, "channels": Channels}
    if isinstance(value, str) and value in named:
        return named[value]()
    for separator, cls in (("x", Blocks), (":", NofM)):
        if found := re.fullmatch(rf"(\d+){separator}(\d+)", str(value)):
            return cls(*map(int, found.groups()))
    hint = f"Write {value.__name__}()" if isinstance(value, type) else "Choose one"
    raise ValueError(
        "`what` must be 'weights', 'channels', blocks of outputs x inputs such as "
        "'1x4', N of M such as '2:4', or an object such as keras_prune_init.Channels()."
        f" Received: what={value!r}. {hint}."
    )
