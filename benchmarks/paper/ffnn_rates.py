"""The learning rate of the heat maps: training loss over rates.

    python benchmarks/paper/ffnn_rates.py --data=idx:FOLDER --workers=2 --threads=1

A small grid on the rescaled networks of ffnn_heatmap.py with half of their weights. The
choice goes by the training loss; no test image is looked at.
"""

import ffnn_heatmap
import grid
import plots
import training


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=1)
    training.add_options(
        result, iterations=2000, batch_size=100, width=100, sparsity=0.5
    )
    add = result.add_argument
    add("--depths", type=int, nargs="+", default=[100, 20, 2])
    add("--rates", type=float, nargs="+", default=[0.001, 0.003, 0.01, 0.03, 0.1])
    return result


def cells(options):
    return [
        {"depth": depth, "learning_rate": rate, "seed": seed}
        for depth in options.depths
        for rate in options.rates
        for seed in range(options.seeds)
    ]


def cell(settings, options):
    network = {**settings, "phase": "eoc_rescaled", "sparsity": options.sparsity}
    return ffnn_heatmap.train(network, options, settings["learning_rate"])


def draw(content):
    rows, options = content["rows"], content["options"]
    figure = plots.new(
        6,
        4.2,
        "Choice of the learning rate of the heat maps",
        f"rescaled tanh networks of width {options['width']} on {plots.data(content)}, "
        f"{options['sparsity']:.0%} of the weights removed; {options['iterations']:,} "
        f"iterations of plain SGD; {plots.seeds(rows)}",
    )
    axes = figure.subplots()
    groups = plots.group(rows, "depth", "learning_rate")
    for depth in sorted({d for d, _ in groups}):
        rates = sorted(r for d, r in groups if d == depth)
        losses = [plots.mean(groups[depth, r], "train_loss") for r in rates]
        axes.plot(rates, losses, "o-", label=f"depth {depth}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss (nats), last 100 iterations")
    axes.set_ylim(0)
    axes.legend()
    return figure


if __name__ == "__main__":
    options = parser().parse_args()
    grid.run("ffnn_rates", options, cells(options), cell, draw)
