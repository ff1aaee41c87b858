"""What a signal report says, against theory, scores and numbers by hand."""

import random

import keras
import numpy as np
import pytest
from helpers import (
    CHAOTIC,
    EDGE,
    ORDERED,
    L,
    batch,
    column,
    deep,
    mlp,
    subclassed,
    transformer,
    two_inputs_two_outputs,
)

import keras_prune_init as kpi
from keras_prune_init.theory import mean_field
from keras_prune_init.theory.signal_report import signal_report


def by_layer(report):
    return {row.name.split("/")[-1]: row for row in report.rows}


X = np.random.default_rng(0).normal(size=(64, 100)).astype("float32")


@pytest.fixture(scope="module")
def reports():
    return {
        phase: signal_report(deep(phase), (X, np.arange(64) % 10))
        for phase in (ORDERED, EDGE, CHAOTIC)
    }


def test_a_linear_network_by_hand():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            L.Dense(2, use_bias=False, name="a"),
            L.Dense(1, use_bias=False, name="b"),
        ]
    )
    model.set_weights([np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0], [0.0]])])
    x, y = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[1.0], [3.0]])
    report = signal_report(model, (x, y), "mse")
    # y^a = (1, 0), (1, 2); y^b = 3, 3. dL/dy^b = y^b - y = 2, 0 (mean over two
    # samples); dL/dy^a = (6, 0), (0, 0).
    a, b = report.rows
    assert (a.layer, b.layer) == (model.layers[0].path, model.layers[1].path)
    assert a.q == pytest.approx(6 / 4) and b.q == pytest.approx(9)
    assert a.correlation == pytest.approx(5**-0.5)
    assert b.correlation == pytest.approx(1)
    assert a.gradient == pytest.approx(3) and b.gradient == pytest.approx(2**0.5)
    # dL/dW^a = x^T dL/dy^a: w g = 6 at (0, 0). dL/dW^b = (2, 0): w g = 6, 0.
    assert a.m == pytest.approx(36 / 4) and b.m == pytest.approx(36 / 2)
    assert a.dead == 1 and b.dead == 1  # unit 0 is constant, unit 1 is not read
    assert a.density is None and report.gradient_ratio == 1
    assert report.diagnosis == f"{b.layer} is the same for all samples."


@pytest.mark.parametrize("phase", [ORDERED, EDGE, CHAOTIC])
def test_variances_follow_the_mean_field_map(reports, phase):
    sigma_w, sigma_b = phase
    q = sigma_b**2 + sigma_w**2 * np.mean(X**2)
    for row in reports[phase].rows[:-1]:
        # Finite width: a relative deviation of some sqrt(2 / 100).
        assert row.q == pytest.approx(q, rel=0.5), row.layer
        q = mean_field.variance_map("tanh", sigma_w, sigma_b, q)


@pytest.mark.parametrize("phase", [ORDERED, EDGE, CHAOTIC])
def test_gradients_follow_chi(reports, phase):
    chi = mean_field.chi("tanh", *phase)
    assert np.log10(reports[phase].gradient_ratio) == pytest.approx(
        29 * np.log10(chi) / 2, abs=1
    )


def test_samples_become_equal_in_the_ordered_phase_only(reports):
    ordered, edge, chaotic = (
        column(reports[p], "correlation") for p in (ORDERED, EDGE, CHAOTIC)
    )
    assert ordered[0] < 0.5 and ordered[-2] > 0.99999
    assert 0.5 < edge[-2] < 0.99
    assert chaotic[-2] < 0.4


def test_each_phase_is_diagnosed(reports):
    assert reports[ORDERED].diagnosis.startswith("Gradients vanish")
    assert "hardly tells samples apart" in reports[ORDERED].diagnosis
    assert "edge of chaos" in reports[ORDERED].diagnosis
    assert reports[EDGE].diagnosis.startswith("Well-conditioned")
    assert reports[CHAOTIC].diagnosis.startswith("Gradients explode")


def test_the_correlation_is_the_mean_over_pairs():
    model = mlp()
    x, y = batch(model, 6)
    row = signal_report(model, (x, y)).rows[0]
    first = model.layers[0]
    signal = x @ first.kernel.numpy() + first.bias.numpy()
    signal /= np.linalg.norm(signal, axis=1, keepdims=True)
    pairs = (signal @ signal.T)[np.triu_indices(6, 1)]
    assert row.correlation == pytest.approx(pairs.mean(), abs=1e-6)


