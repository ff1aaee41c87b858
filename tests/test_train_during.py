"""The training binary with systems that train a network into a smaller one."""

import json

import keras
import numpy as np
import pytest
import runs

import keras_prune_init as kpi
from keras_prune_init.train import config_checks, during, run, systems

pytestmark = pytest.mark.usefixtures("undrawn")
# Options with which little happens in 4 epochs of 4 steps, but something does.
OPTIONS = {
    "hard_concrete": {
        **{"gates": "weights", "penalty": 38.0, "drop": 0.9, "dense_epochs": 1}
    },
    "learning_compression": {"steps": 4, "mu": 0.1, "growth": 2.0},
    "compression_aware": {"nuclear": 0.2, "energy": 0.6, "dense_epochs": 1},
    "hinge": {"strength": 0.05, "least": 0.3},
}


def config_of(tmp_path, name, **options):
    config = runs.small(tmp_path, epochs=4, save_every=1, learning_rate=0.05)
    config.train.weight_decay = 0.0
    config.prune.update(method=name, sparsity=0.5)
    config.prune.options.update(OPTIONS[name] | options)
    return config


def fresh(function, *args, **kwargs):
    """Call it as in a new process."""
    keras.backend.clear_session(free_memory=False)
    return function(*args, **kwargs)


def assert_equal(models):
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)


def written(folder):
    """Return the final report, and the models of a run's folder."""
    report = json.loads((folder / "report.json").read_text())
    files = "model.keras", "stripped.keras"
    return report, *(keras.models.load_model(folder / name) for name in files)


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_a_run_that_was_stopped_gives_the_same_network(name, tmp_path, eagerly):
    config = config_of(tmp_path, name)
    expected = fresh(run.run, config, tmp_path / "expected", deterministic=True)
    assert (expected["epochs"], expected["steps"]) == (4, 16)
    end = 16 if name == "hard_concrete" else 12  # of the middle
    for step in (2, 4, 7, end, end + 1):  # a step is a batch; 4 and `end` end a phase
        if step <= 16:
            fresh(runs.run_until, step, config, tmp_path / "run")
    again = tmp_path / "run"
    result = fresh(run.run, config, again, resume=True, deterministic=True)
    for key in ("mask_digest", "kept", "test_accuracy", "test_loss"):
        assert result[key] == expected[key], key
    for key in ("loss", "val_loss", "val_accuracy", "learning_rate"):
        folders = again, tmp_path / "expected"
        found, wanted = ([float(r[key]) for r in runs.history(f)] for f in folders)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, err_msg=key)
    report, *models = written(again)
    for pair in zip(models, written(tmp_path / "expected")[1:], strict=True):
        assert_equal(pair)
    assert report["kept"] == result["kept"] < result["total"] == report["total"]


def test_gates_know_the_number_of_images_and_are_masks_at_the_end(tmp_path, eagerly):
    config, folder = config_of(tmp_path, "hard_concrete"), tmp_path / "run"
    runs.run_until(6, config, folder)
    gated = keras.models.load_model(folder / "model.keras")
    found = [v.get_config() for v in gated.layers if isinstance(v, kpi.GatedLayer)]
    assert [c["data_size"] for c in found] == [64, 64]
    run.run(config, folder, resume=True)
    report, model, stripped = written(folder)
    assert report == json.loads(kpi.report(model).to_json())
    assert not any(isinstance(v, kpi.GatedLayer) for v in model.layers)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1))
    np.testing.assert_allclose(model(x), stripped(x), atol=1e-5)


