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

# Runs of graphs that are killed are in test_killed_runs.py.
pytestmark = pytest.mark.usefixtures("eagerly", "undrawn")

WHOLE = 8  # steps of a run of `small`


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


@pytest.fixture
def whole(tmp_path):
    """A configuration, and a run of it that nothing stopped."""
    config = small(tmp_path, save_every=1)
    run.run(config, tmp_path / "whole", deterministic=True)
    yield config, tmp_path / "whole"
    config_lib.disable_op_determinism()


def test_a_run_stopped_again_and_again_ends_as_if_nothing_had_stopped_it(
    whole, tmp_path
):
    """By Ctrl-C, SIGTERM and a full disk; within epochs and at the end of one."""
    config, expected = whole
    folder = tmp_path / "run"

    def saved():
        model = keras.models.load_model(folder / "model.keras")
        return int(model.optimizer.iterations)

    preempted(2, config, folder)
    assert saved() == 2  # SIGTERM saves first
    fill_the_disk_at(3, config, folder)
    assert saved() == 2
    run_until(4, config, folder)
    assert saved() == 3  # the last step of an epoch is saved with the epoch
    preempted(4, config, folder)
    assert saved() == 4
    run_until(6, config, folder)
    assert saved() == 6
    run.run(config, folder, resume=True)
    check_same(folder, expected)


def preempted(step, config, folder):
    """Send a run SIGTERM within a step."""
    original = checkpoints.Checkpoints.on_train_batch_end

    def preempt(self, batch, logs=None):
        if self.taken == step - 1:
            signal.raise_signal(signal.SIGTERM)
        original(self, batch, logs)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(checkpoints.Checkpoints, "on_train_batch_end", preempt)
        run.run(config, folder, resume=True)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler


def fill_the_disk_at(step, config, folder):
    """Let what a step saves not fit: it is named, with the step that is saved."""
    original = checkpoints.Checkpoints.on_train_batch_end
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, batch, logs=None):
        if self.taken == step - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        original(self, batch, logs)

    message = f"could not be saved after step {step}.*What is saved is step {step - 1}"
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(OSError, match=message),
        ):
            patch.setattr(checkpoints.Checkpoints, "on_train_batch_end", fill)
            run.run(config, folder, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


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


def test_unwritable_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="cannot be written to"):
        run.run(small(tmp_path), tmp_path / "file/run")
