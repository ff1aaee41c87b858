"""Deep plain convolutional networks with half of their weights, on MNIST.

    python benchmarks/paper/vcnn.py --data=idx:FOLDER --workers=2 --threads=1

Tanh, 3x3 filters, circular padding, no normalization; SBP on 100 images. Reduced to
what two processors train: 32 filters, and images of 7x7 from the first layer on (stride
4). The learning rate is that of ffnn_heatmap.py; 0.01 is too much for 100 layers.

Reference: Hayou, Ton, Doucet, Teh, arXiv 2002.08797, section 3 (convolutions).
"""

import grid
import networks
import plots
import training

import keras_prune_init as kpi

PHASES = ("ordered", "eoc", "eoc_rescaled")


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=3)
    training.add_options(
        result,
        iterations=2000,
        batch_size=100,
        learning_rate=0.003,
        width=32,
        stride=4,
        sparsity=0.5,
    )
    result.add_argument("--depths", type=int, nargs="+", default=[100, 50, 10])
    return result


def cells(options):
    return [
        {"phase": phase, "depth": depth, "seed": seed}
        for depth in options.depths
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
    settings = {**settings, "sparsity": options.sparsity}
    return training.prune_and_train(
        model, data, settings, options, options.learning_rate
    )


def draw(content):
    rows, options = content["rows"], content["options"]
    figure = plots.new(
        8.5,
        4.2,
        f"Plain CNNs with {1 - options['sparsity']:.0%} of their weights, on "
        f"{plots.data(content)}",
        f"tanh, {options['width']} filters, stride {options['stride']} at first; "
        f"{options['iterations']:,} iterations of SGD, batch {options['batch_size']}, "
        f"learning rate {options['learning_rate']:g}; {plots.seeds(rows)}: a dot each, "
        "bars their mean",
    )
    groups = plots.group(rows, "depth", "phase")
    depths = sorted({d for d, _ in groups})
    axes = figure.subplots()
    plots.bars(
        axes,
        [f"depth {d}" for d in depths],
        {
            networks.PHASES[phase]: [
                [100 * r["test_accuracy"] for r in groups.get((d, phase), [])]
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