def test_a_run_that_stops_after_its_gates_are_masks_goes_on(
    tmp_path, eagerly, monkeypatch
):
    config, folder = config_of(tmp_path, "hard_concrete"), tmp_path / "run"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_save_end", stop)
    with pytest.raises(KeyboardInterrupt):
        run.run(config, folder)
    monkeypatch.undo()
    before = keras.models.load_model(folder / "model.keras").get_weights()
    assert run.run(config, folder, resume=True)["finished"]
    for a, b in zip(before, written(folder)[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_learning_compression_takes_all_its_steps(tmp_path, eagerly):
    result = run.run(config_of(tmp_path, "learning_compression"), tmp_path / "run")
    report, model, _ = written(tmp_path / "run")
    assert "Learning-compression: sparsity 0.5, 4 steps." in report["notes"]
    assert result["kept"] == result["total"] - int(0.5 * result["total"])
    kernels = [
        v.layer.kernel.numpy() * v.kept_mask("kernel")
        for v in model.layers
        if isinstance(v, kpi.MaskedLayer)
    ]
    assert sum(np.count_nonzero(k) for k in kernels) == result["kept"]


def test_layers_of_low_rank_are_replaced(tmp_path, eagerly):
    result = run.run(config_of(tmp_path, "compression_aware"), tmp_path / "run")
    _, model, stripped = written(tmp_path / "run")
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    assert result["kept"] == sum(w.size for w in kernels)
    assert result["total"] == 9 * 4 + 36 * 4
    assert result["kept"] < result["total"]
    assert_equal([model, stripped])


def test_hinges_leave_the_multiply_adds_that_were_asked_for(tmp_path, eagerly):
    config = config_of(tmp_path, "hinge")
    run.run(config, tmp_path / "run")
    report, model, _ = written(tmp_path / "run")
    dense = kpi.cost(runs.little((8, 8, 1), 4))
    assert kpi.cost(model).macs == report["multiply_adds"] <= 0.5 * dense.macs
    assert report["total"] == sum(k.total for k in dense.kernels)


def test_two_devices_run_all_phases(tmp_path):
    config = config_of(tmp_path, "learning_compression")
    config.model.name = "runs:plain"
    result = run.run(config, tmp_path / "run", strategy=runs.mirrored(2))
    one = fresh(run.run, config, tmp_path / "one")
    assert result["kept"] == one["kept"] < result["total"]
    np.testing.assert_allclose(result["test_loss"], one["test_loss"], rtol=1e-3)


class Images:
    """As many as MNIST has."""

    sizes = 60_000, 10_000

    def steps(self, batch_size):
        return -(-60_000 // batch_size)


def test_parts_of_the_epochs_are_quarters_and_need_no_dense_one_if_trained(tmp_path):
    config = config_of(tmp_path, "learning_compression", steps=2)
    config.train.update(epochs=9, batch_size=600)
    spans = [phase[:2] for phase in during.phases(config, Images())]
    assert spans == [(0, 200), (200, 700), (700, 900)]
    config.prune.options.update(dense_epochs=1, tune_epochs=3)
    spans = [phase[:2] for phase in during.phases(config, Images())]
    assert spans == [(0, 100), (100, 600), (600, 900)]
    config.prune.options.dense_epochs = None
    config.model.weights = "trained.keras"
    assert [phase.end for phase in during.phases(config, Images())] == [0, 600, 900]


def test_the_last_compression_step_ends_the_phase(tmp_path):
    # The published recipe: 40 steps of 20 epochs, the first of 40; 235 batches each.
    options = {"steps": 40, "every": 20 * 235, "dense_epochs": 30, "tune_epochs": 20}
    config = config_of(tmp_path, "learning_compression", **options)
    config.prune.options.update(mu=9e-5, growth=1.1)
    config.train.update(epochs=30 + 820 + 20, batch_size=256)
    [lc] = during.phases(config, Images())[1].last
    assert lc.first == (30 + 40) * 235
    assert lc.first + 39 * lc.every == (30 + 820) * 235
    config.prune.options.every = 22 * 235
    with pytest.raises(ValueError, match="All compression steps must fit"):
        during.phases(config, Images())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hard_concrete", {"prune.options.penalty": None}, "missing 1 required"),
        ("hard_concrete", {"prune.options.gates": "rows"}, "`what` must be"),
        ("hard_concrete", {"prune.options.drop": 1.0}, "`drop` must be"),
        ("hard_concrete", {"train.weight_decay": 1e-4}, "`train.weight_decay` would"),
        ("hard_concrete", {"prune.options.mu": 1.0}, "those of the method"),
        ("hard_concrete", {"prune.layout": "compact"}, "`prune.layout` is for masks"),
        ("learning_compression", {"prune.rounds": 2}, "`prune.rounds` is for masks"),
        ("learning_compression", {"prune.options.mu": 0.0}, "`mu` must be"),
        ("learning_compression", {"prune.options.growth": 8.0}, "1 / mu or less"),
        ("learning_compression", {"prune.options.energy": 0.5}, "those of the method"),
        (
            "learning_compression",
            {"prune.options.l1_ball": 1.0, "prune.options.l0_penalty": 1.0},
            "Pass one of",
        ),
        ("learning_compression", {"prune.options.tune_epochs": 0}, "be trained on"),
        ("learning_compression", {"prune.options.tune_epochs": 3}, "more --config"),
        ("learning_compression", {"train.steps": 9}, "and no steps"),
        ("learning_compression", {"train.epochs": 2}, "by default a quarter"),
        ("compression_aware", {"prune.options.nuclear": None}, "one of them must be"),
        (
            "compression_aware",
            {"prune.options.energy": 1.5},
            "`prune.options.energy` must be",
        ),
        ("compression_aware", {"prune.options.form": "wide"}, "`form` must be"),
        ("compression_aware", {"prune.allocation": "erk"}, "`prune.allocation` is"),
        ("hinge", {"prune.options.groups": "all"}, "`prune.options.groups` must be"),
        ("hinge", {"prune.options.regularizer": "l3"}, "regularizer` must be"),
        ("hinge", {"prune.options.rate_ratio": 0.0}, "`rate_ratio` must be"),
        ("hinge", {"prune.options.least": 0.0}, "`least` must be"),
        ("hinge", {"prune.filters": "("}, "`filters` must be a regular expression"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(name, change, message, tmp_path):
    config = config_of(tmp_path, name)
    config_checks.check_config(config)
    with config.ignore_type():
        config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        config_checks.check_config(config)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hinge", {"prune.sparsity": 0.99}, "Every matrix must keep"),
        ("hinge", {"prune.filters": "logits"}, "A hinge needs a Conv2D"),
        ("compression_aware", {"prune.filters": "none"}, "none"),
        ("hard_concrete", {"prune.filters": "none"}, "one layer that can be pruned"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_training(
    name, change, message, tmp_path, eagerly
):
    config = config_of(tmp_path, name)
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        run.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model.keras").exists()


def test_epochs_with_the_rounding_of_int8_come_last(tmp_path):
    config = config_of(tmp_path, "learning_compression", steps=2)
    config.train.update(epochs=4, quantize_aware=True, quantize_epochs=1)
    result = run.run(config, tmp_path / "run")
    assert result["epochs"] == len(runs.history(tmp_path / "run")) == 4
    assert result["kept"] == result["total"] - int(0.5 * result["total"])
    assert 0 <= result["int8_test_accuracy"] <= 1
