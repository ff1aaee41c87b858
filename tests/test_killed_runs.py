"""Training binaries that are killed: alone, and one of two that work together."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
from runs import binary, free_ports, history, small

from keras_prune_init.train import main

EPOCH = 4  # steps, in `small`


def command(config, folder, *more):
    train = config.train
    return binary(
        f"--config.data.source={config.data.source}",
        f"--config.model.depth={config.model.depth}",
        f"--config.model.width={config.model.width}",
        f"--config.train.epochs={train.epochs}",
        f"--config.train.batch_size={train.batch_size}",
        f"--config.train.warmup_epochs={train.warmup_epochs}",
        f"--config.train.save_every={train.save_every}",
        f"--workdir={folder}",
        "--strategy=one_device",
        "--deterministic",
        "--resume",
        *more,
    )


def test_ten_kills_at_random_moments_lose_nothing(tmp_path):
    """Each run is a process of its own, killed some time after it began to train."""
    config = small(tmp_path, save_every=1, epochs=12)
    chance = random.Random(0)
    expected = command(config, tmp_path / "expected")
    kills, reached = 0, [0]
    while kills < 10:
        process = command(config, tmp_path / "run")
        model = tmp_path / "run/model.keras"
        before = model.stat().st_mtime_ns if model.exists() else 0
        # Not before it has saved once more, or ten kills would not move it.
        while process.poll() is None:
            if model.exists() and model.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        found = keras.models.load_model(model)  # never half written
        reached.append(int(found.optimizer.iterations))
        assert reached[-1] >= reached[-2]
    assert kills == 10, reached
    last = command(config, tmp_path / "run")
    logs = last.communicate()[0], expected.communicate()[0]
    assert (last.returncode, expected.returncode) == (0, 0), logs[0] + logs[1]
    one, other = (
        keras.models.load_model(tmp_path / name / "model.keras")
        for name in ("run", "expected")
    )
    assert int(one.optimizer.iterations) == 12 * EPOCH
    assert "Going on with the run in" in logs[0]
    # The table and the final line reach the reader.
    assert "stage3_block0_conv2" in logs[1] and "test accuracy" in logs[1]
    results = [
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("run", "expected")
    ]
    for key in ("mask_digest", "epochs", "test_accuracy", "test_loss"):
        assert results[0][key] == results[1][key]
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(history(tmp_path / "run")) == 12


def two_workers(tmp_path, name):
    """Real processes: the binary, told of each other by TF_CONFIG."""
    command = [sys.executable, "-m", "keras_prune_init.train", "--resume"]
    command += [f"--config.data.source=npz:{tmp_path / 'few.npz'}"]
    command += ["--config.model.depth=8", "--config.model.width=4"]
    command += ["--config.train.epochs=8", "--config.train.batch_size=16"]
    command += ["--config.train.warmup_epochs=0.0", "--config.train.save_every=3"]
    command += ["--config.data.augment=crop+flip", "--config.data.mix=mixup"]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    for number in range(2):
        task = {"type": "worker", "index": number}
        told = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
        yield subprocess.Popen(
            [*command, f"--workdir={tmp_path / name}"],
            env=os.environ | told,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def logs_of(processes):
    try:
        return [p.communicate(timeout=200)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()


def test_two_workers_leave_one_run_and_go_on_together_after_one_was_killed(tmp_path):
    config = small(tmp_path, epochs=8)
    config.data.update(augment="crop+flip", mix="mixup")
    whole = [*two_workers(tmp_path, "whole")]
    logs = logs_of(whole)
    assert [p.returncode for p in whole] == [0, 0], "\n".join(logs)[-4000:]
    assert "weights kept" in logs[0] and "weights kept" not in logs[1]
    result = json.loads((tmp_path / "whole/result.json").read_text())
    assert result["finished"] and result["epochs"] == 8
    alone = main.run(config, tmp_path / "alone")
    assert result["mask_digest"] == alone["mask_digest"]

    chief, other = two_workers(tmp_path, "killed")
    while not (tmp_path / "killed/history.csv").exists() and other.poll() is None:
        time.sleep(0.01)
    other.kill()
    started = time.monotonic()
    logs = logs_of([chief, other])
    assert time.monotonic() - started < 60
    assert chief.returncode == 1
    assert "RuntimeError: Training ends when a worker is lost" in logs[0]
    assert not json.loads((tmp_path / "killed/result.json").read_text())["finished"]

    again = [*two_workers(tmp_path, "killed")]
    logs = logs_of(again)
    assert [p.returncode for p in again] == [0, 0], "\n".join(logs)[-4000:]
    assert all("Going on with the run" in log for log in logs)
    one, two = (
        keras.models.load_model(tmp_path / name / "model.keras").get_weights()
        for name in ("whole", "killed")
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
