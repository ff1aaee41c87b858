"""The results of a sweep, as a table and a picture."""

import json
import pathlib
import statistics
from typing import NamedTuple

from keras_prune_init.reports.table import aligned
from keras_prune_init.sweep import grid, runs
from keras_prune_init.train import run_folder

SEED = "seed"
SPARSITY = "prune.sparsity"


class Row(NamedTuple):
    """All finished seeds of one setting."""

    settings: dict[str, str]  # the values of the grid, without the seed
    accuracies: list[float]  # on test images after the last epoch
    sparsities: list[float]  # effective sparsities

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the sample; `None` with one seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


def read(folder: pathlib.Path, cells: list[grid.Cell]) -> list[Row]:
    """Return the finished runs, in the order of the grid."""
    rows: dict[str, Row] = {}
    for cell in cells:
        result = runs.finished(folder / grid.name(cell))
        if result:
            settings = {k: v for k, v in cell.items() if k != SEED}
            row = rows.setdefault(json.dumps(settings), Row(settings, [], []))
            row.accuracies.append(result["test_accuracy"])
            row.sparsities.append(result["effective_sparsity"])
    return list(rows.values())


def table(rows: list[Row]) -> str:
    """Return mean and standard deviation of the final test accuracy, in percent."""
    keys = list(rows[0].settings)
    lines = [(*keys, "test accuracy", "sd", "seeds", "effective sparsity")]
    for row in rows:
        known = [s for s in row.sparsities if s is not None]
        sparsity = f"{statistics.fmean(known):.2%}" if known else "unknown"
        deviation = "" if row.deviation is None else f"{100 * row.deviation:.2f}"
        seeds = str(len(row.accuracies))
        accuracy = f"{100 * row.mean:.2f} %"
        lines.append((*row.settings.values(), accuracy, deviation, seeds, sparsity))
    return "\n".join(aligned(lines, left=len(keys)))


def save(folder: pathlib.Path, rows: list[Row]) -> None:
    """Write table.md, results.json and accuracy.png."""
    run_folder.write(folder / "table.md", f"```\n{table(rows)}\n```")
    content = json.dumps([row._asdict() for row in rows], indent=1)
    run_folder.write(folder / "results.json", content)
    with run_folder.atomic(folder / "accuracy.png") as path:
        draw(path, rows)


def draw(path: pathlib.Path, rows: list[Row]) -> None:
    """Draw accuracy over sparsity, with a line for each other setting, or as bars."""
    from matplotlib.figure import Figure  # pyplot may ask for a screen

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    counts = {len(row.accuracies) for row in rows}
    seeds = "-".join(map(str, sorted({min(counts), max(counts)})))
    axes.set_ylabel("test accuracy after the last epoch, %")
    axes.set_title(f"Mean ± standard deviation, seeds: {seeds}")
    lines: dict[str, list[Row]] = {}
    for row in rows:
        others = [v for k, v in row.settings.items() if k != SPARSITY]
        lines.setdefault(", ".join(others), []).append(row)
    if all(len(line) > 1 for line in lines.values()):
        for label, line in lines.items():
            line = sorted(line, key=lambda row: float(row.settings[SPARSITY]))
            x = [100 * float(row.settings[SPARSITY]) for row in line]
            y = [100 * row.mean for row in line]
            spread = [100 * (row.deviation or 0) for row in line]
            axes.errorbar(x, y, spread, marker="o", capsize=3, label=label or None)
        axes.set_xlabel("sparsity, % of the weights removed")
        if len(lines) > 1:
            axes.legend(title=", ".join(k for k in rows[0].settings if k != SPARSITY))
    else:
        labels = [", ".join(row.settings.values()) for row in rows]
        spread = [100 * (row.deviation or 0) for row in rows]
        axes.bar(labels, [100 * row.mean for row in rows], yerr=spread, capsize=3)
        axes.tick_params(axis="x", rotation=60)
    figure.savefig(path, dpi=120)
