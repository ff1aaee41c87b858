"""The training binary as a process: killed and resumed, and with wrong flags."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from image_files import few_images

import keras_prune_init as kpi


def history(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def binary(*arguments, **options):
    command = [sys.executable, "-m", "keras_prune_init.train", *arguments]
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(kpi.__file__).parents[1])},
        **options,
    )


def test_killed_binary_resumes_to_the_result_of_an_uninterrupted_run(tmp_path):
    source = few_images(tmp_path)

    def start(name, *more):
        return binary(
            f"--config.data.source={source}",
            "--config.model.depth=8",
            "--config.model.width=4",
            "--config.train.epochs=6",
            "--config.train.batch_size=16",
            "--deterministic",
            f"--workdir={tmp_path / name}",
            *more,
        )

    whole, killed = start("whole"), start("killed")
    while len(history_or_nothing(tmp_path / "killed")) < 2 and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    printed = killed.communicate()[0]
    assert killed.returncode == -signal.SIGKILL, printed
    assert not json.loads((tmp_path / "killed/result.json").read_text())["finished"]

    resumed = start("killed", "--resume")
    printed, text = resumed.communicate()[0], whole.communicate()[0]
    assert (resumed.returncode, whole.returncode) == (0, 0), printed + text
    assert "Going on with the run in" in printed
    first, second = (
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("whole", "killed")
    )
    for key in ("mask_digest", "epochs", "test_accuracy", "test_loss"):
        assert first[key] == second[key]
    rows = [history(tmp_path / name) for name in ("whole", "killed")]
    for one, other in zip(*rows, strict=True):
        del one["seconds"], other["seconds"]
        assert one == other
    # The table and the final line reach the reader.
    assert "stage3_block0_conv2" in text and "test accuracy" in text


def history_or_nothing(folder):
    return history(folder) if (folder / "history.csv").exists() else []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.prune.sparsityy=0.9", 'Did you mean "sparsity"'),
        ("--config.train.epochs=many", "flag --config.train.epochs=many"),
        ("--resume", "--resume needs the folder"),
    ],
)
def test_wrong_flags_fail_at_once_and_are_named(argument, message, tmp_path):
    process = binary(argument, cwd=tmp_path)
    printed = process.communicate()[0]
    assert process.returncode != 0
    assert message in printed
    assert not list(tmp_path.iterdir())
