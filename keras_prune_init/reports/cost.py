"""What a model costs: weights, multiply-adds, and the memory for training."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
from absl import logging

from keras_prune_init._arguments import check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.graph.inputs import ones_input
from keras_prune_init.layers.compact import CompactLayer
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.layers.patching import listener, patched
from keras_prune_init.layers.roles import CELL
from keras_prune_init.layers.types import Trait, has
from keras_prune_init.reports import table

# How many numbers an optimizer keeps for each trainable weight.
SLOTS = {"sgd": 0, "momentum": 1, "adam": 2}


class KernelCost(NamedTuple):
    """What one kernel costs.

    Attributes:
        path: Path of its variable in the model before pruning.
        shape: Shape of the kernel.
        total: Number of weights.
        kept: Number of weights that pruning kept.
        uses: How often each weight is multiplied for one sample, for example once for
            each output pixel of a convolution; `None` if it is not known.
    """

    path: str
    shape: tuple[int, ...]
    total: int
    kept: int
    uses: int | None

    @property
    def macs(self) -> int | None:
        """Multiply-adds of one sample with all weights; `None` if not known."""
        return None if self.uses is None else self.total * self.uses

    @property
    def effective_macs(self) -> int | None:
        """Multiply-adds of one sample with the kept weights; `None` if not known."""
        return None if self.uses is None else self.kept * self.uses


@dataclasses.dataclass(frozen=True)
class CostReport:
    """What a model costs; `str()` gives a table.

    Attributes:
        kernels: One `KernelCost` for each kernel, in definition order.
        others: Number of other trainable weights: biases, normalization, and kernels
            that cannot be pruned.
    """

    kernels: list[KernelCost]
    others: int

    @property
    def weights(self) -> int:
        """Number of trainable weights before pruning."""
        return sum(k.total for k in self.kernels) + self.others

    @property
    def kept(self) -> int:
        """Number of trainable weights after pruning."""
        return sum(k.kept for k in self.kernels) + self.others

    @property
    def macs(self) -> int | None:
        """Multiply-adds of a sample with all weights of kernels, if known."""
        return known_sum(k.macs for k in self.kernels)

    @property
    def effective_macs(self) -> int | None:
        """Multiply-adds of a sample with the kept weights of kernels, if known."""
        return known_sum(k.effective_macs for k in self.kernels)

    def state_bytes(self, layout: str, optimizer: str = "adam") -> int:
        """Return the bytes of weights, masks and optimizer state, in float32.

        Gradients and activations need memory too. In the layout `"compact"`, so do the
        kernels of the layers that run at the moment. The layout `"sparse"` has the
        state of `"compact"`, and some 30 bytes for each kept weight: the order in which
        products read it.

        Args:
            layout: `"dense"`, `"masked"` or `"compact"`.
            optimizer: `"sgd"`, `"momentum"` or `"adam"`.
        """
        numbers, kept = 1 + SLOTS[optimizer], self.kept - self.others
        if layout == "compact":  # and a position each
            return 4 * (numbers * self.kept + kept)
        masks = {"dense": 0, "masked": self.weights - self.others}
        return 4 * (numbers * self.weights + masks[layout])

    def __str__(self) -> str:
        header = ("kernel", "shape", "weights", "kept", "multiply-adds", "effective")
        rows: list[tuple[str, ...]] = [header]
        for k in self.kernels:
            shape = "x".join(map(str, k.shape))
            counts = (k.total, k.kept, k.macs, k.effective_macs)
            rows.append((k.path, shape, *map(table.count, counts)))
        others = (self.others, self.others, 0, 0)
        rows.append(("others", "", *map(table.count, others)))
        sums = (self.weights, self.kept, self.macs, self.effective_macs)
        rows.append(("total", "", *map(table.count, sums)))
        lines = table.aligned(rows, left=2, sums=True)
        return "\n".join([*lines, self.state_text()])

    def state_text(self) -> str:
        """Return a line on the memory for training, by layout and optimizer."""
        layouts = ("dense", "masked", "compact")
        parts = []
        for name in SLOTS:
            sizes = [self.state_bytes(layout, name) / 2**20 for layout in layouts]
            parts.append(f"{name} {' / '.join(f'{n:,.2f} MiB' for n in sizes)}")
        return f"training state, dense / masked / compact: {'; '.join(parts)}"


@one_at_a_time
def cost(model: keras.Model) -> CostReport:
    """Count the weights and multiply-adds of a model, pruned or not.

    Multiply-adds are those of kernels for one sample. Activations, normalization and
    the products of attention are not counted. A dimension that the model leaves open,
    such as the length of a sequence, is taken as 32, or less where the model takes no
    more.

    Args:
        model: A built Keras model.

    Returns:
        A `CostReport`.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model is not built.

    Example:

    >>> import keras_prune_init as kpi
    >>> costs = kpi.cost(kpi.models.mlp((4,), classes=2, depth=2, width=8))
    >>> costs.weights, costs.macs
    (58, 48)
    """
    check_model(model)
    costs = by_path(model)
    inside = sum(
        costs[k.path].kept
        if isinstance(k.wrapper, CompactLayer)
        else costs[k.path].total
        for k in find_kernels(model)
    )
    trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
    return CostReport([*costs.values()], max(trainable - inside, 0))


def by_path(model: keras.Model) -> dict[str, KernelCost]:
    """Return `{path of a kernel: KernelCost}`."""
    kernels = find_kernels(model)
    uses, costs = _uses(model, kernels), {}
    for kernel in kernels:
        shape, mask = kernel.shape, kernel.mask
        total = math.prod(shape)
        kept = total if mask is None else int(mask.sum())
        found = KernelCost(kernel.path, shape, total, kept, uses.get(kernel.path))
        costs[kernel.path] = found
    return costs


def _uses(model, kernels):
    """Return how often a sample uses each kernel: `{path: times}`."""
    uses = collections.Counter()
    run_by = collections.defaultdict(list)
    for kernel in kernels:
        run_by[kernel.runner()].append(kernel)

    def hear(layer, args, kwargs, outputs):
        x, y = (keras.tree.flatten(v)[0].shape for v in ((args, kwargs), outputs))
        times, loop = 1, has(layer, Trait.LOOP)
        if loop:  # over the axis of time
            times, x = x[1], (x[0], *x[2:])
            y = (y[0], *y[2:]) if layer.return_sequences else y
        for kernel in run_by[layer]:
            # A cell's output is not seen, but has as many pixels as the loop's.
            one = CELL.uses if loop else kernel.role.uses
            times_one = one(kernel.owner, kernel.shape, tuple(x), tuple(y))
            uses[kernel.path] += times * times_one

    try:
        inputs = ones_input(model)
        # Run, not traced: a trace takes four times as long, except for large inputs.
        with patched([listener(v, hear) for v in run_by]), keras.StatelessScope():
            model(inputs, training=False)
    except Exception as e:  # users' own layers may do anything
        logging.warning("The multiply-adds are not known: %s", e)
        return {}
    batch = keras.tree.flatten(inputs)[0].shape[0]  # 1, unless the model fixes it
    return {path: count // batch for path, count in uses.items()}


def known_sum(values: Iterable[Any]) -> int | None:
    """Return a sum; `None` if one of the values is not known."""
    known = list(values)
    return None if None in known else sum(known)


def savings(weights: tuple, macs: tuple) -> list[str]:
    """Return lines on weights and multiply-adds, each a pair of before and after."""
    lines = ["weights {:,} to {:,}".format(*weights)]
    if None not in macs:
        ratio = macs[1] / max(macs[0], 1)
        lines.append("multiply-adds {:,} to {:,} ({:.2f})".format(*macs, ratio))
    return lines
