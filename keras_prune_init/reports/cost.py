"""What a model costs: weights, multiply-adds, and the memory that training takes."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import NamedTuple

import keras
from absl import logging

from keras_prune_init._arguments import check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.graph.inputs import ones_input
from keras_prune_init.layers import kernels as selection
from keras_prune_init.layers import types
from keras_prune_init.layers.kernels import named_kernels
from keras_prune_init.layers.patching import patched
from keras_prune_init.reports.table import aligned
from keras_prune_init.surgery import exchange

# What an optimizer keeps for each trainable number.
SLOTS = {"sgd": 0, "momentum": 1, "adam": 2}


class KernelCost(NamedTuple):
    """What one kernel costs.

    Attributes:
        path: That of its variable in the model before pruning.
        shape: Its shape.
        total: Number of weights.
        kept: Number of weights that pruning left.
        uses: How often each weight is multiplied for one sample, such as the pixels
            that a convolution makes; `None` if it is not known.
    """

    path: str
    shape: tuple[int, ...]
    total: int
    kept: int
    uses: int | None

    @property
    def macs(self) -> int | None:
        """Multiply-adds of one sample with all weights."""
        return None if self.uses is None else self.total * self.uses

    @property
    def effective_macs(self) -> int | None:
        """Multiply-adds of one sample with kept weights."""
        return None if self.uses is None else self.kept * self.uses


@dataclasses.dataclass(frozen=True)
class CostReport:
    """What a model costs; `str()` gives a table.

    Attributes:
        kernels: One `KernelCost` each, in definition order.
        others: Number of other trainable weights: biases, normalization, and kernels
            that cannot be pruned.
    """

    kernels: list[KernelCost]
    others: int

    @property
    def weights(self) -> int:
        """Trainable weights before pruning."""
        return sum(k.total for k in self.kernels) + self.others

    @property
    def kept(self) -> int:
        """Trainable weights after pruning."""
        return sum(k.kept for k in self.kernels) + self.others

    @property
    def macs(self) -> int | None:
        """Multiply-adds of one sample with all weights of kernels."""
        return _sum(k.macs for k in self.kernels)

    @property
    def effective_macs(self) -> int | None:
        """Multiply-adds of one sample with kept weights of kernels."""
        return _sum(k.effective_macs for k in self.kernels)

    def state_bytes(self, layout: str, optimizer: str = "adam") -> int:
        """What weights, masks and optimizer take while training, in float32.

        Gradients and activations come on top, and in the layout "compact" the kernels
        of the layers that run.

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
        rows = [("kernel", "shape", "weights", "kept", "multiply-adds", "effective")]
        for k in self.kernels:
            shape = "x".join(map(str, k.shape))
            counts = (k.total, k.kept, k.macs, k.effective_macs)
            rows.append((k.path, shape, *map(_number, counts)))
        rows.append(("others", "", *map(_number, (self.others, self.others, 0, 0))))
        sums = (self.weights, self.kept, self.macs, self.effective_macs)
        rows.append(("total", "", *map(_number, sums)))
        lines = aligned(rows, left=2)
        lines.insert(-1, lines[1])  # a second rule, above the sum
        return "\n".join([*lines, self.state_text()])

    def state_text(self) -> str:
        """A line on the training state by layout and optimizer."""
        layouts = ("dense", "masked", "compact")
        parts = [
            f"{name} "
            + " / ".join(_bytes(self.state_bytes(layout, name)) for layout in layouts)
            for name in SLOTS
        ]
        return f"training state, dense / masked / compact: {'; '.join(parts)}"


@one_at_a_time
def cost(model: keras.Model) -> CostReport:
    """Count the weights and multiply-adds of a model, pruned or not.

    Multiply-adds are those of kernels for one sample; activations, normalization and
    the products of attention are not counted. Dimensions that the model leaves open
    (the length of a sequence) are taken as 32, or less where the model takes no more.

    Args:
        model: A built Keras model.

    Returns:
        A `CostReport`.

    Example:

    >>> print(cost(pruned))
    """
    check_model(model)
    inside = 0
    costs = by_layer(model)
    for _, layer, inner, name in named_kernels(model):
        found = costs[id(inner), name]
        stored = isinstance(layer, exchange.CompactLayer) and name in layer.kernels
        inside += found.kept if stored else found.total
    trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
    return CostReport([*costs.values()], max(trainable - inside, 0))


def by_layer(model: keras.Model) -> dict[tuple[int, str], KernelCost]:
    """`{(id of the layer, attribute path of its kernel): KernelCost}`."""
    uses, costs = _uses(model), {}
    for path, layer, inner, name in named_kernels(model):
        kernel = selection.get_kernel(inner, name)
        total = math.prod(kernel.shape)
        masked = isinstance(layer, exchange.MaskedLayer) and name in layer.kernels
        kept = int(layer.kept_mask(name).sum()) if masked else total
        key = id(inner), name
        shape = tuple(kernel.shape)
        costs[key] = KernelCost(path, shape, total, kept, uses.get(key))
    return costs


def _uses(model):
    """How often a sample uses each kernel: `{(id of the layer, name): times}`."""
    uses = collections.Counter()
    listeners = collections.defaultdict(list)
    for _, _, inner, name in named_kernels(model):
        listeners[selection.runner(inner, name)].append((inner, name))
    patches = [(v, "call", _noting(v, found, uses)) for v, found in listeners.items()]
    try:
        inputs = ones_input(model)
        # Run, not traced: a trace takes four times as long, but for the largest inputs.
        with patched(patches), keras.StatelessScope():
            model(inputs, training=False)
    except Exception as e:  # users' own layers may do anything
        logging.warning("The multiply-adds are not known: %s", e)
        return {}
    batch = keras.tree.flatten(inputs)[0].shape[0]  # 1, unless the model fixes it
    return {key: count // batch for key, count in uses.items()}


def _noting(layer, kernels, uses):
    plain = layer.call

    def call(*args, **kwargs):
        outputs = plain(*args, **kwargs)
        x, y = (keras.tree.flatten(v)[0].shape for v in ((args, kwargs), outputs))
        times = 1
        if isinstance(layer, types.LOOPS):  # over the axis of time
            times, x = x[1], (x[0], *x[2:])
            y = (y[0], *y[2:]) if layer.return_sequences else y
        for inner, name in kernels:
            holder, role = selection.owner(inner, name), selection.role(inner, name)
            shape = tuple(selection.get_kernel(inner, name).shape)
            # A cell's output is not seen, but has as many pixels as the loop's.
            one = types.CELL.uses if isinstance(layer, types.LOOPS) else role.uses
            uses[id(inner), name] += times * one(holder, shape, tuple(x), tuple(y))
        return outputs

    return call


def _sum(values):
    values = list(values)
    return None if None in values else sum(values)


def _number(value):
    return "unknown" if value is None else f"{value:,}"


def _bytes(count):
    return f"{count / 2**20:,.2f} MiB"
