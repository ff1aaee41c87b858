"""Training binaries that are killed: alone, and one of two that work together."""

import functools
import json
import os
import re
import signal
import time

import keras
import numpy as np
from processes import Forked, logs_of
from runs import free_ports, history, small

from keras_prune_init.train import run

EPOCH = 4  # steps, in `small`


def die_at(file, number, half):
    """Kill this process at the `number`-th write of a file: half done, or just done."""
    replace, left = os.replace, [number]

    def counted(source, target):
        left[0] -= os.path.basename(target).startswith(file)
        if not left[0] and half:
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted


# What a process is killed at, and the step that is saved then. Each goes on from there.
KILLS = [
    ("model.keras", 1, True, None),  # the masks
    ("progress", 1, False, 0),  # without the model that it belongs to
    ("model.keras", 2, True, 1),
    ("history.csv", 1, False, 3),  # an epoch's end, whose model is not there yet
    ("result.json", 1, True, 12),
]


def command(config, folder, log, **options):
    return Forked(
        log,
        "keras_prune_init.train",
        f"--config.data.source={config.data.source}",
        f"--config.model.name={config.model.name}",
        f"--config.train.epochs={config.train.epochs}",
        f"--config.train.batch_size={config.train.batch_size}",
        f"--config.train.warmup_epochs={config.train.warmup_epochs}",
        f"--config.train.save_every={config.train.save_every}",
        f"--workdir={folder}",
        "--strategy=one_device",
        "--deterministic",
        "--resume",
        **options,
    )


def test_kills_at_the_worst_moments_lose_nothing(tmp_path):
    """Each run is a process of its own, killed while or just after it wrote a file."""
    config = small(tmp_path, save_every=1, epochs=3)
    expected = command(config, tmp_path / "expected", tmp_path / "expected.log")
    folder, model = tmp_path / "run", tmp_path / "run/model.keras"
    for file, number, half, step in KILLS:
        before = functools.partial(die_at, file, number, half)
        killed = command(config, folder, tmp_path / "log", before=before)
        assert killed.wait() == -signal.SIGKILL, killed.printed()
        assert model.exists() == (step is not None)
        if step is not None:  # never half written
            found = keras.models.load_model(model)
            assert int(found.optimizer.iterations) == step, (file, number)
    last = command(config, folder, tmp_path / "log")
    assert (last.wait(), expected.wait()) == (0, 0), last.printed() + expected.printed()
    one, other = (
        keras.models.load_model(tmp_path / name / "model.keras")
        for name in ("run", "expected")
    )
    assert int(one.optimizer.iterations) == 3 * EPOCH
    assert "Going on with the run in" in last.printed()
    # The table and the final line reach the reader.
    assert "logits" in expected.printed()
    assert "test accuracy" in expected.printed()
    results = [
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("run", "expected")
    ]
    for key in ("mask_digest", "epochs", "test_accuracy", "test_loss"):
        assert results[0][key] == results[1][key]
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(history(folder)) == 3
    names = [{p.name for p in (tmp_path / n).iterdir()} for n in ("run", "expected")]
    assert names[0] == names[1]


def test_of_two_trains_in_one_folder_one_is_refused(tmp_path):
    config, folder = small(tmp_path, save_every=1, epochs=50), tmp_path / "run"
    both = [command(config, folder, tmp_path / f"{i}.log") for i in range(2)]
    while all(process.poll() is None for process in both):
        time.sleep(0.01)
    if both[0].poll() is not None:
        both.reverse()
    at_work, refused = both
    assert refused.wait() == 1, refused.printed()
    told = rf"FileExistsError: One process at a time .* process {at_work.pid} on "
    assert re.search(told, refused.printed()), refused.printed()
    assert at_work.poll() is None, at_work.printed()
    at_work.kill()
    at_work.wait()


def two_workers(tmp_path):
    """Real processes: the binary, told of each other by TF_CONFIG."""
    flags = ["--resume", f"--config.data.source=npz:{tmp_path / 'few.npz'}"]
    flags += ["--config.model.name=runs:plain"]
    flags += ["--config.train.epochs=3", "--config.train.batch_size=16"]
    flags += ["--config.train.warmup_epochs=0.0", "--config.train.save_every=3"]
    flags += [f"--workdir={tmp_path / 'run'}"]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    for number in range(2):
        task = {"type": "worker", "index": number}
        told = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
        log = tmp_path / f"{number}.log"
        yield Forked(log, "keras_prune_init.train", *flags, env=told)


def test_two_workers_go_on_together_after_one_was_killed_and_leave_one_run(tmp_path):
    config = small(tmp_path, epochs=3)
    config.model.name = "runs:plain"
    alone = run.run(config, tmp_path / "alone")

    chief, other = two_workers(tmp_path)
    while not (tmp_path / "run/history.csv").exists() and other.poll() is None:
        time.sleep(0.01)
    other.kill()
    started = time.monotonic()
    logs = logs_of([chief, other])
    assert time.monotonic() - started < 60
    assert chief.poll() == 1
    assert "RuntimeError: Training ends when a worker is lost" in logs[0]
    assert not json.loads((tmp_path / "run/result.json").read_text())["finished"]

    again = [*two_workers(tmp_path)]
    logs = logs_of(again)
    assert [p.poll() for p in again] == [0, 0], "\n".join(logs)[-4000:]
    assert all("Going on with the run" in log for log in logs)
    assert "weights kept" in logs[0] and "weights kept" not in logs[1]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["finished"] and result["epochs"] == 3
    assert result["mask_digest"] == alone["mask_digest"]
    one, two = (
        keras.models.load_model(tmp_path / name / "model.keras").get_weights()
        for name in ("alone", "run")
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
