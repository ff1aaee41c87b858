"""The training binary: what a run leaves behind, and how it goes on after a stop."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import few_images
from runs import history

import keras_prune_init as kpi
from keras_prune_init.train import default_config, run
from keras_prune_init.train.data.loading import load_images
from keras_prune_init.train.optimizer import learning_rate

# Runs of graphs are in test_train_checkpoints.py, and in the tests of processes.
pytestmark = pytest.mark.usefixtures("eagerly")

FILES = {
    "config.json",
    "report.json",
    "report.png",
    "history.csv",
    "tensorboard",
    "model.keras",
    "stripped.keras",
    "result.json",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return few_images(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(source):
    return small_config(source)


def small_config(source):
    config = default_config.get_config()
    config.data.source = source
    config.model = {"name": "cnn", "depth": 2, "width": 8}
    config.train.epochs = 2
    config.train.batch_size = 64
    config.train.learning_rate = 0.05
    return config.lock()


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """The folder and the result of a run without incident."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return folder, run.run(small_config(source), folder)


# --- what a run leaves behind ---------------------------------------------------------


def test_run_leaves_exactly_the_promised_files(finished):
    folder, result = finished
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "result.json").read_text()) == result
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_result_counts_weights_exactly(finished, config):
    folder, result = finished
    total = 9 * 8 + 9 * 8 * 16 + 16 * 10
    assert result["total"] == total
    assert result["kept"] == total - int(0.95 * total)
    assert result["sparsity"] == pytest.approx(1 - result["kept"] / total, abs=1e-12)
    assert result["seed"] == config.seed
    assert set(result["versions"]) == {
        "python",
        "tensorflow",
        "keras",
        "keras_prune_init",
    }
    assert result["seconds_of_scoring"] > 0 and result["seconds_of_an_epoch"] > 0


def test_saved_models_are_those_that_were_measured(finished, config):
    folder, result = finished
    test = load_images(config.data.source).test(64)
    pruned = keras.models.load_model(folder / "model.keras")
    measured = pruned.evaluate(test, return_dict=True, verbose=0)
    assert measured["accuracy"] == result["test_accuracy"]
    assert kpi.report(pruned).digest == result["mask_digest"]
    stripped = keras.models.load_model(folder / "stripped.keras")
    assert not stripped.compiled and not hasattr(stripped, "optimizer")
    kernels = [w for w in stripped.trainable_variables if w.path.endswith("kernel")]
    assert sum(np.count_nonzero(k) for k in kernels) <= result["kept"]
    x = next(iter(test))[0]
    np.testing.assert_allclose(stripped(x), pruned(x), rtol=1e-5, atol=1e-5)