def conv_net():
    x = inputs = keras.Input((9, 9, 2))
    for strides in (1, 2):
        y = L.Conv2D(8, 3, strides, padding="same", use_bias=False)(x)
        y = L.ReLU()(L.BatchNormalization()(y))
        y = L.DepthwiseConv2D(3, padding="same")(y)
        x = L.Add()([L.Conv2D(8, 1, strides)(x), y])
    x = L.SeparableConv2D(8, 3, activation="relu")(x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def sequences():
    tokens = keras.Input((3,), dtype="int32")
    x = L.Embedding(11, 6)(tokens)
    x = L.Bidirectional(L.SimpleRNN(4, return_sequences=True))(x)
    x = L.TimeDistributed(L.Dense(4, "relu"))(x)
    return keras.Model(tokens, L.Dense(3)(L.GRU(4)(x)))


def data_for(model, size=16):
    rng = np.random.default_rng(0)

    def values(tensor):
        shape = (size, *tensor.shape[1:])
        if tensor.dtype == "int32":
            return rng.integers(0, 10, shape)
        return rng.normal(size=shape).astype("float32")

    labels = [rng.integers(0, 3, size), rng.normal(size=(size, 1)).astype("float32")]
    if isinstance(model, keras.Sequential):
        inputs = model.inputs[0]
    else:
        inputs = getattr(model, "input", keras.KerasTensor((None, 5)))
    x = keras.tree.map_structure(values, inputs)
    return x, labels if isinstance(inputs, dict) else labels[0]


MODELS = [
    mlp,
    conv_net,
    sequences,
    transformer,
    subclassed,
    two_inputs_two_outputs,
]


@pytest.mark.parametrize("make", MODELS)
def test_m_is_the_mean_square_of_snip_scores_and_pruned_models_give_the_same(make):
    model = make()
    data = data_for(model)
    scores = kpi.score(model, data, "snip")
    report = signal_report(model, data)
    assert not report.missing
    seen = [path for row in report.rows for path in row.kernels]
    assert set(seen) == set(scores)  # every kernel has its row
    for row in report.rows:
        squares = [np.square(scores[p], dtype="float64").ravel() for p in row.kernels]
        assert row.m == pytest.approx(np.concatenate(squares).mean(), rel=1e-4)

    # With masks that remove nothing.
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0)
    before = [v.numpy() for v in pruned.variables]
    attributes = [set(vars(v)) for v in pruned.layers]
    states = random.getstate(), np.random.get_state()[1].tolist()
    same = signal_report(pruned, data)
    for field in ("q", "correlation", "gradient", "m"):
        np.testing.assert_allclose(
            column(same, field), column(report, field), 1e-3, 1e-9
        )
    assert set(column(same, "density")) == {1.0}
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert [set(vars(v)) for v in pruned.layers] == attributes
    for a, b in zip(before, pruned.variables, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_a_scale_counts_like_larger_weights():
    data = batch(mlp())
    model = mlp()
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0)
    pruned.layers[1].scale.assign(np.full(pruned.layers[1].scale.shape, 3.0))
    model.layers[1].kernel.assign(3 * model.layers[1].kernel)
    a, b = signal_report(pruned, data), signal_report(model, data)
    np.testing.assert_allclose(column(a, "m"), column(b, "m"), 1e-5)
    np.testing.assert_allclose(column(a, "q"), column(b, "q"), 1e-5)


def test_shared_layers_have_a_row_for_each_call():
    model = subclassed()
    report = signal_report(model, data_for(model))
    first, second = [r for r in report.rows if r.layer == report.rows[6].layer]
    assert (first.call, second.call) == (1, 2)
    assert first.m == second.m and first.q != second.q
    assert second.name == f"{first.layer}, call 2"


def test_layers_of_one_path_are_told_apart():
    model = two_inputs_two_outputs()
    names = [row.name for row in signal_report(model, data_for(model)).rows]
    assert len(set(names)) == len(names) == 7


def test_rows_come_in_the_order_of_the_signals():
    x = keras.Input((4,))
    late = L.Dense(3, name="late")
    model = keras.Model(x, late(L.Dense(4, "relu", name="early")(x)))
    sub = keras.Sequential([keras.Input((4,)), model], name="outer")
    assert list(by_layer(signal_report(sub, data_for(sub)))) == ["early", "late"]


def test_batch_normalization_by_batch_or_running_statistics():
    model = conv_net()
    data = data_for(model)
    train, running = (
        signal_report(model, data, batch_norm=b) for b in ("train", "eval")
    )
    assert train.rows[0].q == running.rows[0].q
    after = by_layer(train), by_layer(running)
    depthwise = next(k for k in after[0] if "depthwise" in k)
    normalized, raw = (rows[depthwise].q for rows in after)
    assert normalized != pytest.approx(raw, rel=0.05)
