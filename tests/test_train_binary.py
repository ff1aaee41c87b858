"""The training binary as a process, with wrong flags."""

import functools
import os

import pytest
from processes import Forked


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.prune.sparsityy=0.9", 'Did you mean "sparsity"'),
        ("--config.train.epochs=many", "flag --config.train.epochs=many"),
        ("--resume", "--resume needs the folder"),
    ],
)
def test_wrong_flags_fail_at_once_and_are_named(argument, message, tmp_path):
    (tmp_path / "empty").mkdir()
    process = Forked(
        tmp_path / "log",
        "keras_prune_init.train",
        argument,
        before=functools.partial(os.chdir, tmp_path / "empty"),
    )
    assert process.wait() not in (0, None)
    assert message in process.printed()
    assert not os.listdir(tmp_path / "empty")
