"""Runs whose last epochs train with the rounding of int8."""

import keras
import numpy as np
import pytest
import runs
import tf_keras
from ai_edge_litert.interpreter import Interpreter

import keras_prune_init as kpi
from keras_prune_init.train import quantization, run

pytestmark = pytest.mark.usefixtures("undrawn")


def config_of(tmp_path, **train):
    quantized = {"quantize_aware": True, "quantize_epochs": 2, "epochs": 4}
    return runs.small(tmp_path, **quantized | train)


def test_a_run_ends_with_a_file_whose_zeros_are_those_of_the_masks(tmp_path):
    config = config_of(tmp_path)
    config.prune.sparsity = 0.7
    result = run.run(config, tmp_path / "run")
    assert result["finished"] and result["epochs"] == 4
    rows = runs.history(tmp_path / "run")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["learning_rate"] < rows[0]["learning_rate"]
    file = tmp_path / "run" / "int8.tflite"
    assert result["int8_bytes"] == file.stat().st_size
    assert result["int8_test_accuracy"] == _accuracy(file, tmp_path)

    masked = keras.models.load_model(tmp_path / "run" / "model.keras")
    layers = [v for v in masked.layers if isinstance(v, kpi.MaskedLayer)]
    with kpi.tfmot.quantize_scope():
        loaded = tf_keras.models.load_model(tmp_path / "run" / "quantized.h5")
    for layer in layers:
        name = layer.layer.name
        [(kernel, _, _)] = loaded.get_layer(f"quant_{name}")._weight_vars
        np.testing.assert_array_equal(kernel.numpy() != 0, layer.kept_mask("kernel"))
        stored = keras.models.load_model(tmp_path / "run" / "stripped.keras")
        float_kernel = np.asarray(stored.get_layer(name).kernel)
        np.testing.assert_array_equal(float_kernel != 0, layer.kept_mask("kernel"))
        assert not np.array_equal(float_kernel, kernel.numpy())
    assert run.run(config, tmp_path / "run", resume=True) == result


def _accuracy(file, folder):
    with np.load(folder / "few.npz") as arrays:
        train, x, y = (arrays[k] for k in ("x_train", "x_test", "y_test"))
    scaled = train.astype("float32") / 255
    x = (x.astype("float32") / 255 - scaled.mean()) / scaled.std()
    runner = Interpreter(model_path=str(file)).get_signature_runner()
    [name] = runner.get_input_details()
    [found] = runner(**{name: x.astype("float32")}).values()
    return np.mean(found.argmax(-1) == y)


@pytest.mark.parametrize("stopped_in", [2, 3])
def test_a_stopped_run_goes_on_to_the_same_numbers(stopped_in, tmp_path, monkeypatch):
    config = config_of(tmp_path)
    expected = run.run(config, tmp_path / "whole")
    original = quantization._epoch

    def stop(config, data, quantized, epoch, steps):
        if epoch == stopped_in:
            raise KeyboardInterrupt
        return original(config, data, quantized, epoch, steps)

    monkeypatch.setattr(quantization, "_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        run.run(config, tmp_path / "parts")
    monkeypatch.undo()
    found = run.run(config, tmp_path / "parts", resume=True)
    for key in ("int8_test_accuracy", "test_accuracy", "mask_digest"):
        assert found[key] == expected[key], key
    rows = [runs.history(tmp_path / name) for name in ("whole", "parts")]
    for key in ("loss", "val_loss", "learning_rate"):
        a, b = ([row[key] for row in part] for part in rows)
        assert a == b, key
    assert not list((tmp_path / "parts").glob("*.npz"))


def test_damaged_and_missing_files_are_named(tmp_path, monkeypatch):
    config = config_of(tmp_path)

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(kpi.tfmot, "export_int8", fail)
    with pytest.raises(KeyboardInterrupt):
        run.run(config, tmp_path / "run")
    monkeypatch.undo()
    state = tmp_path / "run" / "quantizing.npz"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="quantizing.npz, which is damaged"):
        run.run(config, tmp_path / "run", resume=True)
    state.write_bytes(whole)
    assert run.run(config, tmp_path / "run", resume=True)["finished"]
    (tmp_path / "run" / "int8.tflite").unlink()
    with pytest.raises(ValueError, match=r"int8.tflite.*it is not there"):
        run.run(config, tmp_path / "run", resume=True)


def test_soft_labels_and_channels(tmp_path):
    config = config_of(tmp_path, label_smoothing=0.1)
    config.prune.what = "channels"
    config.prune.sparsity = 0.3
    result = run.run(config, tmp_path / "run")
    assert 0 <= result["int8_test_accuracy"] <= 1


@pytest.mark.parametrize("train", [{"quantize_epochs": 4}, {"steps": 10}])
def test_epochs_that_do_not_fit_are_refused(train, tmp_path):
    with pytest.raises(ValueError, match="are the last of the epochs"):
        run.run(config_of(tmp_path, **train), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def unknown(input_shape, classes):
    layers = [keras.Input(input_shape), keras.layers.Flatten()]
    layers.append(keras.layers.RMSNormalization(name="rms"))
    return keras.Sequential([*layers, keras.layers.Dense(classes)])


def test_a_model_that_tfmot_cannot_have_is_refused_before_all_work(tmp_path):
    config = config_of(tmp_path)
    config.model.name = f"{__name__}:unknown"
    with pytest.raises(ValueError, match=r"rms \(RMSNormalization\)"):
        run.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    aware = kpi.tfmot.quantize_aware

    def wrong(model):
        quantized = aware(model)
        for variable in quantized.trainable_variables:
            variable.assign(variable * np.nan)
        return quantized

    monkeypatch.setattr(kpi.tfmot, "quantize_aware", wrong)
    with pytest.raises(FloatingPointError, match="with the rounding of int8"):
        run.run(config, tmp_path / "run")
