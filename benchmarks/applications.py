"""Every family of keras.applications, from pruning to a file for phones.

    python benchmarks/applications.py [name of a family]

prints a table in markdown, a row for each: pruned by SNIP at 90 % and trained for one
step as Keras does, then what `strip` and `shrink` change in its outputs (relative to
the largest), the share of parameters left after `shrink`, the size of the TFLite file,
and whether `mobile_check` finds that its sparse layers run sparse. All 14 take about
25 minutes. Their weights are random, as nothing is downloaded.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_prune_init as kpi  # noqa: E402

# A family and the side of its images: 32 pixels, or the least that it takes.
FAMILIES = {
    "VGG16": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "ConvNeXtTiny": 32,
    "Xception": 71,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "NASNetMobile": 32,
}
SPARSITY = 0.9
COLUMNS = ("family", "kept", "strip", "shrink", "left", "file MB", "sparse", "seconds")


def row(name: str) -> tuple:
    begin = time.time()
    keras.utils.set_random_seed(0)
    shape = (FAMILIES[name], FAMILIES[name], 3)
    family = getattr(keras.applications, name)
    model = family(weights=None, input_shape=shape, classes=5)
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.random.rand(2, *shape).astype("float32"), np.array([0, 3])
    pruned = kpi.prune_at_init(model, (x, y), "snip", sparsity=SPARSITY, verbose=0)
    report = kpi.report(pruned)
    if report.kept != report.total - int(SPARSITY * report.total + 1e-6):
        raise RuntimeError(f"{report.kept} of {report.total} weights are kept.")
    pruned.train_on_batch(x, y)
    outputs = pruned.predict(x, verbose=0)
    small = kpi.strip(kpi.shrink(pruned))
    found = [m.predict(x, verbose=0) for m in (kpi.strip(pruned), small)]
    differences = [np.abs(v - outputs).max() / np.abs(outputs).max() for v in found]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        kpi.export_tflite(pruned, path)  # which compares the file with the model
        size, check = path.stat().st_size, kpi.mobile_check(path)
    return (
        name,
        report.kept,
        *(f"{d:.0e}" for d in differences),
        f"{small.count_params() / model.count_params():.2f}",
        f"{size / 1e6:.1f}",
        "yes" if check.runs_sparse else "no",
        f"{time.time() - begin:.0f}",
    )


def main(*names):
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for name in names or FAMILIES:
        print("| " + " | ".join(map(str, row(name))) + " |", flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main(*sys.argv[1:])
