"""Compression-aware training lowers ranks by proximal steps, wherever it runs."""

import keras
import numpy as np
import pytest
from helpers import L, batch, mlp
from runs import assert_replicas_equal, mirrored

import keras_prune_init as kpi
from keras_prune_init.factorize import matrices, proximal

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)


def lowered(matrix, price):
    """The step of the nuclear norm by a whole SVD."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left * np.maximum(values - price, 0)) @ right, int((values > price).sum())


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 3)])
def test_nuclear_step_meets_the_condition_of_the_minimum(shape):
    """X minimizes if (A - X) / price is a subgradient of the nuclear norm at X."""
    matrix, price = RNG.normal(size=shape), 0.9
    x, rank = proximal.nuclear(matrix, price)
    subgradient = (matrix - x) / price
    left, _, right = np.linalg.svd(x)
    left, right = left[:, :rank], right[:rank]
    assert 0 < rank
    # U V' on the space of X, and elsewhere a matrix of norm 1 at most.
    np.testing.assert_allclose(left.T @ subgradient, right, atol=1e-10)
    np.testing.assert_allclose(subgradient @ right.T, left, atol=1e-10)
    assert np.linalg.norm(subgradient, 2) <= 1 + 1e-10


def test_nuclear_step_is_as_good_as_any_near_it():
    matrix, price = RNG.normal(size=(4, 3)), 0.7

    def value(x):
        return np.sum((x - matrix) ** 2) / 2 + price * np.linalg.norm(x, "nuc")

    x, _ = proximal.nuclear(matrix, price)
    for size in (1e-3, 1e-1, 1):
        others = x + size * RNG.normal(size=(500, 4, 3))
        assert value(x) < min(map(value, others))


@pytest.mark.parametrize("price", [0.0, 0.1, 100.0])
def test_nuclear_step_takes_the_price_from_each_singular_value(price):
    matrix = RNG.normal(size=(7, 5))
    x, rank = proximal.nuclear(matrix, price)
    before, after = (np.linalg.svd(v, compute_uv=False) for v in (matrix, x))
    np.testing.assert_allclose(after, np.maximum(before - price, 0), atol=1e-12)
    assert rank == (0 if price == 100 else 5)
    assert proximal.nuclear(np.zeros((3, 2)), price)[1] == 0


@pytest.mark.parametrize("shape", [(300, 160), (160, 300), (200, 200)])
def test_random_projections_find_what_a_whole_svd_finds(shape):
    few = RNG.normal(size=(shape[0], 5)) @ RNG.normal(size=(5, shape[1]))
    matrix = few + RNG.normal(size=shape)
    price = np.sqrt(shape[0]) + np.sqrt(shape[1])  # that of the noise
    expected, rank = lowered(matrix, price)
    found, same = proximal.nuclear(matrix, price, large=100)
    assert rank == same == 5
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_random_projections_give_way_where_the_rank_is_high():
    matrix = RNG.normal(size=(160, 160))
    expected, rank = lowered(matrix, 1.0)
    found, same = proximal.nuclear(matrix, 1.0, large=100)
    assert rank == same > 100
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_sparse_group_step_meets_the_condition_of_the_minimum():
    matrix = RNG.normal(size=(6, 40))
    group, sparse = 0.5, 0.4
    x = proximal.sparse_group(matrix, group, sparse)
    empty = ~x.any(axis=0)
    assert 0 < empty.sum() < 40 and (x[:, ~empty] == 0).any()
    rest, price = matrix - x, group * np.sqrt(6)
    # Of other columns, the rest is the gradient of the norm plus a sign, or less at 0.
    for column, left in zip(x.T[~empty], rest.T[~empty], strict=True):
        signs = left - price * column / np.linalg.norm(column)
        some = column != 0
        np.testing.assert_allclose(signs[some], sparse * np.sign(column[some]))
        assert (np.abs(signs[~some]) <= sparse + 1e-12).all()
    # Of empty ones, what is beyond the price of weights is within that of the group.
    beyond = np.maximum(np.abs(matrix[:, empty]) - sparse, 0)
    assert (np.linalg.norm(beyond, axis=0) <= price).all()


def small_net(**options):
    layers = [L.Conv2D(6, 3, activation="relu"), L.Flatten(), L.Dense(3)]
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, **options)
    return model


def test_after_an_epoch_a_model_is_the_trained_one_with_lowered_kernels():
    keras.utils.set_random_seed(0)
    plain = small_net()
    model = keras.models.clone_model(plain)
    model.set_weights(plain.get_weights())
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    x, y = batch(model, 24)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    plain.fit(x, y, **options)
    callback = kpi.callbacks.CompressionAware(0.3, group=0.01, sparse=0.01)
    history = model.fit(
        x, y, **options, callbacks=[callback], validation_data=(x, y)
    ).history
    for one, other in zip(plain.layers, model.layers, strict=True):
        if not one.weights:
            continue
        kernel = one.kernel.numpy().astype(float)
        matrix, rank = lowered(kernel.reshape(-1, kernel.shape[-1]), 0.3)
        assert callback.ranks[other.kernel.path] == rank
        matrix = np.sign(matrix) * np.maximum(np.abs(matrix) - 0.01, 0)
        norms = np.linalg.norm(matrix, axis=0)
        matrix = matrix * np.maximum(0, 1 - 0.01 * np.sqrt(len(matrix)) / norms)
        np.testing.assert_allclose(
            other.kernel, matrix.reshape(kernel.shape), atol=1e-5
        )
        np.testing.assert_allclose(other.bias, one.bias, atol=1e-6)
    # The optimizer's state is untouched, and what is validated is what is left.
    for a, b in zip(plain.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(
        history["val_loss"], model.evaluate(x, y, verbose=0), rtol=1e-5
    )


def test_ranks_fall_and_factorize_makes_the_model_smaller_without_a_change():
    keras.utils.set_random_seed(0)
    model = mlp((32, 32), inputs=16)
    model.compile(keras.optimizers.Adam(1e-2), LOSS)
    x, y = batch(model, 64)
    callback = kpi.callbacks.CompressionAware(0.15)
    model.fit(x, y, epochs=8, verbose=0, callbacks=[callback])
    report = kpi.factorize_report(model, 1.0)
    assert {row.path: row.rank for row in report.layers} == callback.ranks
    assert callback.ranks[model.layers[1].kernel.path] < 16
    small = kpi.factorize(model, 1.0)
    assert small.count_params() < 0.8 * model.count_params()
    np.testing.assert_allclose(small(x), model(x), atol=1e-4)


@pytest.mark.parametrize("every", ["epoch", 5])
def test_a_stopped_run_goes_on_to_equal_weights(every, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(folder, *more):
        keras.utils.set_random_seed(3)
        model = small_net()
        callbacks = [
            kpi.callbacks.CompressionAware(0.1, group=0.01, every=every),
            keras.callbacks.BackupAndRestore(tmp_path / folder),
            *more,
        ]
        options = {"batch_size": 8, "epochs": 4, "shuffle": False, "verbose": 0}
        model.fit(*batch(model, 24), **options, callbacks=callbacks)
        return model

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", Stop())
    for a, b in zip(whole.weights, run("stopped").weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("steps", [1, 3])
def test_every_counts_steps_of_the_optimizer(steps):
    seen = []

    class Counted(kpi.callbacks.CompressionAware):
        def _lower(self):
            seen.append(int(self.model.optimizer.iterations))
            super()._lower()

    model = small_net(steps_per_execution=steps)
    callback = Counted(0.01, every=3)
    options = {"batch_size": 4, "verbose": 0, "callbacks": [callback]}
    model.fit(*batch(model, 24), epochs=2, **options)
    assert seen == [3, 6, 9, 12]


def test_replicas_train_what_one_device_trains():
    def trained():
        keras.utils.set_random_seed(1)
        model = mlp((16, 8), inputs=6)
        model.compile(keras.optimizers.SGD(0.1), LOSS)
        callback = kpi.callbacks.CompressionAware(0.2)
        options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
        model.fit(*batch(model, 32), **options, callbacks=[callback])
        return model, callback.ranks

    one, ranks = trained()
    with mirrored(2).scope():
        many, same = trained()
    assert [*ranks.values()] == [*same.values()] and min(ranks.values()) < 6
    for a, b in zip(one.weights, many.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert_replicas_equal(many.weights)


def test_mixed_precision_and_frozen_layers():
    layers = [L.Dense(8, "relu", name="frozen", trainable=False), L.Dense(3)]
    for layer in layers:
        layer.dtype_policy = "mixed_float16"
    model = keras.Sequential([keras.Input((6,)), *layers])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(optimizer, LOSS)
    before = layers[0].kernel.numpy()
    callback = kpi.callbacks.CompressionAware(0.5, every=1)
    model.fit(*batch(model, 8), epochs=5, verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(layers[0].kernel, before)
    assert [*callback.ranks] == [layers[1].kernel.path]
    assert callback.ranks[layers[1].kernel.path] < 3
    frozen = kpi.callbacks.CompressionAware(0.5, filters="frozen")
    with pytest.raises(ValueError, match="frozen/kernel, not trainable"):
        model.fit(*batch(model, 8), verbose=0, callbacks=[frozen])


def test_it_lowers_the_matrix_that_factorize_takes_apart():
    model = small_net()
    callback = kpi.callbacks.CompressionAware(0.25, form="separable", filters="conv")
    model.fit(*batch(model, 8), epochs=3, verbose=0, callbacks=[callback])
    [row] = kpi.factorize_report(model, 1.0, form="separable", filters="conv").layers
    assert callback.ranks == {row.path: row.rank}
    assert row.rank < row.full_rank
    kernel = model.layers[0].kernel.numpy()
    assert np.linalg.matrix_rank(matrices.to_matrix(kernel, "pointwise")) > row.rank


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of them must be above 0"),
        ({"nuclear": -1}, "nuclear=-1"),
        ({"nuclear": 1, "group": float("nan")}, "group=nan"),
        ({"nuclear": 1, "every": 0}, "`every` must be 'epoch' or a whole number"),
        ({"nuclear": 1, "every": "step"}, "every='step'"),
        ({"nuclear": 1, "form": "other"}, "`form` must be one of"),
        ({"nuclear": 1, "filters": "("}, "regular expression that Python can read"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kpi.callbacks.CompressionAware(**options)


def test_pruned_models_are_refused_before_training_and_nan_in_it():
    model = small_net()
    pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.5)
    pruned.compile("sgd", LOSS)
    before = pruned.get_weights()
    callback = kpi.callbacks.CompressionAware(0.1)
    x, y = batch(model, 8)
    with pytest.raises(ValueError, match="`CompressionAware` takes a model without"):
        pruned.fit(x, y, verbose=0, callbacks=[callback])
    for a, b in zip(before, pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        model.fit(x * np.nan, y, verbose=0, callbacks=[callback])
