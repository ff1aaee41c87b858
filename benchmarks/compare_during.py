"""The rows of compare.py that prune while the network trains."""

import numpy as np
import tensorflow_model_optimization as tfmot
from tfmot import wrapped  # benchmarks/tfmot.py

import keras_prune_init as kpi

PENALTY = 0.1  # of the loss, for each open gate
NUCLEAR = 0.1  # of a singular value, ten times
# Of each: the rule, by the sparsity and the steps between changes, and how it begins.
DENSE, SPARSE = ("magnitude", "global"), ("random", "erk")
MOVING = {
    "SET": (lambda sparsity, every: kpi.callbacks.SET(every=every), SPARSE),
    "RigL": (lambda sparsity, every: kpi.callbacks.RigL(every=every), SPARSE),
    "GraNet": (lambda s, every: kpi.callbacks.GraNet(s, every=every), DENSE),
    "gradual magnitude": (
        lambda sparsity, every: kpi.callbacks.GradualMagnitude(sparsity, every=every),
        DENSE,
    ),
    "AC/DC": (
        lambda s, every: kpi.callbacks.ACDC(s, begin=5 * every, every=10 * every),
        DENSE,
    ),
}


def moving(run, name):
    """Masks that change in three quarters of the steps; their gradients cost a step."""
    make, (method, allocation) = MOVING[name]
    every = max(run.steps // 60, 1)
    rule = make(run.sparsity, every)
    model = kpi.prune(
        run.start,
        None,
        method,
        sparsity=run.sparsity if allocation == "erk" else 0.0,
        allocation=allocation,
        seed=run.seed,
        verbose=0,
    )
    run.compile(model, run.steps, every)
    counts = np.full(run.steps, kpi.report(model).kept)
    run.fit(model, run.steps, callbacks=[rule])
    for change in rule.history:
        counts[change.step :] = change.kept
    passes = len(rule.history) if rule.needs_gradients else 0
    run.phases[-1] = run.steps, float(counts.mean() / run.total + passes / run.steps)
    return model


def gradual(run):
    """tfmot's gradual magnitude in Keras 2, whose callback counts single steps."""
    last, frequency = run.steps * 3 // 4, max(run.steps // 60, 1)
    now = np.minimum(np.arange(run.steps) // frequency * frequency / last, 1)
    density = 1 - run.sparsity * (1 - (1 - now) ** 3)
    polynomial = tfmot.sparsity.keras.PolynomialDecay(
        0.0, run.sparsity, 0, last, frequency=frequency
    )
    model = wrapped(kpi.tfmot.from_keras3(run.start), polynomial)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    run.compile(model, run.steps, 1)
    run.fit(model, run.steps, float(density.mean()), callbacks=callbacks)
    return tfmot.sparsity.keras.strip_pruning(model)


def gates(run):
    """Gates on single weights, which fall to the exact count by magnitude."""
    half, images = run.steps // 2, len(run.images.x_train)
    gated = kpi.add_gates(run.start, "weights", penalty=PENALTY, data_size=images)
    run.fit(run.compile(gated, half), half, 1.0)
    hard = kpi.harden(gated)
    pruned = run.prune(hard, "magnitude")
    run.before = run.error(pruned)
    return run.train(pruned, half)


def learning_compression(run):
    """Dense for half of the steps, then 40 compressions, and a tenth with the masks."""
    model, every = run.trained(run.steps // 2), run.steps // 100
    lc = kpi.callbacks.LearningCompression(
        run.sparsity, every=every, steps=40, mu=1e-3, growth=1.2
    )
    training = lc.attach(model)
    run.compile(training, 40 * every, every)
    run.fit(training, 40 * every, 1.0, callbacks=[lc])
    pruned = lc.finish(training)
    run.before = run.error(pruned)
    return run.train(pruned, run.steps - run.steps // 2 - 40 * every)


def low_rank(run):
    """Nuclear norm for half of the steps, then factors of so many weights."""
    half = run.steps // 2
    lower = kpi.callbacks.CompressionAware(NUCLEAR, every=half // 10)
    run.compile(run.start, half, half // 10)
    run.fit(run.start, half, 1.0, callbacks=[lower])
    low, high = 0.0, 1.0
    for _ in range(12):
        energy = (low + high) / 2
        weights = factor_weights(run.start, energy)
        fits = weights <= (1 - run.sparsity) * run.total
        low, high = (energy, high) if fits else (low, energy)
    if not low:
        raise ValueError("Factors of rank 1 have more weights.")
    small = kpi.factorize(run.start, low)
    run.before = run.error(small)
    return run.train(small, half)


def factor_weights(model, energy):
    layers = kpi.factorize_report(model, energy).layers
    return sum(layer.weights[layer.replaced] for layer in layers)


def hinges(run):
    """Of a trained network; what is removed are multiply-adds, not weights."""
    half = run.steps // 2
    hinged = kpi.add_hinges(run.trained(half))
    hinge = kpi.callbacks.Hinge(run.sparsity, stop_within=None)
    run.compile(hinged, half // 2)
    run.fit(hinged, half // 2, 1.0, callbacks=[hinge])
    small = kpi.merge_hinges(hinged, run.sparsity)
    run.before = run.error(small)
    return run.train(small, half - half // 2)
