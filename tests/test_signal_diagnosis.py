"""What a signal report makes of its numbers: diagnosis, precision, table, refusals."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import EDGE, L, batch, column, deep, mlp

import keras_prune_init as kpi
from keras_prune_init.theory.signal_report import signal_report


def test_an_empty_layer_is_named_and_can_be_drawn(tmp_path):
    pruned = kpi.prune_at_init(mlp((8, 8, 8)), None, "random", sparsity=0)
    pruned.layers[1].mask.assign(np.zeros((8, 8)))
    report = signal_report(pruned, batch(pruned))
    path = pruned.layers[1].layer.path
    assert report.empty == [path]
    assert f"Of {path} nothing is kept. No gradient reaches" in report.diagnosis
    assert column(report, "dead").tolist() == [1, 1, 1, 1]
    assert np.isnan(report.rows[1].correlation)
    assert json.loads(report.to_json())["rows"][1]["correlation"] is None
    report.plot(tmp_path / "empty.svg")
    assert "<svg" in (tmp_path / "empty.svg").read_text()


def test_signals_may_pass_around_an_empty_layer():
    x = keras.Input((4,))
    y = L.Dense(4, name="first")(x)
    y = L.Add()([y, L.Dense(4, name="branch")(y)])
    model = keras.Model(x, L.Dense(3, name="c")(L.Dense(4, name="last")(y)))
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0)
    pruned.get_layer("branch").mask.assign(np.zeros((4, 4)))
    report = signal_report(pruned, batch(pruned))
    assert report.diagnosis.startswith("Of branch nothing is kept. Well-conditioned")


def test_the_last_hidden_layer_is_one_that_carries_something():
    x = keras.Input((4,))
    y = L.Dense(4, name="first")(x)
    y = L.Add()([L.Dense(4, name="alive")(y), L.Dense(4, name="off")(y)])
    model = keras.Model(x, L.Dense(3, name="c")(y))
    model.get_layer("off").kernel.assign(np.zeros((4, 4)))
    report = signal_report(model, batch(model))
    first, alive = report.rows[:2]
    assert report.gradient_ratio == first.gradient / alive.gradient
    assert "Nothing passes off. " in report.diagnosis


def test_dead_units_by_hand():
    model = keras.Sequential(
        [keras.Input((1,)), L.Dense(4, "relu", name="a"), L.Dense(2, name="b")]
    )
    # Always off; constant; on; on, but not read.
    kernel, bias = [[1.0, 0.0, 1.0, 1.0]], [-9.0, 1.0, 9.0, 9.0]
    readers = [[1.0, 2.0]] * 3 + [[0.0, 0.0]]
    model.set_weights([np.array(kernel), np.array(bias), np.array(readers), np.ones(2)])
    x = np.linspace(-1, 1, 6, dtype="float32")[:, None]
    report = signal_report(model, (x, np.arange(6) % 2))
    assert column(report, "dead").tolist() == [0.75, 0]


def test_small_gradients_are_seen_in_float32_through_a_larger_loss():
    model = deep((1.5, 0.0), depth=5, width=20)
    x, labels = batch(model)
    y = np.eye(10, dtype="float32")[labels]
    whole = signal_report(model, (x, y), "mse")
    small = signal_report(
        model, (x, y), lambda y, p: 1e-36 * keras.losses.mean_squared_error(y, p)
    )
    assert small.dtype == "float32"
    for name in ("gradient", "q", "dead"):
        factor = 1e-36 if name == "gradient" else 1
        np.testing.assert_allclose(
            column(small, name), column(whole, name) * factor, rtol=1e-4
        )


def test_gradients_too_small_for_float32_are_not_zero():
    model = deep((0.01, 0.0), depth=26, width=20)
    report = signal_report(model, batch(model))
    assert report.dtype == "float64" and not report.missing
    gradients = column(report, "gradient")
    assert 0 < gradients[0] < 1e-45 and (np.diff(np.log(gradients)) > 0).all()
    assert column(report, "dead").max() == 0
    assert report.rows[0].layer == model.layers[0].path
    assert model.dtype == "float32"


def test_a_model_that_computes_in_float32_only_is_reported_in_it():
    class Narrow(L.Layer):
        def call(self, x):
            return tf.matmul(x, tf.eye(4))

    dense = L.Dense(3, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((4,)), Narrow(), L.Dense(4), dense])
    report = signal_report(model, batch(model))
    assert report.dtype == "float32"
    assert report.diagnosis.startswith("No gradient reaches")


def test_half_precision_is_computed_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = mlp()
    finally:
        keras.config.set_dtype_policy("float32")
    assert signal_report(model, batch(model)).dtype == "float32"


def test_signals_that_overflow_are_told():
    model = mlp()
    model.layers[0].kernel.assign(np.full((5, 8), np.inf))
    report = signal_report(model, batch(model))
    assert report.diagnosis.endswith("are not finite numbers.")
    assert json.loads(report.to_json())["rows"][0]["q"] is None


def test_layers_that_the_batch_does_not_pass_are_listed():
    class Idle(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.idle = L.Dense(3), L.Dense(3)

        def build(self, shape):
            self.used.build(shape)
            self.idle.build(shape)

        def call(self, x):
            return self.used(x)

    model = Idle()
    model.build((None, 4))
    data = np.ones((4, 4), "float32"), np.arange(4) % 3
    report = signal_report(model, data)
    assert report.missing == [model.idle.path]
    assert f"not seen: {model.idle.path}" in str(report)


def test_the_first_batch_of_a_dataset_is_used():
    model = mlp()
    x, y = batch(model, 20)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    report = signal_report(model, dataset)
    assert report.samples == 8
    assert report == signal_report(model, (x[:8], y[:8]))


def test_table_json_and_picture(tmp_path):
    model = deep(EDGE, depth=4, width=20)
    report = signal_report(model, batch(model))
    lines = str(report).splitlines()
    assert len({len(line) for line in lines[: len(report.rows) + 2]}) == 1
    assert lines[-1] == report.diagnosis
    content = json.loads(report.to_json())
    assert content["gradient_ratio"] == report.gradient_ratio
    assert [r["q"] for r in content["rows"]] == column(report, "q").tolist()
    report.plot(tmp_path / "signals.png")
    assert (tmp_path / "signals.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"model": 3}, TypeError, "`model` must be a keras.Model"),
        ({"batch": "data"}, TypeError, "`dataset` must be a batched"),
        ({"batch_norm": "no"}, ValueError, "'train', 'eval'.*batch_norm='no'"),
        ({"model": keras.Sequential([L.Dense(2)])}, ValueError, "must be built"),
        (
            {"batch": (np.zeros((1, 5)), np.zeros(1, int))},
            ValueError,
            "two samples or more. Received: a batch of 1",
        ),
        (
            {"batch": (np.zeros((4, 6)), np.zeros(4, int))},
            ValueError,
            "x of shape \\(4, 6\\)",
        ),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    model = mlp()
    with pytest.raises(error, match=message):
        signal_report(**{"model": model, "batch": batch(model), **arguments})
