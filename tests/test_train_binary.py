"""The training binary as a process: killed and resumed, and with wrong flags."""

import pytest
from runs import binary


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
