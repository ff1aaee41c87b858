"""Which groups of the matrices go, and what the merged model then costs."""

from __future__ import annotations

import bisect
import math
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init.channels.groups import ChannelGroups
from keras_prune_init.hinge.matrix import HingeMatrix
from keras_prune_init.hinge.proximal import ALONG
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.layers.walk import Address
from keras_prune_init.masks.top_k import removed_count
from keras_prune_init.surgery import rebuild


class Pair(NamedTuple):
    """A convolution and the matrix behind it."""

    matrix: HingeMatrix  # in the model with hinges
    conv_at: Address  # of the convolution in the copy of ordinary layers ...
    matrix_at: Address  # ... and of what stands there for the matrix
    conv: int  # their positions in `ChannelGroups.kernels`
    last: int
    groups: np.ndarray  # of channels that its rows read, or that its columns make

    def norms(self) -> np.ndarray:
        """Return the norms of the rows or columns."""
        values = self.matrix.kernel.numpy()[0, 0].astype(np.float64)
        return np.linalg.norm(values, axis=ALONG[self.matrix.sparse])


class Hinges:
    """The groups of a model with hinges, and its multiply-adds once it is merged.

    Attributes:
        plain: A copy of the model with ordinary layers in place of its matrices.
        channels: The groups of channels of `plain`.
        pairs: A `Pair` for each hinge.
    """

    def __init__(self, model: keras.Model):
        matrices = {}

        def ordinary(layer, copier):
            if not isinstance(layer, HingeMatrix):
                return None
            copier.leave_out(layer.variables)
            new = layer.ordinary()
            matrices[id(new)] = layer
            return new

        self.plain = rebuild.copy_model(model, change=ordinary)
        kernels = find_kernels(self.plain)
        self.channels = ChannelGroups(self.plain, kernels, "flops")
        plan = self.channels.plan
        order = [*plan.kernels]
        self.pairs = []
        for last, i in enumerate(order):
            layer = plan.kernels[i].layer
            if id(layer) in matrices:
                [parent] = plan.nodes[i].parents
                matrix = matrices[id(layer)]
                made = plan.groups[parent if matrix.sparse == "rows" else i]
                at, end = (plan.kernels[n].record.address for n in (parent, i))
                conv = order.index(parent)
                self.pairs.append(Pair(matrix, at, end, conv, last, made))
        self.total = self.macs(self.channels.all())

    def macs(self, kept: np.ndarray) -> int:
        """Return the multiply-adds of the merged model with these groups."""
        saved = (max(self._saved(pair, kept), 0) for pair in self.pairs)
        return self.channels.cost_of(kept) - sum(saved)

    def merges(self, pair: Pair, kept: np.ndarray) -> bool:
        """Whether one convolution is at least as cheap as the two layers."""
        return self._saved(pair, kept) >= 0

    def _saved(self, pair, kept):
        """Return the multiply-adds that are saved if the two layers become one."""
        conv, last = (self.channels.kernels[i] for i in (pair.conv, pair.last))
        sides = (
            np.count_nonzero(kept[conv.inputs]),
            np.count_nonzero(kept[last.outputs]),
        )
        one = conv.price * conv.shape[0] * math.prod(sides)
        return conv.price * conv.count(kept) + last.price * last.count(kept) - int(one)

    def removed(self, threshold: float, least: float) -> float:
        """Return the fraction of multiply-adds in groups up to a norm."""
        norms, groups = self._order(least)
        return 1 - self.macs(self._without(groups[norms <= threshold])) / self.total

    def choose(self, sparsity: float, least: float) -> np.ndarray:
        """Return which groups stay, if those of the smallest norms go.

        The threshold is found by bisection: the smallest that removes at least the
        fraction `sparsity` of multiply-adds. Rows whose loss saves nothing stay.
        """
        _, groups = self._order(least)
        goal = self.total - removed_count(sparsity, self.total)

        def enough(count):
            return self.macs(self._without(groups[:count])) <= goal

        count = bisect.bisect_left(range(len(groups) + 1), True, key=enough)
        if count > len(groups):
            possible = 1 - self.macs(self._without(groups)) / self.total
            works = math.floor(possible * 1e4) / 1e4
            raise ValueError(
                "Every matrix must keep a part of its groups. Received: "
                f"sparsity={sparsity:.4g} with least={least:.4g}, which allow "
                f"{works:.4f} at most. Pass that, or a smaller `least`."
            )
        kept = self._without(groups[:count])
        for pair in self.pairs:
            if pair.matrix.sparse == "rows" and self.merges(pair, kept):
                kept[pair.groups] = True  # in one convolution its rank costs nothing
        return kept

    def _order(self, least):
        """Return norms and groups that may go, the smallest norms first."""
        norms, groups = [], []
        for pair in self.pairs:
            found = pair.norms()
            stay = max(math.ceil(least * len(found)), 1)
            free = np.argsort(found, kind="stable")[: len(found) - stay]
            norms.append(found[free])
            groups.append(pair.groups[free])
        norms, groups = np.concatenate(norms), np.concatenate(groups)
        order = np.argsort(norms, kind="stable")
        return norms[order], groups[order]

    def _without(self, groups):
        kept = self.channels.all()
        kept[groups] = False
        return kept
