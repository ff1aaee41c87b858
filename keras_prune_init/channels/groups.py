"""The channels of a model that can be removed, with everything that goes with them.

That is all channels of a group of `channels.analysis`, and the weights that make and
read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init.channels import analysis
from keras_prune_init.channels.rules import is_depthwise
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.reports import cost

BUDGETS = ("params", "flops")


class _Grid(NamedTuple):
    """The weights of a kernel, between the groups that it reads and makes."""

    path: str | None  # of its variable; `None`: it is not to be pruned
    name: str  # in messages
    inputs: np.ndarray | None  # groups of the channels that it reads; depthwise: `None`
    outputs: np.ndarray  # groups of the channels that it makes
    shape: tuple[int, ...]  # (positions, inputs, outputs); depthwise: 1 input
    price: int  # cost of one weight

    def kept(self, kept: np.ndarray) -> np.ndarray:
        """Return which weights are left with the groups that are kept, in `shape`."""
        inputs = np.ones(1, bool) if self.inputs is None else kept[self.inputs]
        return np.broadcast_to(inputs[:, None] & kept[self.outputs], self.shape)

    def count(self, kept: np.ndarray) -> int:
        """Return how many weights are left with the groups that are kept."""
        inputs = 1 if self.inputs is None else np.count_nonzero(kept[self.inputs])
        return int(inputs * np.count_nonzero(kept[self.outputs])) * self.shape[0]


class ChannelGroups:
    """What is known of a model's groups of channels; arrays have an entry for each.

    The output channels of `kernels` may be removed. `budget` is as in `Channels`.
    """

    def __init__(self, model: keras.Model, kernels: Sequence[Kernel], budget: str):
        self.plan = analysis.analyse(model)
        self.shapes = {k.path: k.shape for k in kernels}
        costs = cost.by_path(model)
        prices = {path: _price(found, budget) for path, found in costs.items()}
        # Of the whole model.
        self.cost = sum(found.total * prices[path] for path, found in costs.items())
        self.kernels = [
            self._grid(i, kernel, prices[kernel.record.path])
            for i, kernel in self.plan.kernels.items()
        ]
        self.pruned = [k for k in self.kernels if k.path is not None]
        # Groups that can be removed; those that the same layers make are one set.
        self.sets = self._sets()
        if not self.sets:
            raise ValueError(
                "The model must have channels that can be removed. "
                f"Received: {model.name}, whose channels must all stay"
                + "".join(f"; {reason}" for reason in [*self.plan.reasons][:3])
                + ". Remove weights in place of channels."
            )

    def _grid(self, i, kernel, price):
        [parent] = self.plan.nodes[i].parents
        inputs, outputs = self.plan.groups[parent], self.plan.groups[i]
        shape = len(kernel.weights), len(inputs), len(outputs)
        if is_depthwise(kernel.layer):
            inputs, shape = None, (shape[0], 1, shape[2])
        path = kernel.record.path
        path = path if path in self.shapes else None
        return _Grid(path, kernel.layer.name, inputs, outputs, shape, price)

    def _sets(self):
        makers = [[] for _ in self.plan.kept]
        free = ~self.plan.fixed
        for i, kernel in enumerate(self.kernels):
            for group in np.unique(kernel.outputs):
                makers[group].append(i)
            if kernel.path is None:
                free[kernel.outputs] = False
        sets = {}
        for group in np.flatnonzero(free):
            if makers[group]:
                sets.setdefault(tuple(makers[group]), []).append(group)
        return [np.array(groups) for groups in sets.values()]

    def all(self) -> np.ndarray:
        """Return the groups of the whole model, as a bool array."""
        return self.plan.kept.copy()

    def cost_of(self, kept: np.ndarray) -> int:
        """Return the cost of the model that keeps these groups."""
        every = self.plan.kept
        saved = (k.price * (k.count(every) - k.count(kept)) for k in self.kernels)
        return self.cost - sum(saved)

    def costs(self, kept: np.ndarray) -> np.ndarray:
        """Return the cost of the remaining weights that go with each group."""
        return self._sums((k, k.kept(kept).sum(0) * k.price) for k in self.kernels)

    def total(self, tensors: Iterable) -> np.ndarray:
        """Sum kernel-shaped tensors over the weights that go with each group."""
        return self._sums(self._matrices(tensors))

    def readers(self, tensors: Iterable) -> np.ndarray:
        """Sum kernel-shaped tensors over the weights that read each group.

        Those of a depthwise kernel only pass it on.

        Raises:
            ValueError: If a group that can be removed is read by a kernel that is not
                to be pruned, of which nothing is known.
        """
        free = np.concatenate(self.sets)
        for kernel in self.kernels:
            if kernel.path is not None or kernel.inputs is None:
                continue
            if np.intersect1d(kernel.inputs, free).size:
                raise ValueError(
                    "The weights that read a channel must be among those to prune, as "
                    f"they say how much it matters. Received: `{kernel.name}`, which "
                    "is left out. Change `filters`, or use another method."
                )
        total = np.zeros(len(self.plan.kept))
        for kernel, matrix in self._matrices(tensors):
            if kernel.inputs is not None:
                np.add.at(total, kernel.inputs, matrix.sum(1))
        return total

    def _matrices(self, tensors):
        values = dict(zip(self.shapes, tensors, strict=True))
        for k in self.pruned:
            array = np.asarray(values[k.path]).reshape(k.shape)
            yield k, array.sum(0, dtype=np.float64)  # over positions

    def _sums(self, pairs):
        total = np.zeros(len(self.plan.kept))
        for kernel, matrix in pairs:
            np.add.at(total, kernel.outputs, matrix.sum(0))
            if kernel.inputs is not None:
                if np.intersect1d(kernel.inputs, kernel.outputs).size:
                    # Weights that read and make the same channel count once.
                    same = kernel.inputs[:, None] == kernel.outputs
                    matrix = np.where(same, 0, matrix)
                np.add.at(total, kernel.inputs, matrix.sum(1))
        return total

    def emptied(self, kept: np.ndarray) -> str | None:
        """Return the name of the first layer that keeps no channel, or `None`."""
        empty = (k.name for k in self.kernels if not kept[k.outputs].any())
        return next(empty, None)

    def masks(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Return the masks of the kernels to prune, by path."""
        masks = {path: np.ones(shape, bool) for path, shape in self.shapes.items()}
        for kernel in self.pruned:
            masks[kernel.path] &= kernel.kept(kept).reshape(self.shapes[kernel.path])
        return masks

    def kept(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return which groups these masks keep; the inverse of `masks`."""
        kept = self.all()
        for kernel in self.pruned:
            made = masks[kernel.path].reshape(kernel.shape).any((0, 1))
            kept[kernel.outputs[~made]] = False
        return kept


def _price(found, budget):
    """Return the cost of one weight of a kernel."""
    if budget == "params":
        return 1
    if found.uses is None:
        raise ValueError(
            "budget='flops' needs the multiply-adds of every layer. "
            f"Received: a model in which those of {found.path} are not known. "
            "Use budget='params'."
        )
    return found.uses
