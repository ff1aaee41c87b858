"""What training takes in each layout: memory, state, checkpoint, time of a step.

    python benchmarks/memory.py [NETWORK ...]

Memory is the peak of a process that loads a pruned (or makes a dense) model and trains
it for six steps, by `/usr/bin/time -v`, above that of a process that does the same with
eight weights. Time is that of steps in one process, models in turn, as the median of
pairwise ratios to dense. State is what the model's variables and its optimizer hold;
the aim is 1.2 * (3 + 1) * 4 bytes for each kept weight with Adam.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import common
import sparse_networks

LAYOUTS = ("dense", "masked", "compact", "sparse")
# Network: sparsity, optimizer, images in a batch.
NETWORKS = {
    "mlp 784-8192-8192-10": (0.98, "adam", 128),
    "mlp 5 x 4096": (0.98, "adam", 128),
    "3 x 4096": (0.98, "adam", 128),
    "resnet32": (0.95, "momentum", 128),
    "vgg16": (0.95, "momentum", 128),
    "tiny": (0.5, "adam", 128),
}
STEPS = 6


def build(name):
    import keras

    import keras_prune_init as kpi

    _, optimizer, _ = NETWORKS[name]
    keras.utils.set_random_seed(0)
    if name == "resnet32":
        model = kpi.models.resnet(depth=32)
    elif name == "vgg16":
        model = kpi.models.vgg(depth=16)
    elif name in sparse_networks.NETWORKS:
        model = sparse_networks.NETWORKS[name].make()
    else:
        widths = {"mlp 784-8192-8192-10": [8192] * 2, "mlp 5 x 4096": [4096] * 4}
        hidden = [keras.layers.Dense(n, "relu") for n in widths.get(name, [1])]
        model = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])
        if name == "tiny":
            layers = [keras.Input((784,)), keras.layers.Lambda(lambda x: x[:, :2])]
            model = keras.Sequential([*layers, keras.layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rates = {"adam": keras.optimizers.Adam(1e-4)}
    rates["momentum"] = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(rates[optimizer], loss, jit_compile=False)
    return model


def data(name, steps):
    import numpy as np

    x, y = common.cifar_batch(NETWORKS[name][2] * steps)
    if name in ("resnet32", "vgg16"):
        return x, y
    if name in sparse_networks.NETWORKS:
        return np.resize(x, (len(x), *sparse_networks.NETWORKS[name].shape)), y
    return x.reshape(len(x), -1)[:, :784], y % 4 if name == "tiny" else y


def fit(model, name, steps):
    x, y = data(name, steps)
    model.fit(x, y, batch_size=NETWORKS[name][2], shuffle=False, verbose=0)


def file_of(folder, layout):
    return pathlib.Path(folder) / f"{layout}.keras"


def make(name, folder):
    """The pruned models, as files; and what each layout stores while it trains."""
    import keras_prune_init as kpi

    sparsity = NETWORKS[name][0]
    dense = build(name)
    rows = {}
    for layout in LAYOUTS:
        model = dense
        if layout != "dense":
            model = kpi.prune_at_init(
                dense, data(name, 1), "snip", sparsity=sparsity, layout=layout
            )
            model.save(file_of(folder, layout))
        fit(model, name, 1)
        checkpoint = file_of(folder, "checkpoint")
        model.save(checkpoint)
        variables = [*model.variables, *model.optimizer.variables]
        rows[layout] = {
            "state": sum(v.numpy().nbytes for v in variables),
            "checkpoint": checkpoint.stat().st_size,
        }
        if layout == "compact":
            rows[layout]["kept"] = kpi.report(model).kept
    return rows


def train(name, folder, layout):
    import keras

    import keras_prune_init  # noqa: F401  (for its layers)

    dense = layout == "dense"
    model = build(name) if dense else keras.models.load_model(file_of(folder, layout))
    fit(model, name, STEPS)
    return {}


def step_ratios(name, folder, _):
    """Median ratios of the time of a step to that of the dense model."""
    import keras

    import keras_prune_init  # noqa: F401

    models = {"dense": build(name)}
    for layout in LAYOUTS[1:]:
        models[layout] = keras.models.load_model(file_of(folder, layout))
    return common.step_ratios(name, models, *data(name, 1))


def measure(name, baseline):
    with tempfile.TemporaryDirectory() as folder:
        made = common.fresh_process(__file__, "make", name, folder)
        peaks = {
            v: common.peak_mib(__file__, "train", name, folder, v) - baseline
            for v in LAYOUTS
        }
        times = common.fresh_process(__file__, "step_ratios", name, folder, "")
    kept = made["compact"]["kept"]
    return [
        {
            "network": name,
            "layout": layout,
            "MiB": round(peaks[layout]),
            "memory": peaks[layout] / peaks["dense"],
            "state MiB": made[layout]["state"] / 2**20,
            "bytes a kept weight": made[layout]["state"] / kept,
            "checkpoint": made[layout]["checkpoint"] / made["dense"]["checkpoint"],
            "step": times[layout]["ratio"],
            "step quartiles": times[layout]["quartiles"],
        }
        for layout in LAYOUTS
    ]


def run(networks):
    baseline = common.peak_mib(__file__, "train", "tiny", "", "dense")
    rows = [row for name in networks for row in measure(name, baseline)]
    sys.stdout.write(f"baseline {baseline:.0f} MiB\n{common.table(rows)}\n")
    common.save_networks("memory", rows)


if __name__ == "__main__":
    common.work_for_another(make, train, step_ratios)
    run(sys.argv[1:] or [name for name in NETWORKS if name != "tiny"])
