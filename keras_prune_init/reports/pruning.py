"""`report`: what was pruned, what of it is in use, and what was left out."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import operator
import os
from typing import NamedTuple

import keras
import numpy as np
from absl import logging

from keras_prune_init._arguments import check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.layers.kernels import Kernel, find_kernels
from keras_prune_init.layers.prunable import FILTERED, prunable
from keras_prune_init.masks import top_k
from keras_prune_init.reports import live_paths, speed, table
from keras_prune_init.reports.cost import CostReport, cost, known_sum, savings
from keras_prune_init.reports.speed import KernelSpeed
from keras_prune_init.surgery import exchange


class TensorReport(NamedTuple):
    """Counts of one pruned kernel. `effective` is `None` if it is not known."""

    path: str
    shape: tuple[int, ...]
    total: int
    kept: int
    effective: int | None


@dataclasses.dataclass(frozen=True)
class PruningReport:
    """What pruning left of a model; `str()` gives a table.

    Attributes:
        tensors: One `TensorReport` for each kernel, in definition order.
        skipped: `(layer path, reason)` of layers that have weights but no mask.
        digest: SHA-256 of all masks, or of the kernel shapes if channels were removed.
        notes: What the method did to the model, and why.
        cost: A `CostReport` with the multiply-adds and the memory for training.
        speeds: One `KernelSpeed` for each kernel in the layout `"sparse"` or `"auto"`:
            how it computes, and the expected time.
    """

    tensors: list[TensorReport]
    skipped: list[tuple[str, str]]
    digest: str
    notes: list[str]
    cost: CostReport
    speeds: list[KernelSpeed] = dataclasses.field(default_factory=list)

    @property
    def total(self) -> int:
        """Number of weights in all pruned kernels."""
        return sum(t.total for t in self.tensors)

    @property
    def kept(self) -> int:
        """Number of weights that the masks keep."""
        return sum(t.kept for t in self.tensors)

    @property
    def sparsity(self) -> float:
        """Fraction of weights removed."""
        return 1 - self.kept / self.total

    @property
    def effective(self) -> int | None:
        """Number of kept weights on a path from input to output, if known."""
        return known_sum(t.effective for t in self.tensors)

    @property
    def effective_sparsity(self) -> float | None:
        """Fraction of weights that are removed or unused; `None` if not known."""
        return None if self.effective is None else 1 - self.effective / self.total

    @property
    def collapsed(self) -> list[str]:
        """Paths of the kernels that keep no weight."""
        return [t.path for t in self.tensors if t.kept == 0]

    def __str__(self) -> str:
        rows = [("kernel", "shape", "weights", "kept", "density", "effective")]
        sums = TensorReport("total", (), self.total, self.kept, self.effective)
        for t in (*self.tensors, sums):
            shape = "x".join(map(str, t.shape))
            total, kept, effective = map(table.count, (t.total, t.kept, t.effective))
            density = f"{t.kept / t.total:.2%}"
            rows.append((t.path, shape, total, kept, density, effective))
        lines = table.aligned(rows, left=2, sums=True)
        lines.append(f"sparsity {self.sparsity:.4%}")
        if self.effective is not None:
            lines[-1] += f", effective sparsity {self.effective_sparsity:.4%}"
        if self.collapsed:
            lines.append(f"COLLAPSED, nothing is kept of: {', '.join(self.collapsed)}")
        reasons: dict[str, list[str]] = {}
        for path, reason in self.skipped:
            reasons.setdefault(reason, []).append(path)
        lines += [f"not pruned, {r}: {', '.join(p)}" for r, p in reasons.items()]
        lines += self.notes
        macs, left = self.cost.macs, self.cost.effective_macs
        if macs is not None:
            lines.append(f"multiply-adds {left:,} of {macs:,} a sample")
        lines += speed.lines(self.speeds) if self.speeds else []
        lines += [self.cost.state_text(), f"masks sha256 {self.digest[:16]}"]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return all numbers of the report as JSON text."""
        content = {
            "total": self.total,
            "kept": self.kept,
            "sparsity": self.sparsity,
            "effective": self.effective,
            "effective_sparsity": self.effective_sparsity,
            "collapsed": self.collapsed,
            "digest": self.digest,
            "tensors": [t._asdict() for t in self.tensors],
            "skipped": self.skipped,
            "notes": self.notes,
            "multiply_adds": self.cost.macs,
            "effective_multiply_adds": self.cost.effective_macs,
            "speeds": [s._asdict() for s in self.speeds],
        }
        return json.dumps(content, indent=2)

    def plot(self, path: str | os.PathLike) -> None:
        """Draw the kept and the effective fraction of each kernel into an image file.

        The ending of its `path` gives the format.
        """
        # Not pyplot: it holds global state and may ask for a screen.
        from matplotlib.figure import Figure

        count = len(self.tensors)
        figure = Figure(figsize=(max(6.0, 0.22 * count + 2), 4.5), layout="constrained")
        axes = figure.subplots()
        kept = np.array([t.kept / t.total for t in self.tensors])
        axes.bar(range(count), kept, color="#9ecae1", label="kept")
        if self.effective is not None:
            used = [(t.effective or 0) / t.total for t in self.tensors]
            axes.bar(range(count), used, width=0.45, color="#08519c", label="effective")
        axes.axhline(1 - self.sparsity, color="0.4", ls="--", lw=1, label="whole model")
        style = {"color": "tab:red", "rotation": 90, "ha": "center", "size": 8}
        heights = axes.get_xaxis_transform()  # y as a fraction of the axes
        for i in np.flatnonzero(kept == 0):
            axes.text(int(i), 0.02, "empty", style, transform=heights)
        axes.set_yscale("log" if kept[kept > 0].min() < 0.1 else "linear")
        axes.set_xticks(
            range(count), [t.path for t in self.tensors], rotation=90, size=7
        )
        axes.set_xlim(-0.8, count - 0.2)
        axes.set_ylabel("fraction of weights kept")
        axes.set_title(f"Kept weights per kernel at {self.sparsity:.2%} sparsity")
        figure.legend(loc="outside upper right", ncols=3)
        figure.savefig(path, dpi=150)


