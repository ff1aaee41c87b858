"""Deep plain convolutional networks with half of their weights, on MNIST.

    python benchmarks/paper/vcnn.py --data=idx:FOLDER --workers=2 --threads=1

Tanh, 3x3 filters, circular padding, no normalization; SBP on 100 images. Reduced to
what two processors train: 32 filters, images of 7x7 from the first layer on (stride 4),
batches of 25. No learning rate suits 10 and 100 layers alike, so each depth and phase
is trained at several, and the figure shows the one with the lowest training loss; no
test image takes part in the choice.

Reference: Hayou, Ton, Doucet, Teh, arXiv 2002.08797, section 3 (convolutions).
"""

import grid
import networks
import numpy as np
import plots
import training

import keras_prune_init as kpi

PHASES = ("ordered", "eoc", "eoc_rescaled")


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=3)
    training.add_options(
        result,
        iterations=2000,
        batch_size=25,
        width=32,
        stride=4,
        sparsity=0.5,
    )
    add = result.add_argument
    add("--depths", type=int, nargs="+", default=[100, 50, 10])
    add("--rates", type=float, nargs="+", default=[0.003, 0.01, 0.03])
    return result


def cells(options):
    return [
        {"phase": phase, "depth": depth, "learning_rate": rate, "seed": seed}
        for depth in options.depths
        for rate in options.rates
        for phase in PHASES
        for seed in range(options.seeds)
    ]


def cell(settings, options):
    data = grid.load(options.data)
    model = kpi.models.vcnn(
        data.input_shape,
        data.classes,
        depth=settings["depth"],
        width=options.width,
        stride=options.stride,
        activation="tanh",
        init=networks.start(settings["phase"], settings["seed"]),
    )
    pruning = {**settings, "sparsity": options.sparsity}
    return training.prune_and_train(
        model, data, pruning, options, settings["learning_rate"]
    )


def best(rows: list[dict]) -> dict[tuple, tuple[float, list[dict]]]:
    """The rate with the lowest training loss and its results, by depth and phase."""
    found = {}
    for key, results in plots.group(rows, "depth", "phase", "learning_rate").items():
        # A run that has diverged comes last.
        loss = np.nan_to_num(plots.mean(results, "train_loss"), nan=np.inf)
        found.setdefault(key[:2], []).append((loss, key[2], results))
    return {key: min(tried, key=lambda t: t[:2])[1:] for key, tried in found.items()}


def draw(content):
    rows, options = content["rows"], content["options"]
    rates = sorted({r["cell"]["learning_rate"] for r in rows})
    figure = plots.new(
        8.5,
        4.4,
        f"Plain CNNs with {1 - options['sparsity']:.0%} of their weights, on "
        f"{plots.data(content)}",
        f"tanh, {options['width']} filters, stride {options['stride']} at first; "
        f"{options['iterations']:,} iterations of SGD, batch {options['batch_size']}; "
        f"each at the learning rate of {', '.join(f'{r:g}' for r in rates)} with the "
        f"lowest training loss; {plots.seeds(rows)}: a dot each, bars their mean",
    )
    chosen = best(rows)
    depths = sorted({d for d, _ in chosen})
    axes = figure.subplots()
    plots.bars(
        axes,
        [f"depth {d}" for d in depths],
        {
            networks.PHASES[phase]: [
                [100 * r["test_accuracy"] for r in chosen.get((d, phase), (0, []))[1]]
                for d in depths
            ]
            for phase in PHASES
        },
        "test accuracy (%)",
    )
    plots.legend(figure, axes)
    return figure


if __name__ == "__main__":
    options = parser().parse_args()
    grid.run("vcnn", options, cells(options), cell, draw)
