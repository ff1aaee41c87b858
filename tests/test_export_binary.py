"""python -m keras_prune_init.export, as users start it."""

import subprocess
import sys

import numpy as np
import pytest

import keras_prune_init as kpi


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "keras_prune_init.export", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pruned model and inputs for it."""
    folder = tmp_path_factory.mktemp("saved")
    model = kpi.models.mobilenet((16, 16, 3), alpha=0.25)
    kpi.prune_at_init(
        model, method="magnitude", sparsity=0.9, filters="pointwise", verbose=0
    ).save(folder / "model.keras")
    x = np.random.default_rng(0).normal(size=(20, 16, 16, 3)).astype("float32")
    np.save(folder / "images.npy", x)
    return folder


def test_prints_the_report_and_writes_the_file(saved, tmp_path):
    out = tmp_path / "m.tflite"
    done = run(
        f"--model={saved}/model.keras",
        f"--out={out}",
        "--precision=float16",
        f"--data={saved}/images.npy",
        "--batch_size=1",
    )
    assert done.returncode == 0, done.stderr
    assert "float16 file" in done.stdout and "sparse kernels run" in done.stdout
    assert f"{out.stat().st_size:,}  " in done.stdout
    assert "over 20 samples" in done.stdout


def test_errors_are_told(saved, tmp_path):
    out = tmp_path / "m.tflite"
    done = run(f"--model={saved}/model.keras", f"--out={out}", "--precision=int8")
    assert done.returncode != 0 and "int8 takes its ranges from data" in done.stderr
    done = run(f"--model={saved}/model.keras")
    assert done.returncode != 0 and "--out" in done.stderr + done.stdout
    assert not out.exists()
