"""What every method must do; a new method adds its row."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import ALIASES, EACH, METHODS, L, batch, mlp, net

import keras_prune_init as kpi
from keras_prune_init.methods import DataMethod


@pytest.fixture(scope="module")
def given():
    """A network with data, which pruning leaves as they are."""
    keras.utils.set_random_seed(0)
    return net()


def test_every_method_has_a_row():
    assert [row[0] for row in METHODS] == kpi.method_names()


@pytest.mark.parametrize("name", ALIASES)
def test_a_second_name_is_the_same_method(name):
    method, other = kpi.get_method(name), kpi.get_method(ALIASES[name])
    assert type(method) is type(other) and vars(method) == vars(other)


@EACH
def test_scores_have_the_shapes_of_the_kernels_and_go_by_the_data(
    name, options, needs_data, given
):
    model, data = given
    method = kpi.get_method(name, **options)
    scores = kpi.score(model, data if needs_data else None, method)
    shapes = {v.path: tuple(v.shape) for v in model.variables if len(v.shape) > 1}
    assert {k: s.shape for k, s in scores.items()} == shapes
    assert all(s.dtype in (np.float32, np.float64) for s in scores.values())
    assert method.needs_data == needs_data
    if needs_data:
        with pytest.raises(ValueError, match="needs data"):
            kpi.score(model, None, name)
        other = kpi.score(model, (data[0] * 2, 2 - data[1]), method)
        assert any((other[k] != scores[k]).any() for k in scores)


@pytest.mark.parametrize("schedule", ["exponential", "linear", lambda t, s: s * t**2])
def test_the_count_is_exact_with_every_schedule(schedule, given):
    method = kpi.get_method("magnitude", iterations=3, schedule=schedule)
    model, _ = given
    for sparsity in (0.0, 0.5, 0.98):
        pruned = kpi.prune_at_init(model, None, method, sparsity=sparsity)
        assert_exact(pruned, sparsity)


def assert_exact(pruned, sparsity):
    report = kpi.report(pruned)
    assert report.kept == report.total - int(sparsity * report.total + 1e-6)


@EACH
def test_iterations_end_at_the_exact_count_and_what_was_removed_stays_removed(
    name, options, needs_data, given
):
    model, data = given
    method = kpi.get_method(name, iterations=3, schedule="linear")
    scores = kpi.score(model, data, method, sparsity=0.9)
    pruned = kpi.prune_at_init(model, data, method, sparsity=0.9)
    assert_exact(pruned, 0.9)
    flat = np.concatenate([s.ravel() for s in scores.values()])
    kept = np.concatenate(
        [
            v.mask.numpy().ravel()
            for v in pruned.layers
            if isinstance(v, kpi.MaskedLayer)
        ]
    )
    # Linear in two of three steps, 60 % are gone before the last scores are made.
    assert flat[kept == 1].min() >= flat[kept == 0].max()


@EACH
def test_half_precision_models_are_scored_in_float32(name, options, needs_data):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half, data = net()
    finally:
        keras.config.set_dtype_policy("float32")
    keras.backend.clear_session(free_memory=False)  # random goes by the layers' names
    full, _ = net()
    full.set_weights(half.get_weights())
    a = kpi.score(half, data, kpi.get_method(name, **options))
    b = kpi.score(full, data, kpi.get_method(name, **options))
    assert a.keys() == b.keys()
    for s, t in zip(a.values(), b.values(), strict=True):
        assert s.dtype == t.dtype and s.any()
        np.testing.assert_allclose(s, t, rtol=1e-3, atol=1e-3 * np.abs(t).max())


@EACH
def test_channels_go_by_their_scores(name, options, needs_data, given):
    model, data = given
    small = kpi.prune_at_init(
        model,
        data,
        kpi.get_method(name, **options),
        sparsity=0.4,
        what="channels",
    )
    report = kpi.report(small, model)
    assert report.kept <= 0.6 * report.total
    assert np.ptp(np.asarray(small(data[0])), axis=0).min() > 0
    assert min(t.kept for t in report.tensors) > 0


def test_random_depends_on_seed_and_path_only():
    model = mlp()
    first = kpi.score(model, None, "random", seed=1)
    again = kpi.score(model, None, "random", seed=1)
    other = kpi.score(model, None, "random", seed=2)
    alone = kpi.score(model, None, "random", seed=1, filters=model.layers[1].name)
    for path, s in first.items():
        np.testing.assert_array_equal(s, again[path])
        assert (s != other[path]).any()
    ((path, s),) = alone.items()
    np.testing.assert_array_equal(s, first[path])


def test_grasp_product_agrees_with_a_finite_difference_of_gradients():
    keras.config.set_dtype_policy("float64")
    try:
        model = keras.Sequential(
            [
                keras.Input((4, 4, 2), dtype="float64"),
                L.Conv2D(3, 3),
                L.GroupNormalization(1),
                L.BatchNormalization(),
                L.Activation("tanh"),
                L.Flatten(),
                L.Dense(3, "softmax"),
            ]
        )
    finally:
        keras.config.set_dtype_policy("float32")
    data = batch(model, 10)
    method = kpi.get_method("grasp", temperature=3.0)
    scores = kpi.score(model, data, method)

    from keras_prune_init.layers.kernels import find_kernels
    from keras_prune_init.scoring import first_batch
    from keras_prune_init.scoring.network import Network

    kernels = find_kernels(model)
    tensors = (tf.constant(data[0], "float64"), tf.constant(data[1]), None)
    loss = first_batch.objective_of(model, None, tensors)
    network = Network(model, kernels, [tensors], loss)
    weights = network.weights
    gradients = network.gradients(weights, "train", 3.0)
    step = 1e-4
    ahead = network.gradients(
        [w + step * g for w, g in zip(weights, gradients, strict=True)], "train", 3.0
    )
    behind = network.gradients(
        [w - step * g for w, g in zip(weights, gradients, strict=True)], "train", 3.0
    )
    for k, w, a, b in zip(kernels, weights, ahead, behind, strict=True):
        expected = (w * (a - b) / (2 * step)).numpy()
        np.testing.assert_allclose(
            scores[k.path], expected, atol=1e-6 * np.abs(expected).max()
        )


def test_batches_of_grasp_have_own_gradients_or_one_together():
    model = kpi.models.mlp((5,), classes=3, depth=3, width=6, activation="tanh")
    x, y = batch(model, 16)
    halves = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    first, second = (kpi.score(model, half, "grasp") for half in halves)
    own = kpi.score(model, halves, "grasp", batches=2)
    whole = kpi.score(model, (x, y), "grasp")
    pooled = kpi.score(model, halves, kpi.methods.GraSP(pooled=True), batches=2)
    for path, found in own.items():
        np.testing.assert_allclose(found, first[path] + second[path], rtol=1e-5)
        # Sums of two means each, and without batch statistics.
        scale = np.abs(whole[path]).max()
        np.testing.assert_allclose(pooled[path], 4 * whole[path], atol=1e-5 * scale)
        assert not np.allclose(found, pooled[path], atol=1e-2 * scale)


def test_synflow_is_conserved_from_layer_to_layer():
    layers = [L.Dense(n, "relu", use_bias=False) for n in (7, 6, 5)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    scores = kpi.score(model, None, kpi.methods.SynFlow(iterations=1))
    sums = [float(s.sum()) for s in scores.values()]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-5)


def test_synflow_empties_no_layer_where_one_shot_methods_do():
    layers = [L.Dense(n, "relu", use_bias=False) for n in (64, 4, 64, 3)]
    model = keras.Sequential([keras.Input((32,)), *layers])
    pruned = kpi.prune_at_init(model, None, "synflow", sparsity=0.98)
    report = kpi.report(pruned)
    assert not report.collapsed and report.effective == report.kept
    one_shot = kpi.prune_at_init(model, None, "magnitude", sparsity=0.98)
    assert kpi.report(one_shot).collapsed


@pytest.mark.parametrize("gain", [1e8, 1e-8])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_synflow_beyond_the_range_of_float32(gain, activation):
    layers = [L.Dense(6, activation) for _ in range(7)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    keras.config.set_dtype_policy("float64")
    try:
        wide = keras.models.clone_model(
            model,
            clone_function=lambda v: type(v).from_config(
                {**v.get_config(), "dtype": "float64"}
            ),
        )
    finally:
        keras.config.set_dtype_policy("float32")
    for layer in layers:
        layer.kernel.assign(layer.kernel * gain)
    wide.set_weights(model.get_weights())
    scores = kpi.score(model, None, kpi.methods.SynFlow(iterations=1))
    expected = kpi.score(wide, None, kpi.methods.SynFlow(iterations=1))
    factors = [
        np.median(s / t)
        for s, t in zip(scores.values(), expected.values(), strict=True)
    ]
    for s, t in zip(scores.values(), expected.values(), strict=True):
        assert s.dtype == (np.float32 if activation == "relu" else np.float64)
        np.testing.assert_allclose(s, t * factors[0], rtol=1e-4)


def test_a_new_method_is_one_class_and_one_line(monkeypatch):
    from keras_prune_init import methods

    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))

    class GradientOnly(DataMethod):
        def scores(self, network, weights):
            return [abs(g) for g in network.gradients(weights, self.batch_norm)]

    kpi.register_method("gradient", GradientOnly)
    model, data = net()
    assert (
        kpi.report(kpi.prune_at_init(model, data, "gradient", sparsity=0.5)).sparsity
        == 0.5
    )
    with pytest.raises(ValueError, match="registered once. Received: name='gradient'"):
        kpi.register_method("gradient", GradientOnly)
    with pytest.raises(ValueError, match="subclass of keras_prune_init.Method"):
        kpi.register_method("other", dict)
