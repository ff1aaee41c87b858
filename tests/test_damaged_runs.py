"""Runs that go wrong, or whose files do, say so and lose nothing."""

import resource
import shutil
import zipfile

import keras
import numpy as np
import pytest
from runs import history, run_until, small

from keras_prune_init.rounds.rewinding import steps_taken
from keras_prune_init.train import checkpoints, run, run_folder

pytestmark = pytest.mark.usefixtures("eagerly", "undrawn")
STOPPED = 6  # in the second of two epochs of four steps


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A configuration, and the folder of a run of it that was stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    config = small(folder, save_every=1)
    run_until(STOPPED, config, folder / "run")
    return config, folder / "run"


def flip(path):
    """Change a byte of the weights, which the archive holds as they are."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("model.weights.h5")
    content = bytearray(path.read_bytes())
    content[entry.header_offset + 100 + entry.compress_size // 2] ^= 255
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def without_optimizer(path):
    model = keras.models.load_model(path)
    keras.Model(model.inputs, model.outputs).save(path)


DAMAGES = {
    "result.json": ["", "[]", '{"finished": 1}', "\0", "[" * 100_000, None],
    "config.json": ["{", "3"],
    "history.csv": ["", "epoch,loss\n1\n", "epoch\n7\n", "epoch,loss\n1,nan\n", None],
    "model.keras": ["no zip", cut, flip, without_optimizer, None],
    "report.json": ["{", None],
    "report.png": [None],
    f"progress-{STOPPED}.json": ["{}", '{"step": 6, "batches": 2, "logs": 3}', None],
}


@pytest.mark.parametrize(
    ("name", "damage"), [(n, d) for n, damages in DAMAGES.items() for d in damages]
)
def test_a_damaged_file_is_named_and_nothing_goes_on(stopped, tmp_path, name, damage):
    config, whole = stopped
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    if damage is None:
        (folder / name).unlink()
    elif callable(damage):
        damage(folder / name)
    else:
        (folder / name).write_text(damage)
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(ValueError, match=f"Received: {folder / name}, which is dam"):
        run.run(config, folder, resume=True)
    assert before == {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_the_copy_that_was_not_damaged_goes_on_until_it_is(stopped, tmp_path):
    config, folder = stopped[0], tmp_path / "run"
    shutil.copytree(stopped[1], folder)
    result = run.run(config, folder, resume=True)
    assert result["finished"] and result["epochs"] == 2
    assert run.run(config, folder, resume=True) == result
    for name in ("history.csv", "model.keras", "stripped.keras", "report.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-100])
        with pytest.raises(ValueError, match=f"Received: {folder / name}, which is d"):
            run.run(config, folder, resume=True)
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "when"),
    [("_save_start", "before its first step"), ("_save_end", "at its end")],
)
def test_full_disk_at_the_first_and_last_save_is_explained(
    name, when, tmp_path, monkeypatch
):
    config, folder = small(tmp_path), tmp_path / "run"
    original, limit = getattr(run, name), resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        return original(*args)

    message = f"{folder} could not be saved {when}: .*--resume, when the folder"
    try:
        with monkeypatch.context() as patch, pytest.raises(OSError, match=message):
            patch.setattr(run, name, full)
            run.run(config, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert run.run(config, folder, resume=True)["finished"]


def is_finite(path):
    return all(
        np.isfinite(w).all() for w in keras.models.load_model(path).get_weights()
    )


@pytest.mark.parametrize("save_every", [1, None])
def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(tmp_path, save_every):
    config = small(tmp_path, learning_rate=1e30, save_every=save_every)
    message = r"Received: .* after step (\d) of the run in .* of step (\d), stays saved"
    with pytest.raises(FloatingPointError, match=message):
        run.run(config, tmp_path / "run")
    result = run_folder.read_result(tmp_path / "run")
    assert not result["finished"]
    assert is_finite(tmp_path / "run/model.keras")


def test_weights_that_are_no_numbers_are_not_saved(tmp_path, monkeypatch):
    """The loss of a step is that of the weights before it."""
    original = checkpoints.Checkpoints.on_train_batch_end

    def spoil(self, batch, logs=None):
        if self.taken == 2:
            kernel = self.model.layers[-1].kernel
            kernel.assign(np.full(kernel.shape, np.inf))
        original(self, batch, logs)

    monkeypatch.setattr(checkpoints.Checkpoints, "on_train_batch_end", spoil)
    message = "infinite values in .*kernel after step 3 .* of step 2, stays saved"
    with pytest.raises(FloatingPointError, match=message):
        run.run(small(tmp_path, save_every=1), tmp_path / "run")
    assert is_finite(tmp_path / "run/model.keras")


def test_a_run_in_float16_goes_on_after_the_steps_that_it_skipped(
    tmp_path, monkeypatch
):
    """A step whose gradients overflow is skipped, and counts all the same."""
    scaled = keras.optimizers.LossScaleOptimizer
    defaults = 2.0**24, *scaled.__init__.__defaults__[1:]  # too large, at first
    monkeypatch.setattr(scaled.__init__, "__defaults__", defaults)
    config = small(tmp_path, precision="mixed_float16", save_every=1)
    whole, again = tmp_path / "whole", tmp_path / "run"
    result = run.run(config, whole)
    run_until(STOPPED, config, again)
    assert run.run(config, again, resume=True)["test_loss"] == result["test_loss"]
    names = "loss", "accuracy", "val_loss", "learning_rate"
    rows = [[row[name] for row in history(f) for name in names] for f in (whole, again)]
    np.testing.assert_allclose(*np.array(rows, float), rtol=1e-6)
    keras.config.set_dtype_policy("mixed_float16")  # or Keras loads no scaled loss
    try:
        models = [keras.models.load_model(f / "model.keras") for f in (whole, again)]
    finally:
        keras.config.set_dtype_policy("float32")
    taken, applied = steps_taken(models[0]), models[0].optimizer.iterations
    assert 0 < int(applied) < taken == 8
    for one, other in zip(*(m.optimizer.variables for m in models), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
