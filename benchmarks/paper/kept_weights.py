"""Kept weights of each layer: ResNet-32 against Stable ResNet-32 (figure 2).

    python benchmarks/paper/kept_weights.py --data=npz:FILE --workers=2   # 2 minutes

SBP on 10 images of each class of CIFAR-10. Without the factor 1/sqrt(blocks) on its
residual branches (SBP-SR) the scores of a ResNet differ between layers so much that
deep ones lose nearly all of their weights.

Reference: Hayou, Ton, Doucet, Teh, arXiv 2002.08797, figure 2.
"""

import grid
import networks
import numpy as np
import plots
import training

import keras_prune_init as kpi

METHODS = {"snip": "ResNet", "sbp_sr": "Stable ResNet"}
LOWEST = 1e-4  # per cent, below one weight of the largest layer


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=3)
    training.add_options(result, depth=32, width=32, samples_per_class=10)
    result.add_argument(
        "--sparsities", type=float, nargs="+", default=[0.9, 0.98, 0.995]
    )
    return result


def cells(options):
    return networks.method_cells(METHODS, options)


def cell(settings, options):
    data = grid.load(options.data)
    model = networks.resnet(data, options)
    pruned = networks.prune_by_class(model, data, settings, options)
    tensors = kpi.report(pruned).tensors
    return {
        "layers": [t.path for t in tensors],
        "kept": [t.kept for t in tensors],
        "total": [t.total for t in tensors],
    }


def draw(content):
    rows, options = content["rows"], content["options"]
    groups = plots.group(rows, "method", "sparsity")
    sparsities = sorted({s for _, s in groups})
    figure = plots.new(
        9,
        2.4 * len(sparsities) + 1,
        f"Kept weights of each layer, ResNet-{options['depth']} of width "
        f"{options['width']} on {plots.data(content)}",
        f"SBP on {options['samples_per_class']} images of each class; mean and range "
        f"of {plots.seeds(rows)}; crosses: layers empty with some seed",
    )
    # Stable ResNets are rebuilt, with shortcuts at another place among the layers.
    order = rows[0]["result"]["layers"]
    panels = figure.subplots(len(sparsities), sharex=True, squeeze=False)[:, 0]
    for axes, sparsity in zip(panels, sparsities, strict=True):
        for i, (method, name) in enumerate(METHODS.items()):
            if (method, sparsity) in groups:
                _profile(axes, groups[method, sparsity], order, f"C{i}", name)
        axes.axhline(100 * (1 - sparsity), color="0.5", ls="--", lw=1)
        axes.set_title(f"{sparsity:.1%} of the weights removed", fontsize=10)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(LOWEST, 150)
        axes.set_ylabel("kept weights (%)")
    panels[0].legend(fontsize=8)
    panels[-1].set_xlabel("layer, from the first to the last")
    return figure


def _profile(axes, results, order, color, name):
    tensors = [zip(r["layers"], r["kept"], r["total"], strict=True) for r in results]
    fractions = [{path: kept / total for path, kept, total in t} for t in tensors]
    kept = 100 * np.array([[f[path] for path in order] for f in fractions])
    layers = np.arange(1, len(order) + 1)
    low, mean, high = kept.min(0), kept.mean(0), kept.max(0)
    # A logarithm has no place for 0: lines stop there, ranges go down to the edge.
    axes.plot(layers, np.where(mean > 0, mean, np.nan), ".-", color=color, label=name)
    low = np.maximum(low, LOWEST)
    axes.fill_between(layers, low, np.maximum(high, low), color=color, alpha=0.2, lw=0)
    empty = layers[(kept == 0).any(0)]
    bottom = axes.get_xaxis_transform()
    axes.plot(empty, np.full(len(empty), 0.04), "x", color=color, transform=bottom)


if __name__ == "__main__":
    options = parser().parse_args()
    grid.run("kept_weights", options, cells(options), cell, draw)
