"""What pruning while training costs: time of steps and changes, memory of a change.

    python benchmarks/moving.py [NETWORK ...]

Times are those of a step with the callback, between changes ("step") and with a change
of masks or weights ("change"), over a step of the plain model: the pruned one for what
begins sparse, the dense one for what begins dense. "extra" is what a change adds, in
plain steps. Steps of all three alternate in one process; figures are medians of
pairwise ratios. Where changes come once an epoch, the end of the epoch is timed.

Memory ("wide") is the peak of a process that trains a compact model for six steps, with
two changes of RigL and without, above that of a process that does so with few weights.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from typing import Any, NamedTuple

import common

NETWORKS = ("lenet300", "resnet20")
BATCH, SPARSITY, PAIRS, STEPS = 128, 0.98, 40, 6
NEVER = {"begin": 10**6, "every": 1, "end": 2 * 10**6}
ALWAYS = {"begin": 0, "every": 1, "end": 150}  # more than are measured
WIDTHS = {"wide": 4096, "tiny": 8}


class System(NamedTuple):
    """What is timed, and the plain model whose step is the unit."""

    name: str
    layout: str
    plain: Any
    trained: Any
    calm: Any  # a callback that changes nothing
    busy: Any  # one that changes something in every step ...
    ends: bool = False  # ... or at the end of the epoch


def build(network):
    import keras

    import keras_prune_init as kpi

    if network == "resnet20":
        model = kpi.models.resnet(depth=20)
    elif network == "lenet300":
        model = kpi.models.mlp((784,), 10, depth=3, width=(300, 100))
    else:
        model = kpi.models.mlp((WIDTHS[network],), depth=3, width=WIDTHS[network])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    return model


def systems(network):
    import keras

    import keras_prune_init as kpi

    rules, none = kpi.callbacks, keras.callbacks.Callback()
    dense = build(network)
    erk = kpi.prune(dense, None, "random", sparsity=SPARSITY, allocation="erk")
    for layout in ("masked", "compact"):
        model = kpi.to_layout(erk, layout)
        for rule in (rules.SET, rules.RigL):
            both = rule(**NEVER), rule(**ALWAYS)
            yield System(rule.__name__, layout, model, model, *both)
    for rule in (rules.GradualMagnitude, rules.GraNet, rules.ACDC):
        model = kpi.prune(dense, method="magnitude", sparsity=0.0)
        both = rule(SPARSITY, **NEVER), rule(SPARSITY, **ALWAYS)
        yield System(rule.__name__, "masked", dense, model, *both)
    options = {"sparsity": SPARSITY, "steps": 10**3, "growth": 1}
    calm, busy = (rules.LearningCompression(every=n, **options) for n in (10**6, 1))
    yield System(type(busy).__name__, "", dense, busy.attach(dense), calm, busy)
    low = rules.CompressionAware(1e-4)
    yield System(type(low).__name__, "", dense, dense, low, low, ends=True)
    for what in ("inputs", "weights"):
        model = kpi.add_gates(dense, what, penalty=1.0, data_size=50_000)
        yield System(f"gates on {what}", "", dense, model, none, none)
    if network == "resnet20":
        hinge = rules.Hinge(0.5)
        yield System("Hinge", "", dense, kpi.add_hinges(dense), hinge, hinge, ends=True)


def timed(model, callback, data, ends=False):
    """A function that measures a step as `fit` takes it with a callback."""
    callback.set_params({"epochs": 1, "steps": None})
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)  # which looks at the masks, before others change them

    def step():
        callback.on_train_batch_begin(0)
        model.train_on_batch(*data)
        callback.on_train_batch_end(0)
        if ends:
            callback.on_epoch_end(0, {})

    def measure():
        callback.on_epoch_begin(0)
        return common.seconds(step)

    return measure


def row(network, system):
    import keras
    import tensorflow as tf

    x, y = common.cifar_batch(BATCH)
    if network == "lenet300":
        x = x.reshape(BATCH, -1)[:, :784]
    data = tf.constant(x), tf.constant(y)
    found = common.ratios(
        {
            "dense": timed(system.plain, keras.callbacks.Callback(), data),
            "step": timed(system.trained, system.calm, data),
            "change": timed(system.trained, system.busy, data, system.ends),
        },
        PAIRS,
    )
    step, change = found["step"], found["change"]
    return {
        "network": network,
        "system": system.name,
        "layout": system.layout,
        "plain step s": round(found["dense"]["seconds"], 4),
        "step": step["ratio"],
        "step quartiles": step["quartiles"],
        "change": change["ratio"],
        "change quartiles": change["quartiles"],
        "extra": change["ratio"] - step["ratio"],
    }


def times(network):
    return {"rows": [row(network, system) for system in systems(network)]}


def make(network, file):
    import keras_prune_init as kpi

    pruned = kpi.prune(
        build(network), None, "random", sparsity=SPARSITY, layout="compact"
    )
    pruned.save(file)
    return {}


def train(file, every):
    import keras
    import numpy as np

    import keras_prune_init as kpi

    model = keras.models.load_model(file)
    x = np.random.default_rng(0).normal(size=(BATCH * STEPS, model.input_shape[-1]))
    rule = kpi.callbacks.RigL(every=int(every), end=STEPS)
    y = np.zeros(len(x), int)
    model.fit(x.astype("float32"), y, BATCH, verbose=0, callbacks=[rule])
    return {"changes": len(rule.history)}


def memory():
    """Peaks above that of few weights, and bytes of the dense kernels."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for network in WIDTHS:
            file = pathlib.Path(folder, f"{network}.keras")
            common.fresh_process(__file__, "make", network, file)
            for every in (10**6, 2):
                peak = common.peak_mib(__file__, "train", file, every)
                found[network, every] = peak
    calm, busy = (found["wide", n] - found["tiny", n] for n in (10**6, 2))
    kernels = 2 * WIDTHS["wide"] ** 2 * 4 / 2**20
    return [
        {
            "network": "wide",
            "system": "RigL",
            "layout": "compact",
            "MiB": round(calm),
            "MiB with changes": round(busy),
            "dense kernels MiB": round(kernels),
            "extra in dense kernels": (busy - calm) / kernels,
        }
    ]


if __name__ == "__main__":
    common.work_for_another(times, make, train)
    for name in sys.argv[1:] or (*NETWORKS, "wide"):
        if name == "wide":
            rows = memory()
        else:
            rows = common.fresh_process(__file__, "times", name)["rows"]
        sys.stdout.write(common.table(rows) + "\n")
        common.save_networks("moving", rows)
