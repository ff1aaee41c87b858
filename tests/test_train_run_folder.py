"""The folder of a run."""

import errno
import fcntl
import json
import os
import re

import pytest

from keras_prune_init.train import default_config, run_folder, run_lock


def test_folder_of_something_else_is_not_resumed(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="no config.json"):
        run_folder.check_settings(tmp_path, {}, resume=True)


def test_a_run_of_before_a_key_was_added_had_its_default(tmp_path):
    config = json.loads(default_config.get_config().to_json())
    earlier = json.loads(default_config.get_config().to_json())
    del earlier["data"]["skip_corrupt"]
    run_folder.write_json(tmp_path / "config.json", earlier)
    run_folder.check_settings(tmp_path, config, resume=True)
    config["data"]["skip_corrupt"] = True
    with pytest.raises(ValueError, match=r"skip_corrupt \(then False, now True\)"):
        run_folder.check_settings(tmp_path, config, resume=True)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a/train/default_config.py", "default"),
        ("configs/fashion_cnn_grasp.py", "fashion_cnn_grasp"),
        ("configs/paper/cifar10_resnet.py:104", "cifar10_resnet-104"),
    ],
)
def test_folder_of_a_run_is_named_after_configuration_and_time(file, name):
    assert re.fullmatch(rf"runs/{name}-\d{{8}}-\d{{6}}", run_folder.new(file))


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    run_folder.write_json(path, 1)
    with pytest.raises(RuntimeError), run_folder.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert run_folder.read_json(path) == 1


def test_a_second_process_is_refused_and_told_who_is_at_work(tmp_path):
    folder = tmp_path / "deep" / "run"
    with run_lock.locked(folder):
        message = rf"One process.*workdir={folder}, in which process {os.getpid()} on "
        with pytest.raises(FileExistsError, match=message), run_lock.locked(folder):
            pass
        run_folder.check_settings(folder, {}, resume=False)  # a lock alone is no run
        (folder / "model.keras").write_text("saved")
    assert [path.name for path in folder.iterdir()] == ["model.keras"]


def test_what_a_killed_process_left_locks_nothing(tmp_path):
    (tmp_path / run_lock.LOCK).write_text("process 1 on a machine of long ago")
    with run_lock.locked(tmp_path):
        run_folder.check_settings(tmp_path, {}, resume=False)
    assert not tmp_path.exists()  # nothing came of it


def test_a_file_system_without_locks_keeps_to_the_mark(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with run_lock.locked(tmp_path / "run"):
        message = rf"in which process {os.getpid()} on .*If it was killed, remove "
        with (
            pytest.raises(FileExistsError, match=message),
            run_lock.locked(tmp_path / "run"),
        ):
            pass
        (tmp_path / "run/model.keras").write_text("saved")
    with run_lock.locked(tmp_path / "run"):
        pass
