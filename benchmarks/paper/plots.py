"""What the figures share: grouping of rows, a figure with a caption, a heat map."""

from __future__ import annotations

import textwrap
from collections import defaultdict

import numpy as np
from matplotlib.figure import Figure  # not pyplot, which holds global state


def new(width: float, height: float, title: str, caption: str) -> Figure:
    """An empty figure; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    caption = textwrap.fill(caption, int(17 * width))  # characters that fit
    figure.supxlabel(caption, fontsize=8, color="0.35")
    return figure


def group(rows: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    """Results by these settings of their cells, one for each seed."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row["cell"][k] for k in keys)].append(row["result"])
    return dict(groups)


def seeds(rows: list[dict]) -> str:
    """`"5 seeds"`; `"1 to 5 seeds"` while a run is not finished."""
    unseeded = [{k: v for k, v in r["cell"].items() if k != "seed"} for r in rows]
    counts = [unseeded.count(settings) for settings in unseeded]
    low, high = min(counts), max(counts)
    many = f"{low} to {high}" if low < high else f"{low}"
    return f"{many} seed{'s' if high > 1 else ''}"


def data(content: dict) -> str:
    """The data set of a results file, as `"MNIST"`."""
    return content["data"].rpartition(":")[2].upper()


def mean(results: list[dict], key: str) -> float:
    return float(np.mean([r[key] for r in results]))


def spread(results: list[dict], key: str) -> float:
    """Standard deviation over seeds; 0 of one seed."""
    values = [r[key] for r in results]
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def heat_map(axes, xs, ys, values: dict, title: str, **limits):
    """A cell with its number for every `values[x, y]`; white where none is."""
    grid = np.array([[values.get((x, y), np.nan) for x in xs] for y in ys])
    image = axes.imshow(grid, origin="lower", aspect="auto", cmap="viridis", **limits)
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    low, high = image.get_clim()
    for (j, i), value in np.ndenumerate(grid):
        if np.isfinite(value):
            dark = value < (low + high) / 2
            color = "white" if dark else "black"
            axes.text(i, j, f"{value:.0f}", ha="center", va="center", size=7, c=color)
    axes.set_title(title, fontsize=10)
    return image


def bars(axes, names: list[str], series: dict[str, list[list[float]]], label: str):
    """Groups of bars, the mean of the values behind each, which are dots on it."""
    width = 0.8 / len(series)
    for i, (name, groups) in enumerate(series.items()):
        places = np.arange(len(names)) + (i - (len(series) - 1) / 2) * width
        means = [np.mean(values) if values else 0 for values in groups]
        axes.bar(places, means, width, color=f"C{i}", alpha=0.6, label=name)
        for place, values in zip(places, groups, strict=True):
            axes.plot([place] * len(values), values, ".", color=f"C{i}", mec="0.2")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(label)
    axes.set_ylim(0)


def legend(figure: Figure, axes) -> None:
    """The legend of one of the axes, beside all of them."""
    lines = axes.get_legend_handles_labels()
    figure.legend(*lines, loc="outside right upper", fontsize=8)