def test_history_and_report_tell_of_every_epoch_and_tensor(finished, config):
    folder, result = finished
    rows = history(folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["val_accuracy"]) == result["test_accuracy"]
    found = [float(row["learning_rate"]) for row in rows]
    expected = [learning_rate(config.train, 4, last) for last in (3, 7)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    report = json.loads((folder / "report.json").read_text())
    assert report["kept"] == result["kept"] and len(report["tensors"]) == 3
    assert json.loads((folder / "config.json").read_text())["prune"]["method"] == "snip"


def test_tensorboard_logs_hold_the_curves(finished):
    folder, _ = finished
    (file,) = (folder / "tensorboard").iterdir()
    curves = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            point = event.step, float(tf.make_ndarray(value.tensor))
            curves.setdefault(value.tag, []).append(point)
    rows = history(folder)
    for tag in ("loss", "accuracy", "val_loss", "val_accuracy"):
        expected = [(int(row["epoch"]), float(row[tag])) for row in rows]
        np.testing.assert_allclose(curves[tag], expected, rtol=1e-6)


def test_sparsity_zero_trains_the_dense_net(config, tmp_path, undrawn):
    config.smoke = True
    config.prune.sparsity = 0.0
    result = run.run(config, tmp_path / "run")
    assert result["kept"] == result["total"]


def test_masks_are_a_function_of_the_seed(config, tmp_path, undrawn):
    config.smoke = True
    digests = []
    for seed in (1, 2):  # equal seeds: see where a run goes on
        config.seed = seed
        digests.append(run.run(config, tmp_path / str(seed))["mask_digest"])
    assert digests[0] != digests[1]


def test_steps_in_place_of_epochs_end_within_an_epoch(config, tmp_path, undrawn):
    config.train.steps = 6  # of 4 in an epoch
    result = run.run(config, tmp_path / "run")
    assert result["epochs"] == len(history(tmp_path / "run")) == 2
    model = keras.models.load_model(tmp_path / "run/model.keras")
    assert model.optimizer.iterations == 6


def test_scoring_batch_size_is_that_of_the_scoring_batches(config, monkeypatch):
    seen = []

    def prune_at_init(model, dataset, *args, **kwargs):
        seen.extend(x.shape[0] for x, _ in dataset)
        raise KeyboardInterrupt

    monkeypatch.setattr(kpi, "prune_at_init", prune_at_init)
    config.prune.scoring_batch_size = 100
    with pytest.raises(KeyboardInterrupt):
        run.run(config, "never_written")
    assert seen == [100, 100]


# --- refusals, before anything is written ---------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.name", "alexnet", "one of cnn, mlp, .*model.name='alexnet'"),
        ("model.name", "keras_applications:resnet50", "keras_applications:NAME.*Recei"),
        ("model.name", "keras_applications:ResNet51", "such as ResNet50, keras_cv"),
        ("model.depth", 9, "at least 512x512"),
        ("prune.method", "snipp", "Received: method='snipp'.*Did you mean 'snip'"),
        ("prune.sparsity", 1.0, "sparsity"),
        ("data.augment", "blur", "Received: augment='blur'"),
        ("data.image_size", 32, "Received: image_size=32 with source='npz:"),
        ("train.learning_rate", float("nan"), "`train.learning_rate` must be a number"),
        ("train.batch_size", 1000, "batches of 1000 from"),
        ("data.skip_corrupt", True, "for sources folder:PATH"),
    ],
)
def test_impossible_values_leave_no_folder(config, tmp_path, key, value, message):
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=message):
        run.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folder_in_use_is_never_overwritten(finished, config):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match=f"workdir={folder}.*Add --resume"):
        run.run(config, folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_resume_refuses_another_configuration_and_names_the_keys(finished, config):
    folder, _ = finished
    config.prune.sparsity = 0.5
    config.train.epochs = 7
    message = r"prune.sparsity \(then 0.95, now 0.5\); train.epochs \(then 2, now 7\)"
    with pytest.raises(ValueError, match=message):
        run.run(config, folder, resume=True)


# --- going on after a stop ------------------------------------------------------------


def test_resuming_a_finished_run_says_so_and_changes_nothing(finished, config, caplog):
    folder, result = finished
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with caplog.at_level("INFO", logger="absl"):
        assert run.run(config, folder, resume=True) == result
    assert f"The run in {folder} is finished: test accuracy" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("place", "epochs_done"),
    [
        ("keras_prune_init.train.fitting.fit", 0),
        ("keras_prune_init.train.checkpoints._write_scalar", 0),
        ("keras_prune_init.train.run._save_end", 2),
    ],
)
def test_a_run_stopped_anywhere_goes_on(
    finished, config, tmp_path, monkeypatch, undrawn, place, epochs_done
):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, stop)
        run.run(config, folder)
    stopped = json.loads((folder / "result.json").read_text())
    model = keras.models.load_model(folder / "model.keras")
    assert not stopped["finished"]
    assert model.optimizer.iterations == 4 * epochs_done
    result = run.run(config, folder, resume=True)
    assert result["finished"] and result["epochs"] == len(history(folder)) == 2
    assert result["mask_digest"] == stopped["mask_digest"]
    assert result["mask_digest"] == finished[1]["mask_digest"]
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_run_without_channels_leaves_a_smaller_network(config, tmp_path, undrawn):
    config.prune.update(what="channels", budget="flops", sparsity=0.6)
    result = run.run(config, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert result["kept"] == report["kept"] < 0.8 * result["total"]
    for name in ("model", "stripped"):
        model = keras.models.load_model(tmp_path / "run" / f"{name}.keras")
        assert sum(k.total for k in kpi.cost(model).kernels) == result["kept"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
