"""What the rounds of `iterative_pruning` did, as a table, a picture and JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_prune_init.reports import table


class Round(NamedTuple):
    """One round: pruning, and the training after it; round 0 is before all pruning.

    Attributes:
        round: Its number.
        sparsity: Fraction of the prunable weights that is removed.
        kept: Number of prunable weights that are left.
        total: Number of prunable weights of the whole model.
        steps: Training steps of this round; `None` if there is no optimizer to count.
        total_steps: Steps of this round and of all before it.
        seconds: Time of this round, without `evaluate`.
        metrics: What was measured after it, such as `{"accuracy": 0.98}`.
    """

    round: int
    sparsity: float
    kept: int
    total: int
    steps: int | None
    total_steps: int | None
    seconds: float
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class RoundsHistory:
    """What `iterative_pruning` did; `str()` gives a table.

    Attributes:
        rows: One `Round` for each round, the first for the model before pruning.
    """

    rows: list[Round]

    @property
    def names(self) -> list[str]:
        """Names of all metrics, in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def __str__(self) -> str:
        head = ("round", "sparsity", "kept", "of", "steps", "all steps", "seconds")
        lines = [(*head, *self.names)]
        for row in self.rows:
            counts = map(table.count, (row.kept, row.total, row.steps, row.total_steps))
            values = (row.metrics.get(name) for name in self.names)
            found = ("" if value is None else f"{value:.4f}" for value in values)
            number, sparsity = str(row.round), f"{row.sparsity:.4%}"
            lines.append((number, sparsity, *counts, f"{row.seconds:.1f}", *found))
        return "\n".join(table.aligned(lines, left=0))

    def to_json(self) -> str:
        """Return all rows as JSON text."""
        return json.dumps({"rounds": [row._asdict() for row in self.rows]}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> RoundsHistory:
        """Return the history that `to_json` wrote."""
        return cls([Round(**row) for row in json.loads(text)["rounds"]])

    def plot(self, path: str | os.PathLike, metric: str | None = None) -> None:
        """Draw a metric over the fraction of kept weights into an image file.

        Args:
            path: The ending gives the format.
            metric: Name of the metric. Default: the accuracy, or else the first one.

        Raises:
            ValueError: If there is no such metric.
        """
        from matplotlib.figure import Figure  # not pyplot, which may ask for a screen

        # A name with "acc" in it, or any but the loss, or the loss.
        ranked = sorted(self.names, key=lambda n: (n == "loss", "acc" not in n))
        name = metric or next(iter(ranked), None)
        if name not in self.names:
            raise ValueError(
                "`metric` must be one that was measured. Received: "
                f"metric={metric!r}, of {', '.join(self.names) or 'none'}. Pass one of "
                "them, or let `iterative_pruning` measure some by `evaluate`."
            )
        rows = [row for row in self.rows if name in row.metrics]
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        kept = [100 * row.kept / row.total for row in rows]
        axes.plot(kept, [row.metrics[name] for row in rows], "o-")
        axes.set_xscale("log")
        axes.xaxis.set_inverted(True)  # pruning goes from left to right
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("kept weights, %")
        axes.set_ylabel(name)
        axes.set_title(f"{rows[-1].round} rounds of pruning and training")
        figure.savefig(path, dpi=150)


def numbers(found: Any) -> dict[str, float]:
    """Return the numbers in what a training or an evaluation returned.

    Of lists, such as those of a Keras `History`, the last entry counts. If there are
    metrics of validation data, they count alone.
    """
    if isinstance(found, keras.callbacks.History):
        found = found.history
    if not isinstance(found, Mapping):
        return {}
    last = {str(key): np.asarray(value).reshape(-1) for key, value in found.items()}
    values = {
        k: float(v[-1]) for k, v in last.items() if v.size and v.dtype.kind in NUMBERS
    }
    tested = {k[4:]: v for k, v in values.items() if k.startswith("val_")}
    return tested or values


NUMBERS = "biuf"  # kinds of dtype
