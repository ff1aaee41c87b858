"""A training by each system that prunes while it learns, for test_workers.py.

Each takes a compiled model and data, and returns all numbers that must be the same
everywhere.
"""

import numpy as np

import keras_prune_init as kpi

C = kpi.callbacks


def fit(model, data, *callbacks):
    model.fit(data, shuffle=False, verbose=0, callbacks=[*callbacks])
    return model


def numbers(*models):
    values = [np.ravel(v) for model in models for v in model.weights]
    return np.concatenate(values).astype("float64")


def gates(model, data):
    gated = kpi.add_gates(model, "channels", penalty=1.0, data_size=160, drop=0.9)
    assert kpi.report(gated).sparsity == 0
    hard = kpi.harden(fit(gated, data))
    assert kpi.report(hard).sparsity > 0
    return numbers(gated, hard)


def learning_compression(model, data):
    lc = C.LearningCompression(sparsity=0.7, every=3, steps=3, mu=0.5)
    model = fit(lc.attach(model), data, lc)
    assert len(lc.history) == 3
    return numbers(model, lc.finish(model))


def compression_aware(model, data):
    lower = C.CompressionAware(0.3, group=0.02, every=3)
    fit(kpi.enable_workers(model), data, lower)
    full = {k: min(np.prod(s[:-1]), s[-1]) for k, s in shapes(model).items()}
    assert 0 < sum(lower.ranks.values()) < sum(full.values()), (lower.ranks, full)
    return np.append(numbers(model), [*lower.ranks.values()])


def shapes(model):
    return {v.path: v.shape for v in model.weights if v.name == "kernel"}


def hinges(model, data):
    hinge = C.Hinge(0.5, 0.5, 0.25, stop_within=None)
    model = fit(kpi.add_hinges(model), data, hinge)
    return numbers(model, kpi.merge_hinges(model, 0.3))


SYSTEMS = {
    f.__name__: f for f in (gates, learning_compression, compression_aware, hinges)
}
