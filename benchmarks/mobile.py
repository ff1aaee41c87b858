"""A MobileNetV1 with a tenth of its 1x1 weights: sizes, agreement, speed on ARM.

    python benchmarks/mobile.py --data=npz:FILE --timer=PROGRAM

Pruned by SNIP, the same in each layer, trained for a while on images enlarged to 96x96,
exported in all precisions, sparse and dense. PROGRAM takes .tflite files and --json and
prints a list with `ratio_to_first`, the time of each on an ARM processor, real or
emulated, over that of the first; without it there are sizes only.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile

import common
import keras
import tensorflow as tf

import keras_prune_init as kpi
from keras_prune_init.train.data.loading import load_images

SIZE = 96
PRECISIONS = "float32", "float16", "int8"


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="fashion_mnist_mini")
    add("--timer", help="program that times .tflite files on ARM")
    add("--steps", type=int, default=300)
    add("--batch_size", type=int, default=64)
    add("--sparsity", type=float, default=0.9)
    add("--allocation", default="uniform", help="global keeps more of large images")
    return parser.parse_args()


def enlarged(x, y):
    x = tf.image.resize(x, (SIZE, SIZE))
    return (x if x.shape[-1] == 3 else tf.image.grayscale_to_rgb(x)), y


def trained(images, options):
    """A pruned and trained MobileNetV1."""
    model = kpi.models.mobilenet((SIZE, SIZE, 3), images.classes)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, options.steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    epochs = -(-options.steps // images.steps(options.batch_size))
    batches = images.train(options.batch_size, epochs=epochs).map(enlarged)
    pruned = kpi.prune_at_init(
        model,
        batches,
        "snip",
        sparsity=options.sparsity,
        allocation=options.allocation,
        filters="pointwise",
    )
    pruned.fit(batches, steps_per_epoch=options.steps, shuffle=False, verbose=2)
    return pruned


def export(pruned, images, folder, options):
    """A row and a file for each precision, dense and sparse."""
    samples = images.test(100).map(enlarged).take(2)
    rows = []
    for precision in PRECISIONS:
        for stored, sparse in (("dense", False), ("sparse", "auto")):
            path = folder / f"{precision}_{stored}.tflite"
            report = kpi.export_tflite(
                pruned,
                path,
                precision=precision,
                sparse=sparse,
                representative_data=samples,
            )
            rows.append(
                {
                    "allocation": options.allocation,
                    "precision": precision,
                    "stored": stored,
                    "bytes": report.size.plain,
                    "of dense": report.size.plain / report.dense.plain,
                    "gzip": report.size.gzip,
                    "difference": report.comparison.difference,
                    "largest output": report.comparison.largest,
                    "agreement": report.comparison.agreement,
                    "runs sparse": report.mobile.runs_sparse,
                }
            )
    return rows


def time_files(rows, timer, folder):
    """Add the time on ARM, over that of the dense float32 file."""
    files = [folder / f"{r['precision']}_{r['stored']}.tflite" for r in rows]
    for row, found in zip(rows, common.times_on_arm(files, timer), strict=True):
        row["ARM time"] = found["ratio_to_first"]
        row["ARM outputs"] = found["output"]


if __name__ == "__main__":
    options = parse()
    keras.utils.set_random_seed(0)
    images = load_images(options.data)
    pruned = trained(images, options)
    accuracy = pruned.evaluate(images.test(100).map(enlarged), verbose=0)[1]
    with tempfile.TemporaryDirectory() as name:
        rows = export(pruned, images, pathlib.Path(name), options)
        if options.timer:
            time_files(rows, options.timer, pathlib.Path(name))
    for row in rows:
        row["test accuracy"] = accuracy
    shown = [{k: v for k, v in r.items() if k != "ARM outputs"} for r in rows]
    sys.stdout.write(common.table(shown) + "\n")
    kind = options.allocation
    common.save("mobile" if kind == "uniform" else f"mobile_{kind}", rows)
