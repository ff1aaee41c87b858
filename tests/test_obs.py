"""OBS: the inverse of the Gauss-Newton matrix, and the predicted increase."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, masks

import keras_prune_init as kpi
from keras_prune_init import plan
from keras_prune_init.options import Options
from keras_prune_init.scoring import checks


def quadratic(samples=60, outputs=3, loss="mse"):
    """A linear model at the minimum of a squared error, in float64, and its data."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 6)) * np.linspace(0.3, 1.5, 6)
    y = x @ rng.normal(size=(6, outputs)) + 1 + rng.normal(size=(samples, outputs))
    model = keras.Sequential(
        [keras.Input((6,), dtype="float64"), L.Dense(outputs, dtype="float64")]
    )
    solution = np.linalg.lstsq(np.c_[x, np.ones(samples)], y, rcond=None)[0]
    model.set_weights([solution[:6], solution[6]])
    model.compile("sgd", loss)
    return model, (x, y)


def half_sum(y, outputs):
    """The loss of the paper: half the squared error, summed over outputs."""
    return tf.reduce_sum((y - outputs) ** 2, 1) / 2


def mean_loss(model, data, loss):
    x, y = data
    if loss == "mse":
        return float(np.mean((np.asarray(model(x)) - y) ** 2))
    return float(np.mean(half_sum(y, np.asarray(model(x)))))


def predicted(pruned):
    return float(kpi.report(pruned).notes[0].rstrip(".").rpartition(" ")[2])


@pytest.mark.parametrize("loss", ["mse", half_sum])
def test_each_predicted_increase_is_the_real_one(loss):
    model, data = quadratic(loss=loss)
    before = mean_loss(model, data, loss)
    [score] = kpi.score(model, data, "obs").values()
    total = 0.0
    for count in range(1, 18):
        pruned = kpi.prune(model, data, "obs", sparsity=count / 18)
        real = mean_loss(pruned, data, loss) - before
        assert predicted(pruned) == pytest.approx(real, rel=1e-3)  # four digits
        # One more weight is gone, at the cost that its score says.
        step = np.sort(score.ravel())[count - 1]
        assert real - total <= step * (1 + 1e-6)
        if count == 1:
            assert real == pytest.approx(step, rel=1e-6)
        total = real


def test_increases_of_single_removals_are_exact_to_the_sixth_digit():
    """Diagonal inputs, so that no removal makes another one cheaper."""
    x = np.repeat(np.diag([1.0, 2.0, 3.0, 4.0]), 3, axis=0)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="float64"),
            L.Dense(2, use_bias=False, dtype="float64"),
        ]
    )
    model.compile("sgd", half_sum)
    y = np.asarray(model(x))
    [score] = kpi.score(model, (x, y), "obs").values()
    real = model.layers[0].kernel.numpy() ** 2 * np.diag(x.T @ x)[:, None] / 24
    np.testing.assert_allclose(score, real, rtol=1e-6)


def network_of(model, data, method):
    options = Options(
        sparsity=0.5,
        loss=None,
        allocation="global",
        batches="auto",
        samples_per_class=None,
        filters=None,
        seed=0,
        verbose=0,
    )
    return plan.make(model, data, method, options).network


@pytest.mark.parametrize("end", [None, "softmax", "sigmoid"])
def test_the_inverse_is_that_of_the_exact_matrix_and_its_down_dates_too(end):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="float64"),
            L.Dense(5, "tanh", dtype="float64"),
            L.Dense(1 if end == "sigmoid" else 3, end, dtype="float64"),
        ]
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4))
    y = rng.integers(0, 2 if end == "sigmoid" else 3, 40)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=end is None)
    if end == "sigmoid":
        loss, y = "binary_crossentropy", y[:, None].astype(float)
    model.compile("sgd", loss)
    method = kpi.methods.OBS(alpha=1e-4)
    network = network_of(model, (x, y), method)
    inverse, w = method._quadratic(network, network.weights)

    first, last = model.layers
    variables = [first.kernel, last.kernel, first.bias, last.bias]
    values = [v.value for v in variables]
    np.testing.assert_array_equal(w, np.concatenate([np.ravel(v) for v in values]))
    with tf.GradientTape() as tape:
        z = model(x)
        if end == "softmax":
            z = tf.math.log(z)
        elif end == "sigmoid":
            z = tf.math.log(z) - tf.math.log(1 - z)
    jacobian = tape.jacobian(z, values)
    j = np.concatenate([np.reshape(v, (*z.shape, -1)) for v in jacobian], 2)
    p = np.asarray(tf.sigmoid(z) if end == "sigmoid" else tf.nn.softmax(z))
    h = 1e-4 * np.eye(len(w))
    for row, jac in zip(p, j, strict=True):
        a = np.diag(row) - np.outer(row, row)
        h += jac.T @ a @ jac / len(x)
    np.testing.assert_allclose(inverse @ h, np.eye(len(w)), atol=1e-6)

    # The order of removal, with the matrix inverted anew after each.
    removable = len(np.ravel(values[0])) + len(np.ravel(values[1]))
    left, order = list(range(len(w))), []
    v = w.copy()
    for _ in range(removable):
        inv = np.linalg.inv(h[np.ix_(left, left)])
        cost = [
            v[q] ** 2 / inv[i, i] if q < removable else np.inf
            for i, q in enumerate(left)
        ]
        i = int(np.argmin(cost))
        v[left] -= v[left[i]] / inv[i, i] * inv[:, i]
        order.append(left.pop(i))
    scores = kpi.score(model, (x, y), method).values()
    found = np.concatenate([s.ravel() for s in scores])
    assert np.argsort(found, kind="stable").tolist() == order


