"""The table and the pictures of compare.py."""

import pathlib
import sys

import common

sys.path.append(str(pathlib.Path(__file__).parent / "paper"))

import plots  # noqa: E402

# What ends the labels of a group of rows: its line style and marker.
STYLES = {
    "at init": (":", "o"),
    "trained": ("--", "s"),
    "rounds": ("-.", "^"),
    "": ("-", "D"),
}


def table(rows):
    """Rows over sparsities, as Markdown: error in % and its deviation over seeds."""
    sparsities = sorted({r["sparsity"] for r in rows} - {0.0})
    cells = {(r["row"], r["sparsity"]): r for r in rows}
    lines = []
    for label in dict.fromkeys(r["row"] for r in rows):
        line = {"error in %": label}
        for sparsity in sparsities:
            row = cells.get((label, sparsity)) or cells.get((label, 0.0), {})
            line[f"{100 * sparsity:g} %"] = shown(row)
        lines.append(line)
    reasons = {r["row"]: r["reason"] for r in rows if "reason" in r}
    notes = [f"{label}: {reason}" for label, reason in reasons.items()]
    return "\n".join([common.table(lines), "", *notes])


def shown(row):
    if "error" not in row:
        return "refused" if "reason" in row else ""
    text = f"{row['error']:.2f} ± {row['spread']:.2f}"
    before = row["error before retraining"]
    return text if before is None else f"{text} ({before:.1f})"


def save(name, rows):
    """Draw the error over the sparsity and over the cost."""
    measured = [r for r in rows if "error" in r]
    for key, label in (
        ("left", "weights left, %"),
        ("cost", "cost of training, in steps of the dense network"),
    ):
        figure = drawn(measured, key, label)
        figure.savefig(common.RESULTS / f"{name}_{key}.png", dpi=150)


def drawn(rows, key, label):
    counts = sorted({r["seeds"] for r in rows})
    many = f"{counts[0]} to {counts[-1]}" if counts[1:] else counts[0]
    steps = int(max(r["steps"] for r in rows))
    figure = plots.new(
        10,
        6,
        f"{rows[0]['net']} on MNIST: test error after {steps:,} steps in all",
        "Dotted: pruned before training. Dashed: once, after half of the steps. With "
        "dots: in rounds. Drawn through: while training. Bars: standard deviation over "
        f"{many} seed{'s' if counts[-1] > 1 else ''}",
    )
    axes = figure.subplots()
    labels = list(dict.fromkeys(r["row"] for r in rows))
    for number, name in enumerate(labels):
        series(axes, [r for r in rows if r["row"] == name], key, number)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    if key == "left":
        left = sorted({left_of(r) for r in rows if r["sparsity"]}, reverse=True)
        axes.set_xticks(left, [f"{x:g}" for x in left], minor=False)
        axes.xaxis.set_minor_formatter("")
        axes.xaxis.set_inverted(True)
    ticks = [1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50, 90]
    low, high = axes.get_ylim()
    axes.set_yticks([t for t in ticks if low <= t <= high])
    axes.yaxis.set_minor_formatter("")
    axes.set_xlabel(label)
    axes.set_ylabel("test error, %")
    axes.grid(alpha=0.3)
    plots.legend(figure, axes)
    return figure


def left_of(row):
    return round(100 * (1 - row["sparsity"]), 6)


def series(axes, rows, key, number):
    """One row of the table as a line; the dense network as a level or a star."""
    name, color = rows[0]["row"], f"C{number % 10}"
    errors = [r["error"] for r in rows]
    if name == "dense":
        axes.axhline(errors[0], color="0.5", lw=1, label="dense")
        if key == "cost":
            axes.plot(rows[0]["cost"], errors[0], "*", color="0.2", ms=12)
        return
    ends = [v for k, v in STYLES.items() if name.endswith(k)]
    style, marker = ends[0]
    axes.errorbar(
        [left_of(r) if key == "left" else r[key] for r in rows],
        errors,
        [r["spread"] for r in rows],
        linestyle=style,
        marker=marker,
        color=color,
        ms=5,
        lw=1.5,
        elinewidth=0.8,
        label=name,
    )
