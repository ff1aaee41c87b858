"""How all figures train: `model.fit`, with many steps in each call of the graph."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import grid
import keras
import networks

import keras_prune_init as kpi

# Else half the time of deep, narrow networks goes into Python between steps.
STEPS_PER_CALL = 100


def add_options(parser: argparse.ArgumentParser, **defaults) -> None:
    """Numbers of the schedule as options, with a script's defaults."""
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)


def train(
    model: keras.Model,
    data,
    optimizer,
    options,
    seed: int,
    augment: str = "",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict:
    """Train, and test once at the end.

    Returns:
        `test_accuracy` after the last step, and `train_loss`, the mean over the last
        100 steps (or fewer, if 100 does not divide the iterations).
    """
    steps = math.gcd(options.iterations, STEPS_PER_CALL)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, steps_per_execution=steps, jit_compile=False)
    epochs = -(-options.iterations // data.steps(options.batch_size))
    history = model.fit(
        data.train(options.batch_size, seed=seed, augment=augment, epochs=epochs),
        steps_per_epoch=steps,
        epochs=options.iterations // steps,
        shuffle=False,  # the batches are shuffled already
        callbacks=[*callbacks],
        verbose=0,
    ).history
    # Many batches in one call would have to divide the test images.
    model.compile(loss=loss, metrics=["accuracy"])
    tested = model.evaluate(data.test(500), return_dict=True, verbose=0)
    return {"test_accuracy": tested["accuracy"], "train_loss": history["loss"][-1]}


def prune_and_train(model, data, settings, options, learning_rate) -> dict:
    """A deep tanh network from scoring to test accuracy, with plain SGD."""
    batch = grid.first_batch(data, settings["seed"])
    pruned = networks.prune(model, batch, settings["phase"], settings["sparsity"])
    optimizer = keras.optimizers.SGD(learning_rate)
    result = train(pruned, data, optimizer, options, settings["seed"])
    return {**result, "empty_layers": len(kpi.report(pruned).collapsed)}
