"""What `factorize` does with each layer: rank, energy, weights and multiply-adds."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import keras

from keras_prune_init._lock import one_at_a_time
from keras_prune_init.factorize.factorizing import costs_of, factorized, macs_of_pair
from keras_prune_init.layers.filters import Filters
from keras_prune_init.reports import table
from keras_prune_init.reports.cost import cost, savings


class LayerFactors(NamedTuple):
    """What `factorize` does with one layer. Pairs are before and after.

    Attributes:
        path: Path of the kernel variable.
        shape: Shape of the kernel.
        rank: The lowest rank that keeps the energy.
        full_rank: The smaller side of the kernel's matrix.
        energy: Fraction of the sum of squared singular values that this rank keeps.
        replaced: Whether two layers took its place; else they would not be cheaper.
        weights: Weights of the kernel, and of the two kernels.
        macs: Multiply-adds of one sample; `None` if they are not known.
    """

    path: str
    shape: tuple[int, ...]
    rank: int
    full_rank: int
    energy: float
    replaced: bool
    weights: tuple[int, int]
    macs: tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class FactorizeReport:
    """What `factorize` does; `str()` gives a table. Pairs are before and after.

    Attributes:
        layers: One `LayerFactors` for each layer that has a matrix.
        weights: Number of trainable weights of the whole model.
        macs: Multiply-adds of one sample; `None` if they are not known.
        skipped: `(layer path, reason)` of the other layers with weights.
    """

    layers: list[LayerFactors]
    weights: tuple[int, int]
    macs: tuple[int | None, int | None]
    skipped: list[tuple[str, str]]

    def __str__(self) -> str:
        names = ("kernel", "shape", "rank", "of", "energy", "weights", "after")
        rows: list[tuple[str, ...]] = [(*names, "multiply-adds", "after", "")]
        for row in self.layers:
            ranks = str(row.rank), str(row.full_rank), f"{row.energy:.4f}"
            counts = map(table.count, (*row.weights, *row.macs))
            shape = "x".join(map(str, row.shape))
            stays = "" if row.replaced else "stays"
            rows.append((row.path, shape, *ranks, *counts, stays))
        lines = table.aligned(rows, left=2) + savings(self.weights, self.macs)
        reasons: dict[str, list[str]] = {}
        for path, reason in self.skipped:
            reasons.setdefault(reason, []).append(path)
        lines += [f"left out, {r}: {', '.join(p)}" for r, p in reasons.items()]
        return "\n".join(line.rstrip() for line in lines)


@one_at_a_time
def factorize_report(
    model: keras.Model,
    energy: float = 0.9,
    *,
    form: str = "pointwise",
    filters: Filters = None,
) -> FactorizeReport:
    """Tell what `factorize` makes of a model with the same arguments.

    Use it to choose the energy. It makes the smaller model and counts.

    Args:
        model: As in `factorize`.
        energy: As in `factorize`.
        form: As in `factorize`.
        filters: As in `factorize`.

    Returns:
        A `FactorizeReport`; `str()` gives a table.

    Raises:
        ValueError: As `factorize`.
        FloatingPointError: As `factorize`.
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((16,), classes=2, depth=2, width=16)
    >>> [row.full_rank for row in kpi.factorize_report(model, 0.5).layers]
    [16, 2]
    """
    arguments = "factorize_report", model, energy, form, filters
    small, found, skipped = factorized(*arguments)
    before, after = costs_of(model), costs_of(small)
    layers = [_row(one, used, before[one.kernel.address], after) for one, used in found]
    totals = cost(model), cost(small)
    weights, macs = ([getattr(c, name) for c in totals] for name in ("weights", "macs"))
    return FactorizeReport(layers, tuple(weights), tuple(macs), skipped)


def _row(factors, used, before, after):
    weights, macs = before.total, before.macs
    if used:
        weights = factors.left.size + factors.right.size
        macs = macs_of_pair(factors.kernel.address, after)
    return LayerFactors(
        factors.kernel.path,
        factors.kernel.shape,
        factors.rank,
        len(factors.values),
        factors.energy,
        used,
        (before.total, weights),
        (before.macs, macs),
    )
