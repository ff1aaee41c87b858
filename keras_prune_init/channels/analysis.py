"""Which channels of a network are in use, and which can only be removed together.

Every tensor of the graph has one channel for each entry of its last axis. (For images
with channels first, it is the second axis.) Channels form a group if they pass through
the same layer without weights, or if they are added to each other. A residual stream
has one group for each of its channels, however many blocks add to it.

Two things are known of each channel. It is constant if nothing that varies reaches it
through kept weights. It is needed if something that varies goes from it through kept
weights to an output. Groups of channels that are constant or not needed can be cut out.
If they emit another value than 0, it is added to the biases of the layers that read it.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init.channels import rules
from keras_prune_init.graph.wiring import Node, graph_with_outputs
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.layers.types import Trait, has

L = keras.layers


class Analysis(NamedTuple):
    """The result of `analyse`; its lists have an entry for each node of the graph."""

    nodes: list[Node]
    kernels: dict[int, rules.ChannelMap]  # by the position of the node
    groups: list[np.ndarray]  # the number of the group of each channel of its output
    constants: list[np.ndarray]  # what each of them is in inference; NaN: it varies
    kept: np.ndarray  # whether each group stays
    fixed: np.ndarray  # whether each group must stay, whatever the weights are
    reasons: dict[str, set[int]]  # with the groups that stay only because of it
    first: bool  # whether the channels of images come first

    def keeps(self, node: int) -> np.ndarray:
        """Return which channels of a node's output stay."""
        return self.kept[self.groups[node]]


def analyse(model: keras.Model) -> Analysis:
    """Find what can be cut out of a Sequential or Functional model."""
    return _Search(model).result()


