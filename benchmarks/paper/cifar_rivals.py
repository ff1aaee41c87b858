"""Test accuracy of masks that move while the network trains, beside those that stay.

    python benchmarks/paper/cifar_rivals.py --data=npz:FILE --workers=2 --threads=1

A ResNet-20 on CIFAR-10 of half the size: images are means of 2 x 2 pixels, so that a
step costs a quarter. All systems take the same steps of SGD with momentum 0.9, with a
rate that falls by 10 after 1/2 and 3/4 of them, and random flips. Masks move every 100
steps, until 3/4 of all; those of SET and RigL begin at random with ERK, as the static
ones of `random` do.

Reference: Evci, Gale, Menick, Castro, Elsen, 2020, arXiv 1911.11134.
"""

import dataclasses

import grid
import networks
import numpy as np
import plots
import training
from cifar_methods import step_decay

import keras_prune_init as kpi

EVERY = 100
STAY = "random", "snip", "grasp", "synflow", "sbp_sr"
MOVE = {
    "set": lambda sparsity: kpi.callbacks.SET(every=EVERY),
    "rigl": lambda sparsity: kpi.callbacks.RigL(every=EVERY),
    "granet": lambda sparsity: kpi.callbacks.GraNet(sparsity, every=EVERY),
    "gradual_magnitude": lambda s: kpi.callbacks.GradualMagnitude(s, every=EVERY),
    "acdc": lambda s: kpi.callbacks.ACDC(s, begin=5 * EVERY, every=5 * EVERY),
}
FIXED_COUNTS = "set", "rigl"


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=2)
    training.add_options(
        result,
        iterations=4000,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=1e-3,  # 1e-4 of PyTorch's SGD with momentum 0.9
        depth=20,
        width=16,
        samples_per_class=10,
    )
    add = result.add_argument
    add("--methods", nargs="+", default=["dense", *STAY, *MOVE])
    add("--sparsities", type=float, nargs="+", default=[0.98])
    return result


def cells(options):
    return [
        {"method": method, "sparsity": sparsity, "seed": seed}
        for seed in range(options.seeds)
        for method in options.methods
        for sparsity in ([0.0] if method == "dense" else options.sparsities)
    ]


def cell(settings, options):
    data, method = halved(grid.load(options.data)), settings["method"]
    model, rules = networks.resnet(data, options), []
    if method in MOVE:
        rules = [MOVE[method](settings["sparsity"])]
        model = first_masks(model, settings)
    elif method == "random":
        model = first_masks(model, settings)
    elif method != "dense":
        model = networks.prune_by_class(model, data, settings, options)
    result = training.train(
        model, data, step_decay(options), options, settings["seed"], "flip", rules
    )
    if method != "dense":
        result["kept"] = kpi.report(model).kept
    if rules:
        result["grown"] = sum(change.grown for change in rules[0].history)
    return result


def first_masks(model, settings):
    """At random, of the final sparsity, or all ones."""
    sparse = settings["method"] in ("random", *FIXED_COUNTS)
    way = ("random", "erk") if sparse else ("magnitude", "global")
    return kpi.prune(
        model,
        None,
        way[0],
        sparsity=settings["sparsity"] if sparse else 0.0,
        allocation=way[1],
        seed=settings["seed"],
        verbose=0,
    )


def halved(data):
    """Images of half the height and width."""

    def means(x):
        count, height, width, channels = x.shape
        blocks = x.reshape(count, height // 2, 2, width // 2, 2, channels)
        return np.round(blocks.mean((2, 4))).astype(x.dtype)

    return dataclasses.replace(
        data, x_train=means(data.x_train), x_test=means(data.x_test)
    )


def draw(content):
    rows, options = content["rows"], content["options"]
    figure = plots.new(
        10,
        4.6,
        f"Test accuracy of ResNet-{options['depth']}, width {options['width']}, on "
        f"{plots.data(content)} at 16x16 after {options['iterations']:,} iterations",
        f"SGD, batch {options['batch_size']}, learning rate "
        f"{options['learning_rate']:g}; masks of the first {len(STAY)} stay, the "
        f"others move every {EVERY} iterations; {plots.seeds(rows)}: a dot each, bars "
        "their mean",
    )
    axes = figure.subplots()
    groups = plots.group(rows, "method", "sparsity")
    sparsities = sorted({s for _, s in groups if s})
    values = {
        method: [
            [100 * r["test_accuracy"] for r in groups.get((method, s), [])]
            for s in sparsities
        ]
        for method in (*STAY, *MOVE)
        if any(method == found for found, _ in groups)
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
    grid.run("cifar_rivals", options, cells(options), cell, draw)
