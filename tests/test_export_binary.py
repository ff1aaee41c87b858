"""python -m keras_prune_init.export, as users start it."""

import keras
import numpy as np
import pytest
from processes import Forked

import keras_prune_init as kpi


def run(folder, *arguments):
    """Exit status and what it printed."""
    done = Forked(folder / "log", "keras_prune_init.export", *arguments)
    return done.wait(), done.printed()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pruned model and inputs for it."""
    folder = tmp_path_factory.mktemp("saved")
    layers = keras.layers
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.ZeroPadding2D(1)])
    for layer in (
        layers.Conv2D(16, 3, strides=2),
        layers.Conv2D(96, 1, activation="relu6"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    ):
        model.add(layer)
    kpi.prune_at_init(
        model, method="magnitude", sparsity=0.9, filters="pointwise", verbose=0
    ).save(folder / "model.keras")
    x = np.random.default_rng(0).normal(size=(20, 16, 16, 3)).astype("float32")
    np.save(folder / "images.npy", x)
    return folder


def test_prints_the_report_and_writes_the_file(saved, tmp_path):
    out = tmp_path / "m.tflite"
    status, printed = run(
        tmp_path,
        f"--model={saved}/model.keras",
        f"--out={out}",
        "--precision=float16",
        f"--data={saved}/images.npy",
        "--batch_size=1",
    )
    assert status == 0, printed
    assert "float16 file" in printed and "sparse kernels run" in printed
    assert f"{out.stat().st_size:,}  " in printed
    assert "over 20 samples" in printed


def test_errors_are_told(saved, tmp_path):
    out = tmp_path / "m.tflite"
    model = f"--model={saved}/model.keras"
    status, printed = run(tmp_path, model, f"--out={out}", "--precision=int8")
    assert status != 0 and "int8 takes its ranges from data" in printed
    status, printed = run(tmp_path, model)
    assert status != 0 and "--out" in printed
    assert not out.exists()
