"""Damaged files are read, or refused by name, and nothing hangs or is half read.

With --hypothesis-profile=long there are more than twenty times as many examples.
"""

import json

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_prune_init as kpi
from keras_prune_init.train import run, run_folder
from keras_prune_init.train.data import sources
from keras_prune_init.train.data.loading import load_images


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Whole files, and what reads them."""
    folder = tmp_path_factory.mktemp("files")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(8, 3, strides=2),
            layers.Conv2D(16, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    pruned = kpi.prune_at_init(model, None, "magnitude", verbose=0)
    kpi.export_tflite(pruned, folder / "a.tflite", check=False)
    images = np.zeros((6, 4, 4), "uint8")
    labels = np.arange(6) % 3
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "b.npz", **arrays)
    for name, array in zip(sources.IDX_FILES, arrays.values(), strict=True):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        (folder / name).write_bytes(header + array.astype("uint8").tobytes())
    result = {"finished": True, "kept": 1, "total": 2, "sparsity": 0.5, "epochs": 3}
    result["steps"] = 6
    result |= {"test_accuracy": 0.5, "test_loss": 1.0, "effective_sparsity": None}
    (folder / "result.json").write_text(json.dumps(result))
    readers = {
        "a.tflite": kpi.mobile_check,
        "a.npz": lambda path: load_images(f"npz:{path}"),
        "b.npz": lambda path: load_images(f"npz:{path}"),
        sources.IDX_FILES[0]: lambda path: load_images(f"idx:{path.parent}"),
        sources.IDX_FILES[1]: lambda path: load_images(f"idx:{path.parent}"),
        "result.json": lambda path: run._summary(run_folder.read_result(path.parent)),
    }
    return [
        (folder / n, (folder / n).read_bytes(), read) for n, read in readers.items()
    ]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.integers(0, 5),
    place=st.floats(0, 1),
    written=st.binary(max_size=12),
    kind=st.sampled_from(["put", "insert", "cut", "begin"]),
)
def test_files_of_any_bytes(files, which, place, written, kind):
    path, whole, read = files[which]
    at = int(place * len(whole))
    after = {
        "put": whole[at + len(written) :],
        "insert": whole[at:],
        "cut": b"",
        "begin": whole[at:],
    }
    before = b"" if kind == "begin" else whole[:at]
    try:
        path.write_bytes(before + written + after[kind])
        read(path)
    except ValueError as e:
        # What is wrong with labels is told of the source, and bytes have no name.
        told = path.name, f"idx:{path.parent}", "A .tflite file"
        assert "Received: " in str(e) and any(name in str(e) for name in told), e
    finally:
        path.write_bytes(whole)