class _Search:
    def __init__(self, model):
        self.model = model
        self.nodes, self.outputs = graph_with_outputs(model)
        self.first = rules.is_first(self.nodes)
        self.parent = []  # of groups that became one
        self.groups, self.constants, self.kernels = [], [], {}
        self.records = {id(k.layer): k for k in find_kernels(model)}
        self.pinned, self.reasons = set(), {}
        self.unknown = set()  # nodes that may mix all channels they read
        calls = [id(node.operation) for node in self.nodes]
        self.shared = {key for key in calls if calls.count(key) > 1}

    def result(self):
        for node in self.nodes:
            self._forward(node)
        needed = [np.zeros(len(g), bool) for g in self.groups]
        for output in self.outputs:
            needed[output][:] = True
            self._pin(self.groups[output])
        for i in reversed(range(len(self.nodes))):
            self._backward(i, needed)
        groups = [np.array([self._root(g) for g in ids], int) for ids in self.groups]
        kept = np.zeros(len(self.parent), bool)
        for ids, constant, need in zip(groups, self.constants, needed, strict=True):
            kept[ids[need & np.isnan(constant)]] = True
        reasons = {
            reason: {g for g in map(self._root, found) if not kept[g]}
            for reason, found in self.reasons.items()
        }
        fixed = np.zeros(len(kept), bool)
        fixed[[self._root(g) for g in self.pinned]] = True
        kept |= fixed
        for ids in groups:  # every layer keeps a channel
            if len(ids) and not kept[ids].any():
                kept[ids[0]] = True
        found = self.nodes, self.kernels, groups, self.constants
        return Analysis(*found, kept, fixed, reasons, self.first)

    # --- groups -----------------------------------------------------------------------

    def _root(self, group):
        while self.parent[group] != group:
            self.parent[group] = group = self.parent[self.parent[group]]
        return group

    def _new(self, count):
        first = len(self.parent)
        self.parent += range(first, first + count)
        return np.arange(first, first + count)

    def _pin(self, groups, reason=None):
        self.pinned.update(int(g) for g in groups)
        if reason:
            self.reasons.setdefault(reason, set()).update(int(g) for g in groups)

    # --- forward: groups and constants ------------------------------------------------

    def _forward(self, node):
        parents = [(self.groups[p], self.constants[p]) for p in node.parents]
        known = id(node.operation) not in self.shared and not self._enters(node)
        made = self._made(node, parents) if known else None
        if made is None:  # nothing is known: all inputs and outputs stay
            self.unknown.add(len(self.groups))
            for groups, _ in parents:
                name = getattr(node.operation, "name", "an input")
                self._pin(groups, f"`{name}` reads them in a way that is not known")
            groups = self._new(rules.width(node, self.first))
            self._pin(groups)
            made = groups, np.full(len(groups), np.nan)
        self.groups.append(made[0])
        self.constants.append(made[1])

    def _enters(self, node):
        """Whether a nested model begins here; its inputs have their own shape."""
        owners = [self.nodes[p].owner for p in node.parents]
        return node.owner is not self.model and any(v is not node.owner for v in owners)

    def _made(self, node, parents):
        operation, first = node.operation, self.first
        kind = type(operation).__name__
        if len(parents) > 1:
            axis = getattr(operation, "axis", None)
            if kind == "Concatenate" and rules.is_channel_axis(axis, node, first):
                groups, constants = zip(*parents, strict=True)
                return np.concatenate(groups), np.concatenate(constants)
            if first and len({len(shape) for shape in node.given}) > 1:
                return None  # channels meet an axis of pixels
            return self._merged(rules.MERGES.get(kind), parents)
        if not parents or not node.made:
            return None
        [(groups, constant)] = parents
        record = self.records.get(id(node.layer))
        if kernel := rules.channel_map(node, record, len(groups), first):
            self.kernels[len(self.groups)] = kernel
            return self._through_kernel(kernel, groups, constant)
        if isinstance(operation, L.BatchNormalization):
            if not rules.is_channel_axis(operation.axis, node, first):
                return None
            return groups, rules.normalized(operation, constant)
        if isinstance(operation, L.Flatten):
            return rules.flattened(node, groups, constant, first)
        if has(operation, Trait.ACTIVATES) and rules.by_number(operation):
            return groups, rules.applied(operation, constant)
        same = rules.width(node, first) == len(groups)
        if kind == "Reshape" and same and not first and rules.is_vector(node):
            return groups, constant
        if not rules.as_model(operation, first):
            return None
        if has(operation, Trait.PADS):
            return groups, np.where(constant == 0, 0, np.nan)
        if has(operation, Trait.CHANNELWISE):
            return groups, constant
        return None

    def _merged(self, function, parents):
        sizes = {len(groups) for groups, _ in parents}
        if function is None or len(sizes) > 1:
            return None
        constant = parents[0][1]
        for groups, other in parents[1:]:
            for one, two in zip(parents[0][0], groups, strict=True):
                self.parent[self._root(two)] = self._root(one)
            both = function(constant, other)
            if function is np.multiply:
                both = np.where((constant == 0) | (other == 0), 0, both)
            constant = both
        return parents[0][0], constant

    def _through_kernel(self, kernel, groups, constant):
        varies = np.isnan(constant)
        given = np.where(varies, 0, constant)
        if rules.is_depthwise(kernel.layer):
            count = kernel.weights.shape[-1]
            groups = np.repeat(groups, count)
            # In the order of the output: channel first.
            dead = ~kernel.kept.any(0) | ~varies[:, None]
            sums = kernel.weights.sum(0) * given[:, None]
            uneven = (sums != 0) & (not kernel.even)
            dead, sums = (dead & ~uneven).ravel(), sums.ravel()
        else:
            dead = ~kernel.kept[:, varies].any((0, 1))
            sums = np.einsum("pio,i->o", kernel.weights, given)
            if not kernel.even:
                dead &= ~kernel.kept[:, given != 0].any((0, 1))
            groups = self._new(len(dead))
        if kernel.layer.use_bias:
            sums = sums + kernel.layer.bias.numpy()
        made = np.where(dead & rules.by_number(kernel.layer), sums, np.nan)
        return groups, rules.applied(kernel.layer.activation, made)

    # --- backward: needs --------------------------------------------------------------

    def _backward(self, i, needed):
        node, need = self.nodes[i], needed[i]
        if i in self.kernels:
            self._needs_of_kernel(i, needed)
            return
        start = 0
        for parent in node.parents:
            size = len(self.groups[parent])
            if i in self.unknown:
                read = True
            elif type(node.operation).__name__ == "Concatenate":
                read = need[start : start + size]
            elif isinstance(node.operation, L.Flatten):
                read = need.reshape(-1, size).any(0)
            else:
                read = need if len(need) == size else True
            needed[parent] |= read
            start += size

    def _needs_of_kernel(self, i, needed):
        kernel, [parent] = self.kernels[i], self.nodes[i].parents
        live = needed[i] & np.isnan(self.constants[i])
        if rules.is_depthwise(kernel.layer):
            live = live.reshape(kernel.weights.shape[1:])
            needs = (kernel.kept.any(0) & live).any(1)
        else:
            needs = kernel.kept[:, :, live].any((0, 2))
        constant = self.constants[parent]
        if not kernel.even:
            stays = needs & ~np.isnan(constant) & (constant != 0)
            self._pin(
                self.groups[parent][stays],
                f"`{kernel.layer.name}` reads a constant that is not 0, and its padding"
                " makes it uneven",
            )
        needed[parent] |= needs
