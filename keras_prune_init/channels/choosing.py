"""Structured pruning: which channels go, by their scores and by what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init._arguments import check_choice, check_whole
from keras_prune_init.channels.groups import BUDGETS, ChannelGroups
from keras_prune_init.masks.top_k import removed_count

ALLOCATIONS = ("global", "uniform")


class Scoring(NamedTuple):
    """What a method scores channels with.

    Attributes:
        total: Function from kernel-shaped tensors, in the order of the network's
            kernels, to their sums over all weights that go with a channel.
        cost: Of each channel the cost of those weights, 1 or more.
    """

    total: Callable[[Iterable], np.ndarray]
    cost: np.ndarray


class Channels:
    """Channels as what is removed; the same methods as `granularity.Weights`.

    Args:
        model: The model to prune.
        kernels: Those whose output channels may go.
        sparsity: That of the last iteration.
        allocation: `"global"` or `"uniform"`: the same part of each set of channels
            that the same layers make.
        min_per_layer: Channels that each layer keeps at least.
        budget: What sparsity is a fraction of, see `ChannelGroups`.
        multiple_of: What the numbers of channels are to be multiples of.

    Raises:
        ValueError: As `ChannelGroups`, or if `allocation` does not fit.
    """

    def __init__(
        self, model, kernels, sparsity, allocation, min_per_layer, budget, multiple_of
    ):
        if allocation not in ALLOCATIONS:
            raise ValueError(
                f"The `allocation` of channels must be one of {ALLOCATIONS}. "
                f"Received: allocation={allocation!r}. Choose one of them."
            )
        self.groups = ChannelGroups(model, kernels, budget)
        self.sparsity = sparsity
        self.uniform = allocation == "uniform"
        self.least, self.multiple = min_per_layer, multiple_of

    def scores(self, method, network, weights, within):
        cost = np.maximum(self.groups.costs(self._kept(within)), 1)
        scoring = Scoring(self.groups.total, cost)
        return {"channels": method.channel_scores(network, weights, scoring)}

    def choose(self, scores, sparsity, within):
        groups = self.groups
        kept = self._kept(within)
        chunks = self._chunks(scores["channels"], kept)

        def left(count):
            after = kept.copy()
            after[[g for chunk in chunks[:count] for g in chunk]] = False
            return after

        goal = groups.cost - removed_count(sparsity, groups.cost)
        count = _first(len(chunks), lambda n: groups.cost_of(left(n)) <= goal)
        most = _first(len(chunks), lambda n: groups.emptied(left(n))) - 1
        if count > most:
            possible = 1 - groups.cost_of(left(most)) / groups.cost
            self._refuse(sparsity, possible, groups.emptied(left(most + 1)))
        return groups.masks(left(count))

    def _refuse(self, sparsity, possible, layer):
        why = f"`{layer}` would keep no channel" if layer else "all others must stay"
        if sparsity != self.sparsity:  # in one of several iterations
            why = f"on the way, at {sparsity:.4g}, {why}"
        works = math.floor(possible * 1e4) / 1e4
        raise ValueError(
            "Every layer must keep a channel. "
            f"Received: sparsity={self.sparsity:.4g}, with which {why}. The largest "
            f"sparsity that works is {works:.4f}; pass it, or another allocation, "
            "`min_per_layer` or method."
        )

    def cut(self, model: keras.Model, masks) -> keras.Model:
        """A copy of the model without the channels that masks remove."""
        return self.groups.cut(model, self.groups.kept(masks))

    def _kept(self, within):
        if within is None:
            return self.groups.all()
        return self.groups.kept(dict(zip(self.groups.shapes, within, strict=True)))

    def _chunks(self, values, kept):
        """Groups that are removed together, in the order in which they go."""
        found, costs = [], self.groups.costs(kept)
        # Of equal ones the first stay longest.
        for groups in reversed(self.groups.sets):
            here = groups[kept[groups]][::-1]
            order = here[np.argsort(values[here], kind="stable")]
            # The first chunk leaves a multiple.
            size = min(self.multiple, -(-len(groups) // 2))
            start, end = 0, len(order) % size or size
            while end <= len(order) - self.least:
                chunk = order[start:end]
                key = values[chunk].mean()
                if self.uniform:  # of equal parts first what saves most
                    part = (len(groups) - len(order) + end) / len(groups)
                    key = part, -costs[chunk].sum()
                found.append((key, chunk))
                start, end = end, end + size
        return [chunk for _, chunk in sorted(found, key=lambda pair: pair[0])]


def _first(count, holds):
    """The smallest n <= count for which something holds; one more, if there is none.

    It must hold for all n after the first for which it does.
    """
    low, high = 0, count + 1
    while low < high:
        middle = (low + high) // 2
        if middle > count or holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def check_arguments(granularity: str, budget: str, multiple_of: int) -> None:
    """Raise a `ValueError` if an argument of channels is out of range, or of no use."""
    if not isinstance(granularity, str):
        raise ValueError(
            "`granularity` must be a name such as 'weight', 'channel', 'block:1x4' or "
            f"'2:4'. Received: granularity={granularity!r}. Pass one of them."
        )
    check_choice("budget", budget, BUDGETS)
    check_whole("multiple_of", multiple_of, 1)
    if granularity != "channel" and (budget != "params" or multiple_of != 1):
        raise ValueError(
            "`budget` and `multiple_of` are of channels. "
            f"Received: granularity={granularity!r}, budget={budget!r}, "
            f"multiple_of={multiple_of}. Pass granularity='channel'."
        )