def test_biases_are_moved_but_not_removed():
    model, data = quadratic()
    pruned = kpi.prune(model, data, "obs", sparsity=0.9)
    assert np.all(pruned.layers[0].bias.numpy() != model.layers[0].bias.numpy())
    [mask] = masks(pruned)
    kept = np.r_[mask, [[True] * 3]].astype(bool)
    x, y = data
    for output in range(3):  # it is the least squares solution of what is left
        columns = np.c_[x, np.ones(len(x))][:, kept[:, output]]
        expected = np.linalg.lstsq(columns, y[:, output], rcond=None)[0]
        inner = pruned.layers[0].layer
        found = np.r_[inner.kernel.numpy(), [inner.bias.numpy()]][:, output]
        np.testing.assert_allclose(found[kept[:, output]], expected, rtol=1e-5)


def test_sample_weights_count():
    model, (x, y) = quadratic()
    weights = np.arange(60) % 2.0
    odd = kpi.score(model, (x[1::2], y[1::2]), "obs")
    both = kpi.score(model, (x, y, weights), "obs")
    for a, b in zip(odd.values(), both.values(), strict=True):
        np.testing.assert_allclose(a / a.max(), b / b.max(), rtol=1e-5)


def test_batches_are_averaged():
    model, (x, y) = quadratic()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    a = kpi.score(model, data, "obs", batches=None)
    b = kpi.score(model, (x, y), "obs")
    for s, t in zip(a.values(), b.values(), strict=True):
        np.testing.assert_allclose(s, t, rtol=1e-6)


def test_iterations_compute_the_matrix_anew_and_end_near():
    model, data = quadratic()
    once = kpi.prune(model, data, "obs", sparsity=0.7)
    thrice = kpi.prune(model, data, kpi.methods.OBS(iterations=3), sparsity=0.7)
    # Of a quadratic loss the matrix is the same everywhere.
    np.testing.assert_allclose(once(data[0]), thrice(data[0]), rtol=1e-5)


def test_convolutions_and_normalization_move_together():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            L.Conv2D(3, 3),
            L.BatchNormalization(),
            L.ReLU(),
            L.Flatten(),
            L.Dense(2),
        ]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6, 6, 1)).astype("float32"), rng.integers(2, size=40)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruned = kpi.prune(model, (x, y), "obs", sparsity=0.5)
    gamma, made = model.layers[1].gamma, pruned.layers[1].gamma
    assert np.any(gamma.numpy() != made.numpy())
    other = kpi.prune(model, None, "magnitude", sparsity=0.5)
    before = np.asarray(model(x))
    changes = [np.square(np.asarray(p(x)) - before).mean() for p in (pruned, other)]
    assert changes[0] < changes[1]


def test_too_many_weights_are_refused_before_work(monkeypatch):
    model, data = quadratic()
    monkeypatch.setattr(checks.os, "sysconf", lambda name: 100)
    with pytest.raises(ValueError, match="of 21 weights.*Use method 'lobs'"):
        kpi.prune(model, data, "obs")


def test_wrong_alpha_is_refused():
    with pytest.raises(ValueError, match="Received: alpha=0"):
        kpi.methods.OBS(alpha=0)


def test_losses_without_curvature_are_refused():
    model, (x, y) = quadratic()
    with pytest.raises(ValueError, match="all sample weights are 0"):
        kpi.prune(model, (x, y, np.zeros(60)), "obs")
    with pytest.raises(ValueError, match="the loss is not linear"):
        kpi.prune(model, (x, y), "obs", loss="mae")
    x[3] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        kpi.prune(model, (x, y), "obs")


def test_recurrent_layers_run_one_sample_at_a_time():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 3)), L.SimpleRNN(2), L.Dense(1)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4, 3)).astype("float32"), rng.normal(size=(20, 1))
    pruned = kpi.prune(model, (x, y), "obs", sparsity=0.3)
    before, after = (np.asarray(m(x)) for m in (model, pruned))
    other = np.asarray(kpi.prune(model, None, "magnitude", sparsity=0.3)(x))
    assert np.square(after - before).mean() < np.square(other - before).mean()
