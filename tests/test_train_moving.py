"""The training binary with masks that change while the network trains."""

import json

import keras
import numpy as np
import pytest
from runs import run_until, small

import keras_prune_init as kpi
from keras_prune_init.train import config_checks, moving, run


def config_of(tmp_path, name, **options):
    """Changes are due before steps 2, 4 and 6 of 8, counted from 0."""
    config = small(tmp_path, save_every=1)
    config.prune.update(method=name, sparsity=0.75, allocation="uniform")
    config.prune.options.every = 2
    if name == "acdc":
        config.prune.options.begin = 2
    config.prune.options.update(options)
    return config


def fresh(function, *args, **kwargs):
    """Call it as in a new process: random masks go by the names of layers."""
    keras.backend.clear_session(free_memory=False)
    return function(*args, **kwargs)


@pytest.mark.parametrize("name", moving.RULES)
def test_a_run_that_was_stopped_gives_the_same_network(name, tmp_path, eagerly):
    config = config_of(tmp_path, name)
    expected = fresh(run.run, config, tmp_path / "expected", deterministic=True)
    for step in (2, 3, 6):
        fresh(run_until, step, config, tmp_path / "run")
    result = run.run(config, tmp_path / "run", resume=True, deterministic=True)
    assert result["mask_digest"] == expected["mask_digest"]
    models = [
        keras.models.load_model(tmp_path / folder / "model.keras")
        for folder in ("run", "expected")
    ]
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)
    report = kpi.report(models[0])
    written = json.loads((tmp_path / "run" / "report.json").read_text())
    assert written == json.loads(report.to_json())
    assert report.digest == result["mask_digest"]
    total = report.total
    assert report.kept == result["kept"] == total - int(0.75 * total)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("rigl", {"prune.options.every": 0}, "`prune.options.every` must be"),
        ("rigl", {"prune.options.power": 2.0}, "those of the method"),
        ("rigl", {"prune.rounds": 2}, "`prune.rounds` is for masks that stay"),
        ("rigl", {"prune.what": "channels"}, "`prune.what` is for masks that stay"),
        ("rigl", {"prune.options.fraction": 2.0}, "`fraction` is the part"),
        ("granet", {"prune.layout": "compact"}, "fixed number of weights"),
        ("granet", {"prune.options.initial": 0.9}, "can only rise"),
        ("acdc", {"prune.options.begin": None}, "missing 1 required"),
        ("rigl", {"prune.options.initial": 0.5}, "those of the method"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(name, change, message, tmp_path):
    config = config_of(tmp_path, name)
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        config_checks.check_config(config)


@pytest.mark.parametrize(
    ("name", "initial", "sparsity", "allocation"),
    [
        ("rigl", None, 0.75, "conv=0.5,*=0.75"),
        ("granet", None, 0.5, "erk"),
        ("granet", 0.2, 0.2, "erk"),
        ("gradual_magnitude", None, 0.0, "global"),
        ("acdc", None, 0.0, "global"),
    ],
)
def test_a_dict_of_sparsities_is_for_the_end(
    name, initial, sparsity, allocation, tmp_path
):
    config = config_of(tmp_path, name, initial=initial)
    config.prune.allocation = "conv=0.5,*=0.75"
    first = moving.first(config).prune
    assert (first.sparsity, first.allocation) == (sparsity, allocation)
    assert config.prune.sparsity == 0.75 and config.prune.method == name


def test_the_compact_layout_trains_with_rigl(tmp_path, eagerly):
    config = config_of(tmp_path, "rigl")
    masked = fresh(run.run, config, tmp_path / "masked")
    config.prune.layout = "compact"
    compact = fresh(run.run, config, tmp_path / "compact")
    assert masked["mask_digest"] == compact["mask_digest"]
