"""Every file in configs/ runs, on a few images and for two steps."""

import importlib.util
import pathlib

import pytest

from keras_prune_init.train import default_config, main

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


def load_config(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_runs(path, tmp_path):
    config = load_config(path).get_config().lock()
    config.smoke = True
    if config.data.source.startswith(("keras:", "tfds:")):  # these need a download
        config.data.source = "fashion_mnist_mini"
    result = main.run(config, tmp_path / "run")
    assert result["finished"] and result["epochs"] == 1
    removed = int(config.prune.sparsity * result["total"])
    # "uniform" rounds in each tensor, but the total is exact all the same.
    assert result["kept"] == result["total"] - removed
    assert 0 <= result["test_accuracy"] <= 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_docstring_of_config_has_command_time_and_result(path):
    text = load_config(path).__doc__
    command = f"python -m keras_prune_init.train --config=configs/{path.name}"
    assert command in text
    assert "Time: " in text and "Result: " in text


def test_config_has_only_keys_of_the_default():
    # Arguments of the model differ from model to model; all else is explained once.
    default = default_config.get_config()
    for path in CONFIGS:
        config = load_config(path).get_config()
        assert set(config) == set(default)
        for part in ("data", "prune", "train"):
            assert set(config[part]) == set(default[part]), path.name
