"""SNIP against SBP-SR on a ResNet-104: which layers collapse, and when.

    python benchmarks/paper/resnet104.py --data=npz:FILE --workers=2 --threads=1

It takes 12 minutes on a busy machine with two processors.
Scores on 10 images of each class of CIFAR-10: critical sparsity, empty layers and
effective sparsity (weights removed, or on no path from input to output). No training:
for accuracies see cifar_methods.py with --depth=104.

Reference: Hayou, Ton, Doucet, Teh, arXiv 2002.08797, section 4.
"""

import grid
import networks
import plots
import training

import keras_prune_init as kpi

METHODS = {"snip": "SNIP", "sbp_sr": "SBP-SR"}


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=5)
    training.add_options(result, depth=104, width=16, samples_per_class=10)
    result.add_argument(
        "--sparsities", type=float, nargs="+", default=[0.9, 0.98, 0.995, 0.999]
    )
    return result


def cells(options):
    return networks.method_cells(METHODS, options)


def cell(settings, options):
    data = grid.load(options.data)
    model = networks.resnet(data, options)
    report = kpi.report(networks.prune_by_class(model, data, settings, options))
    scores = kpi.score(
        model,
        grid.scoring_batches(data, settings["seed"]),
        settings["method"],
        samples_per_class=options.samples_per_class,
        verbose=0,
    )
    return {
        # Of the scores alone: the same for every sparsity.
        "critical_sparsity": kpi.critical_sparsity(scores).sparsity,
        "empty_layers": len(report.collapsed),
        "layers": len(report.tensors),
        "effective_sparsity": report.effective_sparsity,
    }


def draw(content):
    rows, options = content["rows"], content["options"]
    groups = plots.group(rows, "sparsity", "method")
    sparsities = sorted({s for s, _ in groups})
    figure = plots.new(
        10,
        4,
        f"Layer collapse of ResNet-{options['depth']}, width {options['width']}, on "
        f"{plots.data(content)}",
        f"scores on {options['samples_per_class']} images of each class; "
        f"{plots.seeds(rows)}: a dot each, bars their mean",
    )
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 2, 2))
    layers = rows[0]["result"]["layers"]
    for row in rows:
        kept = 1 - row["cell"]["sparsity"]
        row["result"]["used"] = (1 - row["result"]["effective_sparsity"]) / kept
    for axes, key, factor, label, some in (
        (left, "critical_sparsity", 100, "critical sparsity (%)", sparsities[:1]),
        (middle, "empty_layers", 1, f"empty layers, of {layers}", sparsities),
        (right, "used", 100, "kept weights on a path to the output (%)", sparsities),
    ):
        values = {
            name: [[factor * r[key] for r in groups.get((s, m), [])] for s in some]
            for m, name in METHODS.items()
        }
        names = [f"{s:.1%}" for s in some] if len(some) > 1 else [""]
        plots.bars(axes, names, values, label)
        axes.set_xlabel("weights removed" if len(some) > 1 else "")
    left.set_ylim(0, 100)
    plots.legend(figure, left)
    return figure


if __name__ == "__main__":
    options = parser().parse_args()
    grid.run("resnet104", options, cells(options), cell, draw)
