"""Structured pruning: which channels are removed, by their scores and their cost."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init._arguments import check_choice, check_whole
from keras_prune_init.channels import shrinking
from keras_prune_init.channels.groups import BUDGETS, ChannelGroups
from keras_prune_init.masks.patterns import Units, What
from keras_prune_init.masks.top_k import removed_count

RULES = ("global", "uniform")


class Scoring(NamedTuple):
    """What a method scores channels with.

    Attributes:
        total: Function that sums kernel-shaped tensors, in the order of the network's
            kernels, over all weights that go with each channel.
        cost: Cost of the weights that go with each channel, 1 or more.
        readers: Function like `total` that sums over the weights that read each
            channel, without those that make it.
    """

    total: Callable[[Iterable], np.ndarray]
    cost: np.ndarray
    readers: Callable[[Iterable], np.ndarray]


class Channels(What):
    """Remove whole units and filters, with everything that they are connected to.

    A channel is removed together with the channels that it is added to and the weights
    that read it. It is cut out, so an ordinary smaller model is left, which is fast
    everywhere.

    Args:
        budget: What the sparsity is a fraction of: `"params"`, the weights of all
            kernels, or `"flops"`, their multiply-adds. The channels with the lowest
            score for their cost are removed until at least this fraction is saved.
        multiple_of: Layers keep a multiple of this number of channels. (A layer that
            has less than twice as many keeps all or half of it.) Processors work on 8
            numbers at a time with AVX2 and 16 with AVX-512, so other numbers of
            channels gain little.

    Raises:
        ValueError: If an argument has no such value.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.Channels(budget="flops", multiple_of=8)
    Channels(budget='flops', multiple_of=8)
    """

    def __init__(self, budget: str = "params", multiple_of: int = 1):
        check_choice("budget", budget, BUDGETS)
        check_whole("multiple_of", multiple_of, 1)
        self.budget, self.multiple_of = budget, int(multiple_of)

    def __repr__(self):
        return f"Channels(budget={self.budget!r}, multiple_of={self.multiple_of})"

    def check(self, sparsity, allocation):
        if allocation.rule not in RULES:
            raise ValueError(
                f"The `allocation` of channels must be one of {RULES}, because "
                f"several layers can share a channel. Received: allocation="
                f"{allocation.rule!r}. Choose one of them."
            )

    def units(self, model, kernels, sparsity, allocation):
        return ChannelUnits(self, model, kernels, sparsity, allocation)


class ChannelUnits(Units):
    """The channels of a model, as units to remove.

    The allocation `"global"` ranks all channels; `"uniform"` removes the same fraction
    of each set of channels that the same layers make. Its minimum is the number of
    channels that each layer keeps at least.
    """

    def __init__(self, what, model, kernels, sparsity, allocation):
        self.groups = ChannelGroups(model, kernels, what.budget)
        self.sparsity = sparsity
        self.uniform = allocation.rule == "uniform"
        self.least, self.multiple = allocation.min_per_layer, what.multiple_of

    def scores(self, method, network, weights, within):
        cost = np.maximum(self.groups.costs(self._kept(within)), 1)
        scoring = Scoring(self.groups.total, cost, self.groups.readers)
        return {"channels": method.channel_scores(network, weights, scoring)}

    def choose(self, scores, within, now):
        groups, sparsity = self.groups, float(now(self.sparsity))
        kept = self._kept(within)
        chunks = self._chunks(scores["channels"], kept)

        def left(count):
            after = kept.copy()
            after[[g for chunk in chunks[:count] for g in chunk]] = False
            return after

        def enough(count):
            return groups.cost_of(left(count)) <= goal

        def too_many(count):
            return groups.emptied(left(count)) is not None

        goal = groups.cost - removed_count(sparsity, groups.cost)
        counts = range(len(chunks) + 1)
        count = bisect.bisect_left(counts, True, key=enough)
        most = bisect.bisect_left(counts, True, key=too_many) - 1
        if count > most:
            possible = 1 - groups.cost_of(left(most)) / groups.cost
            self._refuse(sparsity, possible, groups.emptied(left(most + 1)))
        return groups.masks(left(count))

    def _refuse(self, sparsity, possible, layer):
        why = f"`{layer}` would keep no channel"
        why = why if layer else "more channels would go than may go"
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
        """Return a copy of the model without the channels that masks remove."""
        plan = self.groups.plan._replace(kept=self.groups.kept(masks))
        return shrinking.cut(model, plan)

    def _kept(self, within):
        if within is None:
            return self.groups.all()
        return self.groups.kept(dict(zip(self.groups.shapes, within, strict=True)))

    def _chunks(self, values, kept):
        """Return the groups to remove together, in the order of removal."""
        found, costs = [], self.groups.costs(kept)
        # Of equal channels the first are removed last.
        for groups in reversed(self.groups.sets):
            here = groups[kept[groups]][::-1]
            order = here[np.argsort(values[here], kind="stable")]
            # After the first chunk a multiple is left.
            size = min(self.multiple, -(-len(groups) // 2))
            start, end = 0, len(order) % size or size
            while end <= len(order) - self.least:
                chunk = order[start:end]
                key = values[chunk].mean()
                if self.uniform:  # of equal parts, first what saves most
                    part = (len(groups) - len(order) + end) / len(groups)
                    key = part, -costs[chunk].sum()
                found.append((key, chunk))
                start, end = end, end + size
        return [chunk for _, chunk in sorted(found, key=lambda pair: pair[0])]
