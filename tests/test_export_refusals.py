"""What `export_tflite` refuses, and what is left when it fails: nothing."""

import os
import resource
import signal
import subprocess

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import Forked

import keras_prune_init as kpi
from keras_prune_init.export import flatbuffer, tflite

L = keras.layers


def mlp():
    return kpi.models.mlp((28, 28, 1), depth=3, width=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int4"}, "`precision` must be one of.*'int4'"),
        ({"sparse": "yes"}, "`sparse` must be.*'yes'"),
        ({"precision": "int8"}, "int8 takes its ranges from data"),
        ({"batch_size": 0}, "`batch_size` must be.*batch_size=0"),
        ({"representative_data": np.zeros((0, 5))}, "at least one sample"),
        (
            {"representative_data": np.full((2, 5), np.nan)},
            "must be finite numbers. Received: NaN",
        ),
        (
            {"representative_data": np.zeros((3, 4))},
            r"fit the model's inputs.*\(3, 4\)",
        ),
        ({"representative_data": np.zeros(5)}, "must be batched"),
        ({"sparse": True}, "Only kernels with zeros"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kpi.export_tflite(helpers.mlp(), tmp_path / "m.tflite", **arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["no_folder/m.tflite", "."])
def test_paths_that_cannot_be_written_are_refused_first(path, tmp_path):
    with pytest.raises(ValueError, match="`path` must name a file in a folder"):
        kpi.export_tflite(helpers.mlp(), tmp_path / path)


def test_what_is_no_file_is_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=f"read or replaced. Received: {path}"):
        kpi.export_tflite(mlp(), path)
    assert path.is_fifo()


def test_layer_without_an_operator_is_named(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class SingularValues(L.Layer):
        def call(self, x):
            return tf.linalg.svd(x, compute_uv=False)

    x = keras.Input((4, 3))
    model = keras.Model(x, SingularValues(name="singular")(L.Dense(3)(x)))
    with pytest.raises(ValueError, match="no operator Svd, which layer 'singular'"):
        kpi.export_tflite(model, tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []


def test_a_table_is_named_too(tmp_path):
    x = keras.Input((1,), dtype="int32")
    found = L.IntegerLookup(vocabulary=[7, 9], name="lookup")(x)
    model = keras.Model(x, L.Dense(2)(L.Embedding(3, 4)(found)))
    with pytest.raises(ValueError, match="no operator Lookup.*, which layer 'lookup'"):
        kpi.export_tflite(model, tmp_path / "model.tflite")


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_text("old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    convert = tflite.convert.convert

    def converted_and_then_full(*arguments):
        content = convert(*arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        return content

    monkeypatch.setattr(tflite.convert, "convert", converted_and_then_full)
    try:
        message = f"could not be written to {path}: .*File too large.*still there. Free"
        with pytest.raises(OSError, match=message):
            kpi.export_tflite(mlp(), path, check=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["m.tflite"]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 20 kB; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20k", "none", folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"no file system can be mounted here: {e}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_small_disk_leaves_the_old_file(small_disk):
    path = small_disk / "m.tflite"
    path.write_text("old")
    with pytest.raises(OSError, match=f"written to {path}: .*No space left.*Free some"):
        kpi.export_tflite(kpi.models.mlp((28, 28, 1)), path, check=False)
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["m.tflite"]


def die_when_converting():
    def kill(*arguments):
        print("SavedModel is there:", os.listdir(arguments[0]), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    tflite.convert.convert = kill


def test_killed_process_leaves_nothing(tmp_path):
    model = tmp_path / "model.keras"
    mlp().save(model)
    folder = tmp_path / "out"
    folder.mkdir()
    flags = f"--model={model}", f"--out={folder}/m.tflite"
    process = Forked(
        tmp_path / "log", "keras_prune_init.export", *flags, before=die_when_converting
    )
    assert process.wait() == -signal.SIGKILL, process.printed()
    assert "saved_model.pb" in process.printed()
    assert os.listdir(folder) == []


def test_file_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch):
    encode = tflite.encode

    def wrong(content, sparse):
        content, kernels = encode(content, sparse)
        model = flatbuffer.read(content)
        for buffer in model.buffers:
            if buffer.data is not None and len(buffer.data) > 1000:
                buffer.data = np.array(buffer.data)
                buffer.data[:400] = 64
        return flatbuffer.write(model), kernels

    monkeypatch.setattr(tflite, "encode", wrong)
    with pytest.raises(ValueError, match="must compute what the model does"):
        kpi.export_tflite(mlp(), tmp_path / "m.tflite", sparse=False)
    assert os.listdir(tmp_path) == []
