"""Test accuracy over depth and sparsity: ordered, edge of chaos, rescaled (figure 3).

    python benchmarks/paper/ffnn_heatmap.py --data=idx:FOLDER --workers=2 --threads=1

Tanh networks of width 100 on MNIST, pruned by SBP on 100 images and trained by plain
SGD with batches of 100. The learning rate is the best of ffnn_rates.py at depth 100.
On two processors 10,000 iterations of all networks take about 1.5 hours, 2,000 half an
hour.

Reference: Hayou, Ton, Doucet, Teh, arXiv 2002.08797, figure 3.
"""

import grid
import networks
import plots
import training

PHASES = ("ordered", "eoc", "eoc_rescaled")


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=1)
    training.add_options(result, iterations=10000, batch_size=100, learning_rate=0.003)
    add = result.add_argument
    add("--width", type=int, default=100)
    # The deepest first: what is left takes less time than it seems, not more.
    add("--depths", type=int, nargs="+", default=[100, 80, 60, 40, 20, 10, 2])
    add("--sparsities", type=float, nargs="+", default=[i / 10 for i in range(1, 10)])
    return result


def cells(options):
    return [
        {"phase": phase, "depth": depth, "sparsity": sparsity, "seed": seed}
        for depth in options.depths
        for phase in PHASES
        for sparsity in options.sparsities
        for seed in range(options.seeds)
    ]


def cell(settings, options):
    return train(settings, options, options.learning_rate)


def train(settings, options, learning_rate):
    data, seed = grid.load(options.data), settings["seed"]
    model = networks.ffnn(
        data.input_shape,
        data.classes,
        networks.start(settings["phase"], seed),
        depth=settings["depth"],
        width=options.width,
    )
    return training.prune_and_train(model, data, settings, options, learning_rate)


def draw(content):
    rows, options = content["rows"], content["options"]
    figure = plots.new(
        13,
        4.2,
        f"Test accuracy (%) on {plots.data(content)} after {options['iterations']:,} "
        "iterations",
        f"tanh networks of width {options['width']}, SBP; SGD, batch "
        f"{options['batch_size']}, learning rate {options['learning_rate']:g}; "
        f"{plots.seeds(rows)}; a dot: SBP emptied a layer",
    )
    groups = plots.group(rows, "phase", "sparsity", "depth")
    sparsities = sorted({s for _, s, _ in groups})
    depths = sorted({d for _, _, d in groups})
    panels = figure.subplots(1, len(PHASES), sharey=True)
    for axes, phase in zip(panels, PHASES, strict=True):
        found = {(s, d): r for (p, s, d), r in groups.items() if p == phase}
        values = {k: 100 * plots.mean(r, "test_accuracy") for k, r in found.items()}
        title = networks.PHASES[phase]
        image = plots.heat_map(
            axes, sparsities, depths, values, title, vmin=10, vmax=100
        )
        for (s, d), results in found.items():
            if any(r["empty_layers"] for r in results):
                x, y = sparsities.index(s) + 0.38, depths.index(d) + 0.36
                axes.plot(x, y, ".", color="tab:red", ms=4)
        axes.set_xlabel("sparsity (fraction of weights removed)")
    panels[0].set_ylabel("depth (layers)")
    figure.colorbar(image, ax=panels, label="test accuracy (%)")
    return figure


if __name__ == "__main__":
    options = parser().parse_args()
    grid.run("ffnn_heatmap", options, cells(options), cell, draw)
