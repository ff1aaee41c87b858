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
import training
from cifar_methods import SETTINGS, bars, cells, step_decay

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
    training.add_options(result, iterations=4000, samples_per_class=10, **SETTINGS)
    add = result.add_argument
    add("--methods", nargs="+", default=["dense", *STAY, *MOVE])
    add("--sparsities", type=float, nargs="+", default=[0.98])
    return result


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
    drawn = {row["cell"]["method"] for row in content["rows"]}
    stay = len(drawn.intersection(STAY))
    masks = f"masks of the first {stay} stay, others move every {EVERY} iterations"
    return bars(content, (*STAY, *MOVE), " at 16x16", masks)


if __name__ == "__main__":
    options = parser().parse_args()
    grid.run("cifar_rivals", options, cells(options), cell, draw)