@one_at_a_time
def report(model: keras.Model, dense: keras.Model | None = None) -> PruningReport:
    """Count what is left of a pruned model.

    Args:
        model: A model from `prune_at_init`, or one that was loaded from its file.
        dense: The model before pruning, to count against. It is needed if `model` has
            no masks: because channels were removed, or after `strip`.

    Returns:
        A `PruningReport`.

    Raises:
        ValueError: If the model has no `MaskedLayer` and `dense` is not given, or if
            `dense` has other layers.
        TypeError: If `model` or `dense` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.5)
    >>> print(kpi.report(pruned))
    kernel         shape  weights  kept  density  effective
    -------------------------------------------------------
    dense1/kernel  4x8         32 ...
    logits/kernel  8x2         16 ...
    -------------------------------------------------------
    total                      48    24   50.00% ...
    sparsity 50.0000%, effective sparsity ...
    """
    if dense is None:
        advice = "If channels were removed from it, pass `dense`."
        exchange.check_pruned("report", model, advice)
    else:
        check_model(model)
        check_model(dense)
    masked = exchange.masked_layers(model)
    used: dict[str, np.ndarray] = {}
    try:
        used = live_paths.used_weights(model) if masked else {}
    except Exception as e:  # users' own layers may do anything on an input of ones
        logging.warning("The effective sparsity is not known: %s", e)
    tensors, masks = [], []
    for kernel, whole in _pairs(model, dense):
        mask = _kept(kernel, whole)
        kept, live = int(mask.sum()), used.get(kernel.path)
        effective = int(live.sum()) if live is not None else None if masked else kept
        counts = math.prod(whole.shape), kept, effective
        tensors.append(TensorReport(whole.path, whole.shape, *counts))
        masks.append(mask)
    made = cost(model)
    notes = [getattr(model, "pruning_note", ""), *(layer.note for layer in masked)]
    if dense is not None:
        before = cost(dense)
        notes += savings((before.weights, made.weights), (before.macs, made.macs))
    notes = list(dict.fromkeys(filter(None, notes)))
    skipped = _skipped(model) if masked else prunable(dense)[1]
    costs = {k.path: k for k in made.kernels}
    found = speed.speeds(find_kernels(model), costs)
    return PruningReport(tensors, skipped, top_k.digest(masks), notes, made, found)


def _pairs(model, dense):
    """Each pruned kernel, and the same kernel of the model before pruning."""
    if dense is None:
        return [(k, k) for k in find_kernels(model) if k.wrapper]
    left, whole = (_by_name(find_kernels(m)) for m in (model, dense))
    fits = left.keys() == whole.keys() and all(
        _fits_into(left[key].shape, whole[key].shape) for key in whole
    )
    if not fits:
        raise ValueError(
            "`dense` must be the model before pruning. "
            f"Received: dense={dense.name}, which has other layers than {model.name}. "
            "Pass the model as it was before."
        )
    pairs = [(left[key], k) for key, k in whole.items()]
    masked = [pair for pair in pairs if pair[0].wrapper]
    if masked:  # without what `filters` left out
        return masked
    prunes = {k.path for k in prunable(dense)[0]}
    return [pair for pair in pairs if pair[1].path in prunes]


def _kept(kernel, whole):
    """Which weights of a kernel are kept, as a bool array."""
    if kernel.wrapper:
        return kernel.mask
    if kernel.shape != whole.shape:  # channels were cut out
        return np.ones(kernel.shape, bool)
    return (kernel.value != 0) | (whole.value == 0)


def _by_name(kernels):
    """Return kernels by layer and kernel name, with numbers where names are equal.

    A copy of a model keeps names. Paths change with the models around a layer, and
    positions change with the layers between.
    """
    found: dict[tuple, Kernel] = {}
    counts: collections.Counter = collections.Counter()
    for kernel in kernels:
        name = kernel.layer.name, kernel.name
        found[*name, counts[name]] = kernel
        counts[name] += 1
    return found


def _fits_into(shape, other):
    return len(shape) == len(other) and all(map(operator.le, shape, other))


def _skipped(model):
    kernels, skipped = prunable(model)
    masked = {k.layer.path for k in kernels if k.wrapper}
    left_out = dict.fromkeys((k.layer.path, FILTERED) for k in kernels)
    return [s for s in [*left_out, *skipped] if s[0] not in masked]
