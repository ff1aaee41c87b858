"""Test accuracy of all methods on CIFAR-10, after one short schedule.

    python benchmarks/paper/cifar_methods.py --data=npz:FILE --workers=2 --threads=1
    python benchmarks/paper/cifar_methods.py --data=npz:FILE --workers=2 --threads=1 \\
        --depth=104 --methods dense snip sbp_sr --sparsities 0.98

A ResNet of width 16 is pruned on 10 images of each class and trained by SGD with
momentum 0.9, a rate that falls by 10 after 1/2 and 3/4 of the steps, random crops and
flips; the papers train 10 times longer or more. Accuracy is that of the last step. Each
depth has a results file of its own.

Reference: Hayou, Ton, Doucet, Teh, arXiv 2002.08797, table 2.
"""

import grid
import keras
import networks
import plots
import training

import keras_prune_init as kpi

SETTINGS = {
    "batch_size": 128,
    "learning_rate": 0.1,
    "weight_decay": 1e-3,  # 1e-4 of PyTorch's SGD with momentum 0.9
    "depth": 20,
    "width": 16,
}
METHODS = "random", "magnitude", "snip", "grasp", "synflow", "sbp_sr", "grasp_sr"


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=3)
    training.add_options(result, iterations=2000, samples_per_class=10, **SETTINGS)
    add = result.add_argument
    add("--methods", nargs="+", default=["dense", *METHODS])
    add("--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.98])
    return result


def cells(options):
    return [
        {"method": method, "sparsity": sparsity, "seed": seed}
        for seed in range(options.seeds)
        for method in options.methods
        for sparsity in ([0.0] if method == "dense" else options.sparsities)
    ]


def cell(settings, options):
    data, seed = grid.load(options.data), settings["seed"]
    model, empty = networks.resnet(data, options), 0
    if settings["method"] != "dense":
        model = networks.prune_by_class(model, data, settings, options)
        empty = len(kpi.report(model).collapsed)
    optimizer = step_decay(options)
    result = training.train(model, data, optimizer, options, seed, "crop+flip")
    return {**result, "empty_layers": empty}


def step_decay(options):
    """SGD whose rate drops to a tenth after half and three quarters of the steps."""
    peak, steps = options.learning_rate, options.iterations
    rate = keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(steps * part) - 1 for part in (0.5, 0.75)], [peak, peak / 10, peak / 100]
    )
    decay = options.weight_decay or None
    return keras.optimizers.SGD(rate, momentum=0.9, weight_decay=decay)


def draw(content):
    images = content["options"]["samples_per_class"]
    return bars(content, METHODS, "", f"scored on {images} images of each class")


def bars(content, methods, size, masks):
    """Accuracy of these methods by sparsity; `size` and `masks` are for the texts."""
    rows, options = content["rows"], content["options"]
    figure = plots.new(
        10,
        4.6,
        f"Test accuracy of ResNet-{options['depth']}, width {options['width']}, on "
        f"{plots.data(content)}{size} after {options['iterations']:,} iterations",
        f"SGD, batch {options['batch_size']}, learning rate "
        f"{options['learning_rate']:g}; {masks}; {plots.seeds(rows)}: a dot each, bars "
        "their mean",
    )
    axes = figure.subplots()
    groups = plots.group(rows, "method", "sparsity")
    sparsities = sorted({s for _, s in groups if s})
    methods = [m for m in methods if any(m == method for method, _ in groups)]
    values = {
        m: [
            [100 * r["test_accuracy"] for r in groups.get((m, s), [])]
            for s in sparsities
        ]
        for m in methods
    }
    if dense := groups.get(("dense", 0.0)):
        level = 100 * plots.mean(dense, "test_accuracy")
        axes.axhline(level, color="0.4", ls="--", label=f"dense ({level:.1f} %)")
    plots.bars(axes, [f"{s:.1%}" for s in sparsities], values, "test accuracy (%)")
    axes.set_xlabel("weights removed")
    plots.legend(figure, axes)
    return figure


if __name__ == "__main__":
    options = parser().parse_args()
    name = f"cifar_resnet{options.depth}"
    grid.run(name, options, cells(options), cell, draw)
