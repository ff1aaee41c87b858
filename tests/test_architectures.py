"""Real architectures, every method: prune, fit, save, load in a new process."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import L, subclassed, transformer

import keras_prune_init as kpi

METHODS = ("random", "magnitude", "snip", "grasp", "synflow")


def application(name):
    cls = getattr(keras.applications, name)
    return cls(weights=None, input_shape=(64, 64, 3), classes=5)


def keras_cv_backbone():
    import keras_cv

    backbone = keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[16, 32],
        stackwise_blocks=[2, 2],
        stackwise_strides=[1, 2],
        input_shape=(64, 64, 3),
        include_rescaling=False,
    )
    return keras.Sequential([backbone, L.GlobalAveragePooling2D(), L.Dense(5)])


# Attention and normalization make SynFlow run, but its theory does not hold there.
ARCHITECTURES = {
    "MobileNetV2": lambda: application("MobileNetV2"),
    "ResNet50": lambda: application("ResNet50"),
    "EfficientNetB0": lambda: application("EfficientNetB0"),
    "keras_cv": keras_cv_backbone,
    "transformer": transformer,
    "subclassed": subclassed,
}
# Their graphs take long to trace, and are the same whatever chose the masks.
LARGE = ("MobileNetV2", "ResNet50", "EfficientNetB0")


def data_for(name):
    rng = np.random.default_rng(0)
    if name == "transformer":
        return rng.integers(0, 20, (6, 7)), rng.integers(0, 3, 6)
    shape, classes = ((5,), 3) if name == "subclassed" else ((64, 64, 3), 5)
    return rng.normal(size=(6, *shape)).astype("float32"), rng.integers(0, classes, 6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prune_fit_save_and_load_in_a_new_process(name, tmp_path):
    x, y = data_for(name)
    model = ARCHITECTURES[name]()
    logits = name in ("keras_cv", "transformer", "subclassed")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    model.compile(optimizer, loss)
    trained = ("snip",) if name in LARGE else METHODS
    for method in METHODS:
        pruned = kpi.prune_at_init(model, (x, y), method, sparsity=0.9, verbose=0)
        report = kpi.report(pruned)
        assert report.kept == report.total - int(0.9 * report.total + 1e-6)
        assert report.effective is not None
        if method not in trained:
            continue
        pruned.fit(x, y, batch_size=2, epochs=1, verbose=0)  # three steps
        pruned.save(tmp_path / f"{method}.keras")
        outputs = np.asarray(pruned(x, training=False))
        path = tmp_path / f"{method}.npz"
        np.savez(path, *pruned.get_weights(), x=x, y=outputs)
    folder = pathlib.Path(__file__).parent
    flags = ["--helpers"] if name in ("transformer", "subclassed") else []
    done = subprocess.run(
        [sys.executable, folder / "load_and_compare.py", tmp_path, *flags],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [w for m in sorted(trained) for w in ("same", m)]
