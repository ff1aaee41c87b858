"""One network in all forms: step, memory, files, TensorFlow Lite on ARM.

    python benchmarks/forms.py --data=npz:FILE --timer=PROGRAM

`masked`, `compact` and `shrunk` (cut out of `masked`) keep 2 % of the weights, by SNIP;
`structured` has half of the multiply-adds, by SNIP, channels 8 at a time. All are
ratios to the dense network: the time of training steps in one process, models in turn;
peak memory of a process that loads a model and trains it for six steps, above that of
one that loads TensorFlow and the images; the `.keras` file with the state of SGD with
momentum; the .tflite file, stored sparsely where that is smaller, and its time by
PROGRAM (see mobile.py).
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile

import common

NETWORKS = ("resnet20", "vgg16")
STEPS, BATCH = 6, 128


def build(network):
    import keras

    import keras_prune_init as kpi

    keras.utils.set_random_seed(0)
    shape = 32, 32, 3
    models = kpi.models
    deep = models.resnet(shape, 10, depth=20), models.vgg(shape, 10, depth=16)
    model = dict(zip(NETWORKS, deep, strict=True))[network]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=False)
    return model


def forms(network, images):
    import keras_prune_init as kpi

    dense = build(network)
    batch = images.train(BATCH).take(1)
    options = {"sparsity": 0.98, "verbose": 0}
    masked = kpi.prune_at_init(dense, batch, "snip", **options)
    return {
        "dense": dense,
        "masked": masked,
        "compact": kpi.to_layout(masked, "compact"),
        "shrunk": kpi.shrink(masked),
        "structured": kpi.prune_at_init(
            dense, batch, sparsity=0.5, what=kpi.Channels("flops", 8), verbose=0
        ),
    }  # fmt: skip


def load(source):
    from keras_prune_init.train.data.loading import load_images

    return load_images(source)


def make(network, folder, source):
    """Files of all forms, and their sizes."""
    import keras_prune_init as kpi

    images = load(source)
    rows = {}
    for form, model in forms(network, images).items():
        model.fit(images.train(BATCH).take(1), verbose=0)
        path = pathlib.Path(folder) / form
        model.save(path.with_suffix(".keras"))
        kpi.export_tflite(model, path.with_suffix(".tflite"))
        kinds = "keras", "tflite"
        rows[form] = {k: path.with_suffix(f".{k}").stat().st_size for k in kinds}
        rows[form]["multiply-adds"] = kpi.cost(model).macs
    return rows


def train(folder, form, source):
    import keras

    import keras_prune_init  # noqa: F401  (for its layers)

    model = keras.models.load_model(pathlib.Path(folder) / f"{form}.keras")
    model.fit(load(source).train(BATCH).take(STEPS), verbose=0)
    return {}


def idle(source):
    import keras_prune_init  # noqa: F401

    load(source)
    return {}


def steps(network, folder, source):
    import keras

    import keras_prune_init  # noqa: F401

    paths = sorted(pathlib.Path(folder).glob("*.keras"))
    models = {path.stem: keras.models.load_model(path) for path in paths}
    [(x, y)] = load(source).train(BATCH).take(1).as_numpy_iterator()
    return common.step_ratios(network, models, x, y)


def measure(network, options):
    source = options.data
    with tempfile.TemporaryDirectory() as folder:
        made = common.fresh_process(__file__, "make", network, folder, source)
        idle = common.peak_mib(__file__, "idle", source)
        peaks = {
            form: common.peak_mib(__file__, "train", folder, form, source) - idle
            for form in made
        }
        times = common.fresh_process(__file__, "steps", network, folder, source)
        arm = {form: {} for form in made}
        if options.timer:
            files = [pathlib.Path(folder) / f"{form}.tflite" for form in made]
            found = common.times_on_arm(files, options.timer)
            arm = dict(zip(made, found, strict=True))
    dense = made["dense"]
    return [
        {
            "network": network,
            "form": form,
            **{key: value / dense[key] for key, value in sizes.items()},
            "memory": peaks[form] / peaks["dense"],
            "step": times[form]["ratio"],
            "ARM": arm[form].get("ratio_to_first"),
        }
        for form, sizes in made.items()
    ]


if __name__ == "__main__":
    common.work_for_another(make, train, idle, steps)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--timer", help="program that times .tflite files on ARM")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    options = parser.parse_args()
    rows = [row for network in options.networks for row in measure(network, options)]
    sys.stdout.write(common.table(rows) + "\n")
    common.save_networks("forms", rows)
