"""The picture of a `SignalReport`."""

from __future__ import annotations

import math

import numpy as np

PANELS = (
    ("q", "Pre-activations y: mean square q", "mean y²"),
    ("correlation", "Two samples: correlation of their y", "mean cosine"),
    ("gradient", "Gradient of the mean loss L", "rms dL/dy"),
    ("m", "Sensitivity m of the weights w", "mean (w dL/dw)²"),
)
# There is room for so many labels.
LABELS = 75


def draw(report, path) -> None:
    """Draw the panels of a `SignalReport` over its rows into an image file."""
    # Not pyplot: it holds global state and may ask for a screen.
    from matplotlib.figure import Figure

    count = len(report.rows)
    width = float(np.clip(0.2 * count + 2, 6, 16))
    figure = Figure(figsize=(width, 9), layout="constrained")
    for axes, (field, title, unit) in zip(
        figure.subplots(4, sharex=True), PANELS, strict=True
    ):
        _panel(axes, np.array([getattr(r, field) for r in report.rows]), field)
        axes.set_title(title, loc="left", size=10)
        axes.set_ylabel(unit, size=9)
    step = math.ceil(count / LABELS)
    labels = [r.name for r in report.rows][::step]
    axes.set_xticks(range(0, count, step), labels, rotation=90, size=7)
    axes.set_xlim(-0.8, count - 0.2)
    axes.set_xlabel("layer, in the order in which signals pass")
    ratio = f"{report.gradient_ratio:.1e}"
    figure.suptitle(f"Gradient of first / last hidden layer: {ratio}", size=11)
    figure.savefig(path, dpi=150)


def _panel(axes, values, field):
    """Draw one panel; values off a logarithmic axis are marked at its foot."""
    finite = np.isfinite(values)
    positive = values[finite & (values > 0)]
    wide = positive.size and positive.max() / positive.min() > 30
    logarithmic = field in ("gradient", "m") or (field == "q" and wide)
    shown = finite & ((values > 0) | (not logarithmic))
    axes.plot(np.where(shown, values, np.nan), "o-", color="#08519c", ms=3, lw=1)
    foot = axes.get_xaxis_transform()  # y as a fraction of the axes
    for i in np.flatnonzero(~shown):
        text = "0" if values[i] == 0 else "?"
        axes.text(i, 0.03, text, color="tab:red", ha="center", size=8, transform=foot)
    if logarithmic and positive.size:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter("")  # only powers of ten are legible
        decades = np.log10([positive.min(), positive.max()]) + [-0.1, 0.1]
        axes.set_ylim(10.0 ** np.floor(decades[0]), 10.0 ** np.ceil(decades[1]))
    if field == "correlation":
        axes.set_ylim(min(0.0, np.min(values[finite], initial=0)) - 0.05, 1.05)
    axes.grid(alpha=0.3)
