"""The training binary with systems that train a network into a smaller one."""

import json

import keras
import numpy as np
import pytest
import runs
from runs import run_until

from keras_prune_init.train import run, systems

pytestmark = pytest.mark.usefixtures("undrawn")
# Options with which little happens in 4 epochs of 4 steps, but something does.
OPTIONS = {
    "hard_concrete": {"penalty": 2.0, "dense_epochs": 1},
    "learning_compression": {"steps": 4, "mu": 0.1, "growth": 2.0},
    "compression_aware": {"nuclear": 0.2, "energy": 0.6, "dense_epochs": 1},
    "hinge": {"strength": 0.05, "least": 0.3},
}


def config_of(tmp_path, name, **options):
    config = runs.small(tmp_path, epochs=4, save_every=1, learning_rate=0.05)
    config.train.weight_decay = 0.0
    config.prune.update(method=name, sparsity=0.5)
    config.prune.options.update(OPTIONS[name] | options)
    return config


def fresh(function, *args, **kwargs):
    """Call it as in a new process."""
    keras.backend.clear_session(free_memory=False)
    return function(*args, **kwargs)


def assert_equal(models):
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_a_run_that_was_stopped_gives_the_same_network(name, tmp_path, eagerly):
    config = config_of(tmp_path, name)
    expected = fresh(run.run, config, tmp_path / "expected", deterministic=True)
    assert expected["finished"] and (expected["epochs"], expected["steps"]) == (4, 16)
    # Within each phase, after its first step, and at its end.
    for step in (2, 4, 5, 7, 12, 13, 15):
        if step < 16:
            fresh(run_until, step, config, tmp_path / "run")
    result = fresh(run.run, config, tmp_path / "run", resume=True, deterministic=True)
    for key in ("mask_digest", "kept", "test_accuracy", "test_loss"):
        assert result[key] == expected[key], key
    folders = [tmp_path / name for name in ("run", "expected")]
    for file in ("model.keras", "stripped.keras"):
        assert_equal([keras.models.load_model(f / file) for f in folders])
    for key in ("loss", "val_loss", "val_accuracy", "learning_rate"):
        found, wanted = ([row[key] for row in runs.history(f)] for f in folders)
        assert found == wanted, key
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["kept"] == result["kept"] < result["total"] == report["total"]
