"""The deep tanh networks of the figures: where they start, how they are pruned."""

from __future__ import annotations

import contextlib

import grid
import keras
import numpy as np

import keras_prune_init as kpi

SIGMA_B = 0.2
PHASES = {
    "ordered": "ordered phase, $\\sigma_w = 1$ ($\\chi = 0.78$)",
    "eoc": "edge of chaos",
    "eoc_rescaled": "edge of chaos, rescaled",
    "chaotic": "chaotic phase, $\\sigma_w = 2$ ($\\chi = 1.35$)",
}


def edge() -> float:
    """sigma_w at which chi = 1 for tanh and SIGMA_B."""
    return round(kpi.mean_field.edge_of_chaos("tanh", SIGMA_B).sigma_w, 6)


def ffnn(input_shape, classes, init, *, depth, width):
    """A fully connected tanh network."""
    return kpi.models.mlp(
        input_shape, classes, depth=depth, width=width, activation="tanh", init=init
    )


def start(phase: str, seed: int) -> keras.initializers.Initializer:
    """Weights N(0, sigma_w^2 / fan-in) and biases N(0, SIGMA_B^2) of a phase."""
    sigma_w = {"ordered": 1.0, "chaotic": 2.0}.get(phase) or edge()
    return kpi.initializers.ScaledNormal(sigma_w, SIGMA_B, seed)


def prune(model, batch, phase: str, sparsity: float) -> keras.Model:
    """SBP, and the rescaling trick if the phase says so."""
    pruned = kpi.prune_at_init(model, batch, "snip", sparsity=sparsity, verbose=0)
    if phase == "eoc_rescaled":
        kpi.rescale(pruned, "tanh", sigma_w=edge())
    return pruned


def method_cells(methods, options) -> list[dict]:
    """A cell for each method, sparsity and seed."""
    return [
        {"method": method, "sparsity": sparsity, "seed": seed}
        for method in methods
        for sparsity in options.sparsities
        for seed in range(options.seeds)
    ]


def resnet(data, options) -> keras.Model:
    """A CIFAR ResNet of the depth and width of the options."""
    size = {"depth": options.depth, "width": options.width}
    return kpi.models.resnet(data.input_shape, data.classes, **size)


def prune_by_class(model, data, settings, options) -> keras.Model:
    """The model pruned as a cell says, on some images of each class."""
    return kpi.prune_at_init(
        model,
        grid.scoring_batches(data, settings["seed"]),
        settings["method"],
        sparsity=settings["sparsity"],
        samples_per_class=options.samples_per_class,
        seed=settings["seed"],
        verbose=0,
    )


def gaussian_batch(seed, size=64, inputs=784, classes=10):
    """Random inputs and labels: the theory knows nothing of images."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, inputs)), rng.integers(0, classes, size)


@contextlib.contextmanager
def float64():
    """Models made inside compute in float64."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(before)
