"""The training binary in rounds: what it leaves, and that it goes on where it was."""

import json
import signal

import keras
import numpy as np
import pytest
from processes import Forked
from runs import history, mirrored, run_until, small

import keras_prune_init as kpi
from keras_prune_init.train import config_checks, run

FILES = {
    *("config.json", "report.json", "report.png", "history.csv", "model.keras"),
    *("stripped.keras", "result.json", "rounds", "rounds.png"),
}


def lottery(tmp_path, rewind="0", **train):
    config = small(tmp_path, **train)
    config.prune.update(
        method="magnitude", sparsity=0.75, rounds=2, allocation="uniform"
    )
    config.prune.rewind = rewind
    return config


@pytest.mark.parametrize("rewind", [None, "0", "6"])
def test_a_run_in_rounds_leaves_the_usual_files(rewind, tmp_path, eagerly):
    config, folder = lottery(tmp_path, rewind), tmp_path / "run"
    result = run.run(config, folder)
    assert result["finished"] and result["epochs"] == len(history(folder)) == 2
    assert {p.name for p in folder.iterdir()} == FILES
    kept = [row["kept"] for row in result["rounds"]]
    total = result["total"]
    assert kept == [total, total - total // 2, total - total * 3 // 4]
    steps = 8 - int(rewind or 0)
    assert [row["steps"] for row in result["rounds"]] == [8, steps, steps]
    last = result["rounds"][2]["metrics"]
    assert last["accuracy"] == pytest.approx(result["test_accuracy"])
    model = keras.models.load_model(folder / "model.keras")
    assert kpi.report(model).kept == result["kept"] == kept[2]
    assert int(model.optimizer.iterations) == 8
    assert run.run(config, folder, resume=True) == result


def test_a_run_that_was_stopped_in_a_round_goes_on_within_it(tmp_path, eagerly):
    config = lottery(tmp_path, "3", save_every=1)
    expected = run.run(config, tmp_path / "expected", deterministic=True)
    folder = tmp_path / "run"
    for step in (2, 5, 7, 6):  # in round 0 before and after step 3, and in round 1
        run_until(step, config, folder)
    assert [p.name for p in (folder / "rounds").glob("*.keras")] == ["round-0.keras"]
    found = keras.models.load_model(folder / "rounds/round-1/model.keras")
    assert int(found.optimizer.iterations) == 6
    result = run.run(config, folder, resume=True, deterministic=True)
    assert result["mask_digest"] == expected["mask_digest"]
    models = [
        keras.models.load_model(tmp_path / name / "model.keras").get_weights()
        for name in ("run", "expected")
    ]
    for a, b in zip(*models, strict=True):
        np.testing.assert_array_equal(a, b)


def die_in_round_2():
    """Kill this process after the first step that round 2 saves."""
    import os

    replace = os.replace

    def watched(source, target):
        replace(source, target)
        if str(target).endswith("round-2/model.keras"):
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = watched


def test_a_killed_process_loses_nothing(tmp_path):
    config = lottery(tmp_path, epochs=1)
    flags = [
        f"--config.data.source={config.data.source}",
        *("--config.model.name=runs:little", "--config.prune.method=magnitude"),
        *("--config.prune.sparsity=0.75", "--config.prune.rounds=2"),
        *("--config.prune.rewind=0", "--config.train.epochs=1"),
        *("--config.train.batch_size=16", "--config.train.warmup_epochs=0.0"),
        *("--config.train.save_every=1", "--strategy=one_device"),
        *("--deterministic", "--resume"),
    ]

    def start(name, before=None):
        log, folder = tmp_path / f"{name}.log", f"--workdir={tmp_path / name}"
        module = "keras_prune_init.train"
        return Forked(log, module, *flags, folder, before=before)

    expected, killed = start("expected"), start("run", die_in_round_2)
    assert killed.wait() == -signal.SIGKILL, killed.printed()
    again = start("run")
    assert (again.wait(), expected.wait()) == (0, 0), again.printed()
    assert "Going on with round 2" in again.printed()
    assert "Training from step 1 to 4" in again.printed()
    models = [
        keras.models.load_model(tmp_path / name / "model.keras").get_weights()
        for name in ("run", "expected")
    ]
    for a, b in zip(*models, strict=True):
        np.testing.assert_array_equal(a, b)
    results = [
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("run", "expected")
    ]
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
    names = [{p.name for p in (tmp_path / n).iterdir()} for n in ("run", "expected")]
    assert names[0] == names[1] == FILES


def test_channels_go_in_rounds_under_a_strategy(tmp_path, undrawn):
    config = lottery(tmp_path, None, epochs=1)
    config.model.name = "runs:plain"
    config.prune.update(what="channels", sparsity=0.7)
    result = run.run(config, tmp_path / "run", strategy=mirrored(2))
    kept = [row["kept"] for row in result["rounds"]]
    assert kept[0] > kept[1] > kept[2] == result["kept"]
    assert kept[2] <= 0.3 * result["total"]


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("prune", {"rewind": "first"}, "`prune.rewind` must be"),
        ("prune", {"rounds": None}, "no rounds. Set --config.prune.rounds"),
        ("prune", {"rescale": True}, "Rounds prune what was trained"),
        ("train", {"quantize_aware": True, "quantize_epochs": 1}, "Rounds prune what"),
        ("prune", {"sparsity": 0.0}, "Every round must prune more"),
        ("prune", {"what": "channels"}, "no place for earlier weights"),
    ],
)
def test_what_does_not_go_together_is_refused(part, values, message, tmp_path):
    config = lottery(tmp_path)
    config[part].update(values)
    with pytest.raises(ValueError, match=message):
        config_checks.check_config(config)


def test_a_step_beyond_the_training_is_refused_before_any_work(tmp_path):
    config, folder = lottery(tmp_path, "8"), tmp_path / "run"
    with pytest.raises(ValueError, match="a step before the last.*training of 8 steps"):
        run.run(config, folder)
    assert not folder.exists()
