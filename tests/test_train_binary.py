"""The training binary as a process: killed and resumed, and with wrong flags."""

import csv
import os
import pathlib
import subprocess
import sys

import pytest

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
