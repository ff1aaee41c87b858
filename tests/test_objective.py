"""Scores are those of the loss that `fit` trains, for losses and data of every kind."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp
from objectives import (
    CASES,
    SPARSE,
    Y1,
    YN1,
    C,
    N,
    PullsTogether,
    X,
    absolute,
    assert_same,
    dense,
    of_plain_keras,
    quantile,
    subclass,
    two_heads,
)
from runs import mirrored

import keras_prune_init as kpi


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_compute_loss(name):
    model, data = CASES[name]()
    metrics = [v.numpy() for v in model.metrics_variables]
    found = kpi.score(model, data, verbose=0)
    for before, variable in zip(metrics, model.metrics_variables, strict=True):
        np.testing.assert_array_equal(variable, before)
    assert_same(found, of_plain_keras(model, *data))


@pytest.mark.parametrize("name", ["list", "masked and recurrent", "own compute_loss"])
def test_the_same_in_a_graph(name):
    """Several batches are traced once."""
    model, data = CASES[name]()
    twice = keras.tree.map_structure(lambda v: np.concatenate([v, v, v]), data)
    dataset = tf.data.Dataset.from_tensor_slices(
        tuple(tuple(v) if isinstance(v, list) else v for v in twice)
    )
    found = kpi.score(model, dataset.batch(N), batches=3, verbose=0)
    expected = of_plain_keras(model, *data)
    assert_same(found, {path: 3 * v for path, v in expected.items()})


SUM = keras.losses.MeanSquaredError("sum")


@pytest.mark.parametrize(
    ("method", "size", "loss", "replicas"),
    [
        *[("snip", size, loss, 1) for size in (5, 11) for loss in (SPARSE, SUM)],
        ("snip", 5, SPARSE, 2),
        (kpi.methods.OBD(probes=4), 5, SPARSE, 1),
        (kpi.methods.OBD(curvature="fisher"), 5, SPARSE, 1),
        (kpi.methods.OBD(curvature="recursion"), 5, SPARSE, 1),
        (kpi.methods.OBS(), 5, SPARSE, 1),
    ],
)
def test_samples_count_alike_in_batches_of_any_size(method, size, loss, replicas):
    """The last batch is smaller: of 12 samples it has 2 or 1."""
    with mirrored(replicas).scope() if replicas > 1 else contextlib.nullcontext():
        model = mlp((4,), inputs=5, classes=3)
    x, y = batch(model, 12)
    if loss is not SPARSE:
        y = np.eye(3, dtype="float32")[y]
    model.compile(loss=loss)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    whole, parts = (
        kpi.score(model, data.batch(n), method, batches=None, verbose=0)
        for n in (12, size)
    )
    for a, b in zip(whole.values(), parts.values(), strict=True):
        a, b = (v / np.abs(v).max() for v in (a, b))
        # OBS adds a small number, which counts more if the loss is a smaller sum.
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize(
    "loss, labels",
    [
        ("mae", Y1),
        (absolute, Y1),
        (keras.losses.Huber(0.1), YN1),
        (["mse"], YN1),
        (functools.partial(quantile, q=0.1), Y1),
    ],
    ids=["name", "function", "object", "list", "partial"],
)
def test_an_argument_is_what_compile_makes_of_it(loss, labels):
    model = dense(1, None, "log_cosh", loss_weights=0.1)
    before = model._compile_loss
    found = kpi.score(model, (X, labels), loss=loss, verbose=0)
    assert model._compile_loss is before
    model.compile("sgd", loss)
    assert_same(found, of_plain_keras(model, X, labels))


def test_an_argument_for_several_outputs():
    for outputs, loss in (
        ("list", {"a": SPARSE, "b": "mae"}),
        ("dict", {"one": SPARSE, "two": "mae"}),
    ):
        model = two_heads("mse", outputs)
        y = dict(zip(loss, (C, YN1), strict=True))
        found = kpi.score(model, (X, y), loss=loss, verbose=0)
        model.compile("sgd", loss)
        assert_same(found, of_plain_keras(model, X, y))


def test_weights_by_name_are_those_of_a_list():
    model, (x, y, weights) = CASES["list of weights"]()
    named = dict(zip("ba", weights[::-1], strict=True))
    expected = kpi.score(model, (x, y, weights), verbose=0)
    assert_same(kpi.score(model, (x, y, named), verbose=0), expected)


def test_penalties_on_weights_stay_out_and_stay_there():
    model = dense(1)
    expected = kpi.score(model, (X, Y1), verbose=0)
    penalty = keras.regularizers.L2(3.0)
    for layer in model.layers[:2]:
        layer.kernel.regularizer = penalty
    found = kpi.score(model, (X, Y1), verbose=0)
    assert_same(found, expected)
    assert [v.kernel.regularizer for v in model.layers[:2]] == [penalty] * 2
    assert len(model.losses) == 2


def test_half_precision_and_float64_follow_the_same_loss():
    expected = None
    for policy in ("float32", "float64", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            x = keras.Input((4,))
            h = PullsTogether()(L.Dense(6, "tanh")(x))
            model = keras.Model(x, L.Dense(1)(h))
        finally:
            keras.config.set_dtype_policy("float32")
        model.compile("sgd", [absolute])
        if expected is None:
            weights = model.get_weights()
            expected = of_plain_keras(model, X, YN1).values()
        model.set_weights(weights)
        found = kpi.score(model, (X, YN1), verbose=0).values()
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_a_loss_that_the_model_ignores_is_named(caplog):
    model = subclass()
    expected = kpi.score(model, (X, C), verbose=0)
    assert_same(kpi.score(model, (X, C), loss="mse", verbose=0), expected)
    assert "its own `compute_loss` ignores `loss=`" in caplog.text


class Steps(keras.Model):
    """Computes its loss in `train_step`."""

    def train_step(self, data):
        raise NotImplementedError


class Parts(keras.Model):
    """Has models, but no `call`."""

    def __init__(self):
        super().__init__()
        self.encoder = mlp()
        self.built = True


def test_models_whose_loss_is_hidden_ask_for_it():
    x = keras.Input((4,))
    model = Steps(x, L.Dense(3)(x))
    with pytest.raises(ValueError, match="a Steps, which has a `train_step`.*`loss=`"):
        kpi.score(model, (X, C))
    assert kpi.score(model, (X, C), loss=SPARSE, verbose=0)
    model.compile("sgd", SPARSE)
    assert kpi.score(model, (X, C), verbose=0)
    with pytest.raises(ValueError, match="`model.encoder = prune_at_init\\(model.enc"):
        kpi.score(Parts(), (X, C), loss=SPARSE)


def test_all_scores_of_zero_are_refused():
    model, data = CASES["object"]()

    def wrong(y, p):
        return tf.cast(tf.argmax(p, -1) != tf.cast(y, "int64"), "float32")

    with pytest.raises(ValueError, match="scores of 0 for all of .*/kernel, .*/kernel"):
        kpi.prune_at_init(model, data, loss=wrong)
    with pytest.raises(ValueError, match="sample weights"):
        kpi.score(model, (*data, np.zeros(N)))
    with pytest.raises(ValueError, match="scores of 0 for all"):
        kpi.score(mlp(kernel_initializer="zeros"), None, "magnitude")


@pytest.mark.parametrize(
    "name",
    ["sum", "function of one number", "list", "own compute_loss", "add_loss"]
    + ["masked and weighted"],
)
def test_every_replica_scores_whole_batches(name):
    model, data = CASES[name]()
    parts = tuple(tuple(v) if isinstance(v, list) else v for v in data)
    dataset = tf.data.Dataset.from_tensor_slices(parts).batch(6)
    expected = kpi.score(model, dataset, batches=2, verbose=0)
    with mirrored(2).scope():
        same, _ = CASES[name]()
        same.set_weights(model.get_weights())
    found = kpi.score(same, dataset, batches=2, verbose=0)
    for a, b in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_signal_report_takes_the_same_data():
    for name in ("add_loss", "list of weights", "inputs by name", "own compute_loss"):
        model, data = CASES[name]()
        assert kpi.signal_report(model, data).rows[0].gradient > 0
    model = mlp()
    assert kpi.signal_report(model, batch(model), SPARSE).rows[0].gradient > 0


class OwnStep(keras.Model):
    """Trains another loss than that it is compiled with."""

    def __init__(self):
        super().__init__()
        self.head = L.Dense(3)

    def call(self, x):
        return self.head(x)

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class KerasStep(OwnStep):
    def train_step(self, data):
        return keras.Model.train_step(self, data)


@pytest.mark.parametrize("kind", [OwnStep, KerasStep])
def test_a_step_that_may_train_another_loss_is_told(kind, caplog):
    model = kind()
    model(X)
    model.compile("adam", SPARSE)
    pruned = kpi.prune_at_init(model, (X, C), "snip", sparsity=0.5, verbose=0)
    told = kind is OwnStep
    assert ("pass `loss=`" in str(kpi.report(pruned))) == told
    assert ("pass `loss=`" in caplog.text) == told
    caplog.clear()
    kpi.prune_at_init(model, (X, C), "snip", sparsity=0.5, loss=SPARSE, verbose=0)
    assert not caplog.text
