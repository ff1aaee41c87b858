"""Runs that end at any moment, and go on as if they had not."""

import json
import resource
import signal

import keras
import numpy as np
import pytest
from runs import history, run_until, small
from tensorflow.python.framework import config as config_lib  # to undo determinism

from keras_prune_init.train import checkpoints, run

# Steps of an epoch in `small`, and of a whole run.
EPOCH, WHOLE = 4, 8


def weights(folder):
    model = keras.models.load_model(folder / "model.keras")
    assert int(model.optimizer.iterations) == WHOLE
    return [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]


def check_same(one, other):
    for a, b in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = history(one), history(other)
    for a, b in zip(*rows, strict=True):
        for key in ("epoch", "loss", "accuracy", "val_loss", "learning_rate"):
            assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-5)
    results = [json.loads((f / "result.json").read_text()) for f in (one, other)]
    for key in ("finished", "mask_digest", "test_accuracy", "test_loss", "epochs"):
        assert results[0][key] == results[1][key]
    names = [{path.name for path in folder.iterdir()} for folder in (one, other)]
    assert names[0] == names[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A configuration, and a run of it that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    config = small(folder, save_every=1)
    run.run(config, folder / "run", deterministic=True)
    yield config, folder / "run"
    config_lib.disable_op_determinism()


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_run_stopped_after_any_step_goes_on(whole, step, tmp_path):
    config, expected = whole
    run_until(step, config, tmp_path / "run")
    model = keras.models.load_model(tmp_path / "run/model.keras")
    # The last step of an epoch is saved with the epoch.
    assert int(model.optimizer.iterations) == step - (step % EPOCH == 0)
    run.run(config, tmp_path / "run", resume=True)
    check_same(tmp_path / "run", expected)


def test_a_last_epoch_in_part_is_in_the_history_wherever_it_was_stopped(
    tmp_path, monkeypatch
):
    """Three steps, less than an epoch, and SIGTERM at the last of them."""
    config = small(tmp_path, steps=3, save_every=1)
    original = checkpoints.Checkpoints.on_train_batch_end

    def preempt(self, batch, logs=None):
        if self.taken == 2:
            signal.raise_signal(signal.SIGTERM)
        original(self, batch, logs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(checkpoints.Checkpoints, "on_train_batch_end", preempt)
        run.run(config, tmp_path / "run")
    result = run.run(config, tmp_path / "run", resume=True)
    assert result["finished"] and result["epochs"] == 1
    assert len(history(tmp_path / "run")) == 1


@pytest.mark.parametrize("step", [2, 4])
def test_sigterm_saves_first(whole, step, tmp_path, monkeypatch):
    config, expected = whole
    config = config.copy_and_resolve_references()
    original = checkpoints.Checkpoints.on_train_batch_end

    def preempt(self, batch, logs=None):
        if self.taken == step - 1:
            signal.raise_signal(signal.SIGTERM)
        original(self, batch, logs)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(checkpoints.Checkpoints, "on_train_batch_end", preempt)
        run.run(config, tmp_path / "run")
    assert stopped.value.code == 143 and stopped.value.step == step
    assert signal.getsignal(signal.SIGTERM) is handler
    model = keras.models.load_model(tmp_path / "run/model.keras")
    assert int(model.optimizer.iterations) == step
    run.run(config, tmp_path / "run", resume=True)
    check_same(tmp_path / "run", expected)


def test_full_disk_while_saving_is_named_and_the_last_state_stays(
    whole, tmp_path, monkeypatch
):
    config, expected = whole
    original = checkpoints.Checkpoints.on_train_batch_end
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, batch, logs=None):
        if self.taken == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        original(self, batch, logs)

    message = "could not be saved after step 3.*What is saved is step 2"
    try:
        with monkeypatch.context() as patch, pytest.raises(OSError, match=message):
            patch.setattr(checkpoints.Checkpoints, "on_train_batch_end", fill)
            run.run(config, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    model = keras.models.load_model(tmp_path / "run/model.keras")
    assert int(model.optimizer.iterations) == 2
    run.run(config, tmp_path / "run", resume=True)
    check_same(tmp_path / "run", expected)


def test_unwritable_folder_is_refused_before_any_work(whole, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="cannot be written to"):
        run.run(whole[0], tmp_path / "file/run")
