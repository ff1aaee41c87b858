"""The table and the picture of sparse.py."""

import pathlib
import sys

import common
import sparse_networks

sys.path.append(str(pathlib.Path(__file__).parent / "paper"))

import plots  # noqa: E402

RIVAL = "3 x 4096"  # the network that sparselab was measured with
STYLES = {
    "masked": ("C7", "-", "s"),
    "compact": ("C4", "-", "^"),
    "sparse": ("C0", "-", "o"),
    "auto": ("C2", "--", "D"),
    "sparselab": ("C3", "-", "x"),
    "kept products": ("0.4", ":", ""),
}


def ratios(network):
    """By sparsity and name: steps over the dense one, and the share of products."""
    found = {}
    for row in common.saved("sparse_steps"):
        if row["network"] == network:
            line = found.setdefault(row["sparsity"], {})
            line[row["layout"]] = row["ratio"]
            line["kept products"] = row["kept products"]
            if row["layout"] == "dense":
                line["dense ms"] = row["ms"]
    if network == RIVAL:
        for row in common.saved("sparse_sparselab"):
            line = found.setdefault(row["sparsity"], {})
            line["sparselab"] = row["sparselab / dense"]
    return dict(sorted(found.items()))


def measured():
    """Networks that are in the results, and their ratios."""
    found = {name: ratios(name) for name in sparse_networks.NETWORKS}
    return {name: lines for name, lines in found.items() if lines}


def table():
    """Steps over the dense one, as Markdown."""
    rows = []
    for network, lines in measured().items():
        aims = sparse_networks.AIMS.get(network, {})
        for sparsity, line in lines.items():
            row = {"network": network, "sparsity": f"{100 * sparsity:g} %"}
            row["dense ms"] = line.get("dense ms", "")
            for name in STYLES:
                row[name] = line.get(name, "")
            row["kept products"] = f"{line.get('kept products', 0):.3f}"
            rows.append({**row, "aim": aims.get(sparsity, "")})
    return common.table(rows) if rows else ""


def save():
    """Draw the steps over the sparsity, a panel for each network."""
    found = measured()
    if not found:
        return
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure = plots.new(
        3.2 * columns + 1.2,
        3 * rows + 1.2,
        "Time of a training step over that of the dense network",
        "On two processors, steps of all layouts in turns. Dotted: the share of the "
        "products that are kept, which is the time they would take at the dense rate "
        "if a step did nothing else. sparselab is a library for PyTorch.",
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (network, lines) in zip(panels.flat, found.items(), strict=False):
        draw(axes, network, lines)
    for axes in panels.flat[len(found) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("step / dense step")
    handles = {}
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
    figure.savefig(common.RESULTS / "sparse_steps.png", dpi=150)


def draw(axes, network, lines):
    for name, (color, style, marker) in STYLES.items():
        points = [(1 - s, line[name]) for s, line in lines.items() if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, marker=marker, color=color,
                      ms=4, lw=1.5, label=name)  # fmt: skip
    axes.axhline(1, color="0.6", lw=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    densities = [1 - s for s in sparse_networks.SPARSITIES]
    labels = [f"{100 * s:g}" for s in sparse_networks.SPARSITIES]
    axes.set_xticks(densities, labels)
    axes.set_xticks([], minor=True)
    axes.set_xlim(1.2 * densities[0], densities[-1] / 1.2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("sparsity, %")
    axes.set_title(network, fontsize=10)
    axes.grid(alpha=0.3)
