"""Configurations that make no run are refused before any work, by the key's name."""

import re

import pytest

from keras_prune_init.train import config_checks, default_config


def config(**values):
    config = default_config.get_config()
    for key, value in values.items():
        *parts, name = key.split(".")
        owner = config
        for part in parts:
            owner = owner[part]
        with owner.ignore_type():
            owner[name] = value
    return config


def refused(key, value):
    message = rf"`{re.escape(key)}`.*Received: {re.escape(f'{key}={value!r}')}"
    with pytest.raises(ValueError, match=message):
        config_checks.check_config(config(**{key: value}))


def test_the_default_is_a_run():
    config_checks.check_config(config())
    assert config_checks.OPTIONAL < set(config_checks.RULES)


@pytest.mark.parametrize("key", config_checks.RULES)
def test_every_key_refuses_what_it_cannot_be(key):
    for value in (float("nan"), float("inf"), -1, "3", {1}):
        refused(key, value)
    if key not in config_checks.OPTIONAL:
        refused(key, None)
    else:
        config_checks.check_config(config(**{key: None}))


def test_every_number_and_flag_of_the_default_has_a_rule():
    found = set()
    for part, values in default_config.get_config().items():
        values = values.items() if hasattr(values, "items") else [("", values)]
        for name, value in values:
            if isinstance(value, (int, float)):  # so is a flag
                found.add(f"{part}.{name}".rstrip("."))
    assert found <= set(config_checks.RULES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**32),
        ("train.epochs", 0),
        ("train.epochs", 1.5),
        ("train.epochs", 10**20),
        ("train.batch_size", True),
        ("train.momentum", 1.1),
        ("train.nesterov", 1),
        ("train.schedule", "linear"),
        ("train.drops", (0.75, 0.5)),
        ("train.drops", (0.5, 1.0)),
        ("train.drops", (float("nan"),)),
        ("train.drops", 0.5),
        ("prune.sparsity", 1.0),
        ("data.rand_augment", 1.0),
        ("data.mix", "mix"),
    ],
)
def test_values_that_make_no_run_are_refused(key, value):
    refused(key, value)


def test_values_that_do_not_go_together_are_refused():
    message = "warmup_epochs=1.0 with train.schedule='step'"
    with pytest.raises(ValueError, match=message):
        config_checks.check_config(config(**{"train.schedule": "step"}))
    with pytest.raises(ValueError, match="batch_size=128 for 3 replicas"):
        config_checks.check_config(config(), replicas=3)


def test_arguments_of_a_function_that_is_not_ours_are_its_own():
    config_checks.check_config(
        config(**{"model.name": "mine:net", "model.width": [8, 16]})
    )
    refused("model.width", [8, 16])
