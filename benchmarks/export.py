"""Files of six kinds of trained networks: sizes, and agreement with Keras.

    python benchmarks/export.py

Each is pruned to 95 % (by SNIP; of MobileNetV2 the 1x1 convolutions, by SynFlow),
trained on the embedded part of Fashion-MNIST, exported in all precisions, sparse and
dense, loaded by the runtime for phones with its default delegates, and run on 200 test
images. `--sweep` instead exports one network at sparsities from 0 to 0.98, `--memory`
the ResNet-50 of keras.applications at 224x224 by the command line, to see what memory
that takes. Every network has a process of its own, because TensorFlow's converter keeps
memory.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import common

SPARSITIES = 0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98
PRECISIONS = "float32", "float16", "int8"
EPOCHS, BATCH, CLASSES = 4, 64, 10


def two_in_two_out():
    """Reads the halves of an image; says the class twice."""
    import keras

    L = keras.layers
    halves = [keras.Input((28, 14, 1), name=side) for side in ("left", "right")]
    x = L.Concatenate()([L.Dense(200, "relu")(L.Flatten()(half)) for half in halves])
    x = L.Dense(200, "relu")(x)
    return keras.Model(halves, [L.Dense(CLASSES)(x), L.Dense(CLASSES)(x)])


def transformer():
    """Reads the rows of an image one after the other."""
    import keras

    L = keras.layers
    rows = keras.Input((28, 28, 1))
    x = L.Dense(64)(L.Reshape((28, 28))(rows))
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(4, 16)(y, y)])
        y = L.Dense(128, "gelu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dense(64)(y)])
    return keras.Model(rows, L.Dense(CLASSES)(L.Flatten()(x)))


def build(name):
    from keras_prune_init import models

    return {
        "mlp": lambda: models.mlp((28, 28, 1), CLASSES, depth=3, width=300),
        "vgg11": lambda: models.vgg((28, 28, 1), CLASSES, depth=11, width=16),
        "resnet20": lambda: models.resnet((28, 28, 1), CLASSES, depth=20),
        "mobilenet_v2": lambda: models.mobilenet(
            (28, 28, 1), CLASSES, version=2, alpha=0.5
        ),
        "two_in_two_out": two_in_two_out,
        "transformer": transformer,
    }[name]()


NAMES = ("mlp", "vgg11", "resnet20", "mobilenet_v2", "two_in_two_out", "transformer")


def measure(name, sparsity, epochs):
    """Rows of one network."""
    import keras

    import keras_prune_init as kpi
    from keras_prune_init.train.data.loading import load_images

    keras.utils.set_random_seed(0)
    images = load_images("fashion_mnist_mini")

    def adapted(x, y):
        return ((x[:, :, :14], x[:, :, 14:]), (y, y)) if "two" in name else (x, y)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = build(name)
    outputs = len(model.outputs)
    accuracy = ["accuracy"] if outputs == 1 else [["accuracy"]] * outputs
    losses = loss if outputs == 1 else [loss] * outputs
    model.compile(keras.optimizers.Adam(2e-3), losses, metrics=accuracy)
    batches = images.train(BATCH, epochs=max(epochs, 1)).map(adapted)
    if sparsity:
        # SNIP leaves no path through a MobileNetV2 at 95 %.
        mobile = "mobilenet" in name
        model = kpi.prune_at_init(
            model,
            batches,
            "synflow" if mobile else "snip",
            sparsity=sparsity,
            filters="pointwise" if mobile else None,
            verbose=0,
        )
    if epochs:
        steps = images.steps(BATCH)
        model.fit(
            batches, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0
        )
    test = images.test(100).map(adapted)
    found = model.evaluate(test, verbose=0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            for stored in (False, "auto"):
                report = kpi.export_tflite(
                    model,
                    pathlib.Path(folder) / "model.tflite",
                    precision=precision,
                    sparse=stored,
                    representative_data=test,
                )
                rows.append(row(name, sparsity, stored, report, found[-1]))
    return rows


def save_resnet50(folder):
    """A pruned ResNet-50 and some inputs, for `measure_memory`."""
    import keras
    import numpy as np

    import keras_prune_init as kpi

    model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    kpi.prune_at_init(
        model, None, "magnitude", sparsity=0.9, allocation="uniform", verbose=0
    ).save(folder / "model.keras")
    images = np.random.default_rng(0).normal(size=(20, 224, 224, 3))
    np.save(folder / "images.npy", images.astype("float32"))


def measure_memory(folder, precision):
    """Time and peak memory of the command that exports it."""
    file = folder / "model.tflite"
    command = [sys.executable, "-m", "keras_prune_init.export", f"--out={file}"]
    command += [f"--model={folder / 'model.keras'}", f"--precision={precision}"]
    command += [f"--data={folder / 'images.npy'}"]
    start = time.perf_counter()
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"Failed: {' '.join(command)}")
    return {
        "network": "keras.applications.ResNet50",
        "precision": precision,
        "bytes": file.stat().st_size,
        "seconds": time.perf_counter() - start,
        "peak GiB": usage.ru_maxrss / 2**20,
    }


def row(name, sparsity, stored, report, accuracy):
    return {
        "network": name,
        "sparsity": sparsity,
        "precision": report.precision,
        "stored": stored or "dense",
        "bytes": report.size.plain,
        "of dense": report.size.plain / report.dense.plain,
        "gzip": report.size.gzip,
        "sparse tensors": sum(k.encoded for k in report.kernels),
        "relative difference": report.comparison.difference / report.comparison.largest,
        "agreement": report.comparison.agreement,
        "test accuracy": accuracy,
        "peak GB": common.peak_gigabytes(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", metavar="NETWORK", choices=NAMES)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", nargs=3, help="network, sparsity, epochs: JSON")
    parser.add_argument("--save", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, sparsity, epochs = options.one
        sys.stdout.write(json.dumps(measure(name, float(sparsity), int(epochs))))
        sys.exit()
    if options.save:
        save_resnet50(options.save)
        sys.stdout.write("null")
        sys.exit()
    if options.memory:
        with tempfile.TemporaryDirectory() as name:
            common.fresh_process(__file__, "--save", name)
            rows = [measure_memory(pathlib.Path(name), p) for p in PRECISIONS]
        sys.stdout.write(common.table(rows) + "\n")
        common.save("export_memory", rows)
        sys.exit()
    jobs = [(name, 0.95, EPOCHS) for name in NAMES]
    if options.sweep:
        jobs = [(options.sweep, sparsity, 0) for sparsity in SPARSITIES]
    rows = []
    for job in jobs:
        rows += common.fresh_process(__file__, "--one", *job)
        sys.stdout.write(common.table(rows[-6:]) + "\n")
    common.save("export_sweep" if options.sweep else "export", rows)
