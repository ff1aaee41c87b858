"""Networks without half of their multiply-adds: accuracy, steps, TensorFlow Lite.

    python benchmarks/structured.py accuracy --data=npz:FILE
    python benchmarks/structured.py times --data=npz:FILE --timer=PROGRAM

Channels are removed before training by each method, 8 at a time. Accuracy is that of
the test images after the last step of SGD with momentum 0.9, cosine schedule, rate 0.1,
batches of 128, crops and flips; few steps, see STEPS. What is done is not run again.

Times are ratios to the dense network: of a training step and of the .tflite file on
this processor, models in turn, as the median of pairwise ratios, and what PROGRAM says
of an ARM processor (see benchmarks/mobile.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import sys
import tempfile

import common

STEPS = {"resnet20": 1000, "vgg16": 500}
SEEDS = {"resnet20": 2, "vgg16": 1}
# The weights of wide layers are small from the start, and random ones have no say.
# By rank over all layers SynFlow leaves the residual streams whole, and with them most
# of the time that normalization takes.
METHODS = {
    "dense": "global",
    "snip": "global",
    "synflow": "global",
    "synflow, uniform": "uniform",
    "magnitude": "uniform",
    "random": "uniform",
}
# Beside them, times are measured of:
OTHERS = {"snip, any number": 1}


def build(network, method, seed, images):
    import keras

    import keras_prune_init as kpi

    keras.utils.set_random_seed(seed)
    shape, classes = images.input_shape, images.classes
    if network == "resnet20":
        model = kpi.models.resnet(shape, classes, depth=20)
    else:
        model = kpi.models.vgg(shape, classes, depth=16)
    rate = keras.optimizers.schedules.CosineDecay(0.1, STEPS[network])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    if method == "dense":
        return model
    return kpi.prune_at_init(
        model,
        images.train(128, seed=seed),
        method.split(",")[0],
        sparsity=0.5,
        what=kpi.Channels("flops", multiple_of=OTHERS.get(method, 8)),
        allocation=METHODS.get(method, "global"),
        seed=seed,
        verbose=0,
    )


def accuracy_of(network, method, seed, source):
    from keras_prune_init.train.data.loading import load_images

    images, steps = load_images(source), STEPS[network]
    model = build(network, method, int(seed), images)
    epochs = -(-steps // images.steps(128))
    batches = images.train(128, seed=int(seed), augment="crop+flip", epochs=epochs)
    model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
    found = model.evaluate(images.test(100), verbose=0, return_dict=True)
    return {"test accuracy": found["accuracy"], "steps": steps, **sizes(model)}


def sizes(model):
    import keras_prune_init as kpi

    found = kpi.cost(model)
    return {"weights": found.weights, "multiply-adds": found.macs}


def times_of(network, folder, source):
    """Rows of all methods, without the ARM times, and the .tflite files."""
    import keras_prune_init as kpi
    from keras_prune_init.train.data.loading import load_images

    images = load_images(source)
    models = {m: build(network, m, 0, images) for m in METHODS | OTHERS}
    files = {}
    for method, model in models.items():
        files[method] = str(pathlib.Path(folder) / f"{method}.tflite")
        kpi.export_tflite(model, files[method], sparse=False)
    [(x, y)] = images.train(128).take(1).as_numpy_iterator()
    steps = common.step_ratios(network, models, x, y)
    runs = {method: common.interpreter(path) for method, path in files.items()}
    lite = common.ratios(
        {
            k: lambda r=r: common.seconds(lambda: [r() for _ in range(20)])
            for k, r in runs.items()
        }
    )
    dense = sizes(models["dense"])
    return [
        {
            "network": network,
            "method": method,
            "weights": sizes(model)["weights"] / dense["weights"],
            "multiply-adds": sizes(model)["multiply-adds"] / dense["multiply-adds"],
            "step": steps[method]["ratio"],
            "step quartiles": steps[method]["quartiles"],
            "file": size(files[method]) / size(files["dense"]),
            "x86": lite[method]["ratio"],
        }
        for method, model in models.items()
    ]


def size(path):
    return pathlib.Path(path).stat().st_size


def all_accuracies(options):
    path = common.RESULTS / "structured_accuracy.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    keys = "network", "method", "seed"
    done = {tuple(row[k] for k in keys) for row in rows}
    for seed in range(max(SEEDS.values())):
        networks = [name for name in options.networks if seed < SEEDS[name]]
        for cell in itertools.product(networks, METHODS, [seed]):
            if cell not in done:
                flags = "accuracy_of", *cell, options.data
                found = common.fresh_process(__file__, *flags)
                rows.append(dict(zip(keys, cell, strict=True)) | found)
                common.save("structured_accuracy", rows)
    return rows


def all_times(options):
    rows = []
    name = f"structured_times_{common.vectors()}"
    for network in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            part = common.fresh_process(
                __file__, "times_of", network, folder, options.data
            )
            if options.timer:
                files = [pathlib.Path(folder) / f"{r['method']}.tflite" for r in part]
                found = common.times_on_arm(files, options.timer)
                for row, times in zip(part, found, strict=True):
                    row["ARM"] = times["ratio_to_first"]
            rows += part
        common.save_networks(name, rows)
    return rows


if __name__ == "__main__":
    common.work_for_another(accuracy_of, times_of)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("accuracy", "times"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--networks", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--timer", help="program that times .tflite files on ARM")
    options = parser.parse_args()
    run = all_accuracies if options.what == "accuracy" else all_times
    sys.stdout.write(common.table(run(options)) + "\n")
