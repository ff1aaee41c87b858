"""Kept connections of each unit: edge of chaos against the chaotic phase (figure 1).

    python benchmarks/paper/kept_connections.py --data=idx:FOLDER   # 1 minute

A tanh network of depth and width 100, 70 % of the weights removed by SBP on 100 images
of MNIST. In the chaotic phase gradients explode on their way back, so the last layers
have the lowest scores and lose everything.

Reference: Hayou, Ton, Doucet, Teh, arXiv 2002.08797, figure 1.
"""

import grid
import networks
import numpy as np
import plots
import training

from keras_prune_init.surgery.exchange import masked_layers

PHASES = ("eoc", "chaotic")


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=1)
    training.add_options(result, depth=100, width=100, sparsity=0.7)
    return result


def cells(options):
    return [
        {"phase": phase, "seed": seed}
        for phase in PHASES
        for seed in range(options.seeds)
    ]


def cell(settings, options):
    data, seed = grid.load(options.data), settings["seed"]
    init = networks.start(settings["phase"], seed)
    size = {"depth": options.depth, "width": options.width}
    model = networks.ffnn(data.input_shape, data.classes, init, **size)
    batch = grid.first_batch(data, seed)
    pruned = networks.prune(model, batch, settings["phase"], options.sparsity)
    masks = [np.asarray(v.mask.value) for v in masked_layers(pruned)]
    return {
        # Of each hidden layer, and for each of its units.
        "inputs": [len(mask) for mask in masks[:-1]],
        "kept": [mask.sum(0).astype(int).tolist() for mask in masks[:-1]],
    }


def draw(content):
    rows, options = content["rows"], content["options"]
    figure = plots.new(
        10,
        4.6,
        f"Kept incoming connections of each unit, {options['sparsity']:.0%} of the "
        f"weights removed by SBP, {plots.data(content)}",
        f"tanh network, depth {options['depth']}, width {options['width']}; one seed",
    )
    panels = figure.subplots(1, len(PHASES), sharey=True)
    for axes, phase in zip(panels, PHASES, strict=True):
        results = plots.group(rows, "phase").get((phase,))
        if not results:
            continue
        first = results[0]
        hidden = zip(first["kept"], first["inputs"], strict=True)
        kept = [np.divide(units, inputs) for units, inputs in hidden]
        image = axes.imshow(
            100 * np.transpose(kept),
            origin="lower",
            aspect="auto",
            cmap="inferno",
            vmin=0,
            vmax=100,
            extent=(0.5, len(kept) + 0.5, 0.5, options["width"] + 0.5),
            interpolation="none",
        )
        empty = sum(not np.any(k) for k in kept)
        axes.set_title(f"{networks.PHASES[phase]}: {empty} empty layers", fontsize=10)
        axes.set_xlabel("hidden layer")
    panels[0].set_ylabel("unit")
    figure.colorbar(image, ax=panels, label="kept connections (%)")
    return figure


if __name__ == "__main__":
    options = parser().parse_args()
    grid.run("kept_connections", options, cells(options), cell, draw)
