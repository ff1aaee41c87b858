"""Pruning and training under `tf.distribute.MirroredStrategy`, on virtual devices."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, masked_list, masks, mlp, net
from runs import mirrored

import keras_prune_init as kpi
from keras_prune_init.distribute import replicas


def batches(model, count):
    """So many batches, the last one smaller."""
    x, y = batch(model, 8 * count - 3)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


# Of each way of scoring one: by names, by values, by gradients, by their products, by a
# flow without data, on another graph, with what is done afterwards, by single samples,
# and with new weights.
@pytest.mark.parametrize(
    ("method", "count"),
    [
        (kpi.methods.Random(), 2),
        (kpi.methods.Magnitude(), 2),
        (kpi.methods.SNIP(), 4),
        (kpi.methods.GraSP(), 2),
        (kpi.methods.SynFlow(iterations=2), 2),
        (kpi.methods.Robust(), 2),
        (kpi.methods.OBD(curvature="fisher"), 2),
        (kpi.methods.Skeleton(), 2),
        (kpi.methods.LOBS(), 2),
    ],
    ids=lambda v: type(v).__name__,
)
def test_masks_are_those_of_a_single_device(method, count):
    model, _ = net()
    keras.backend.clear_session(free_memory=False)  # random goes by the layers' names
    with mirrored(count).scope():
        same = net()[0]
        same.set_weights(model.get_weights())
    # More batches than two replicas have turns for, and not a multiple of them.
    options = {"dataset": batches(model, 3), "batches": 3, "method": method}
    options["sparsity"] = 0.7
    expected, found = kpi.score(model, **options), kpi.score(same, **options)
    for a, b in zip(expected.values(), found.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6 * np.abs(a).max())
    new = kpi.prune_at_init(same, **options)
    alone = kpi.select(expected, 0.7).values()
    for one, other in zip(alone, masks(new), strict=True):
        np.testing.assert_array_equal(one, other)
    x = batch(model, 8)[0]
    outputs = kpi.prune_at_init(model, **options)(x)
    np.testing.assert_allclose(new(x), outputs, rtol=1e-4, atol=1e-4)


@functools.cache
def trained(count, layout="masked"):
    """Losses of ten steps, as their running mean, and the trained model."""
    scope = mirrored(count).scope() if count > 1 else contextlib.nullcontext()
    with scope:
        keras.utils.set_random_seed(1)
        model = mlp((32, 16), inputs=10)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, loss, jit_compile=False)
    x, y = batch(model, 160)
    data, options = batches(model, 3), {"batches": 3, "layout": layout}
    pruned = kpi.prune_at_init(model, data, sparsity=0.6, **options)
    losses = []
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(logs["loss"])
    )
    pruned.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[seen])
    return np.array(losses), pruned


@pytest.mark.parametrize(("count", "layout"), [(2, "masked"), (2, "compact")])
def test_losses_are_those_of_a_single_device_with_the_same_batches(count, layout):
    (one, a), (many, b) = trained(1), trained(count, layout)
    assert len(many) == 10
    np.testing.assert_allclose(many, one, atol=1e-4)
    b = kpi.to_layout(b, "masked")
    for layer in masked_list(b):
        assert not layer.layer.kernel.numpy()[layer.mask.numpy() == 0].any()
    x = batch(a, 30)[0]
    np.testing.assert_allclose(a.predict(x), b.predict(x), atol=1e-4)


@pytest.mark.parametrize("made", ["inside", "outside"])
@pytest.mark.parametrize("pruned", ["inside", "outside"])
def test_pruned_model_belongs_to_the_strategy_wherever_it_was_pruned(made, pruned):
    strategy = mirrored(2)

    def place(where):
        return strategy.scope() if where == "inside" else contextlib.nullcontext()

    with place(made):
        model = mlp()
    with place(pruned):
        new = kpi.prune_at_init(model, batch(model), sparsity=0.5)
    alone = made == pruned == "outside"
    assert new.distribute_strategy.num_replicas_in_sync == (1 if alone else 2)
    components = new.layers[0].mask.value
    assert isinstance(components, tf.distribute.DistributedValues) is not alone
    assert (
        kpi.report(new).kept == kpi.report(new).total // 2 + kpi.report(new).total % 2
    )


def test_pruning_inside_a_replica_is_refused():
    strategy = mirrored(2)
    with strategy.scope():
        model = mlp()
    with pytest.raises(ValueError, match="strategy.run. Call it eagerly"):
        strategy.run(lambda: kpi.prune_at_init(model, None, "magnitude"))


def test_pruning_in_the_scope_of_another_strategy_is_refused():
    with mirrored(2).scope():
        model = mlp()
    with mirrored(4).scope(), pytest.raises(RuntimeError, match="Leave that scope"):
        kpi.prune_at_init(model, None, "magnitude")


def test_dropout_and_batch_normalization_train_and_statistics_are_averaged():
    with mirrored(2).scope():
        layers = [keras.Input((5,)), L.Dense(16), L.BatchNormalization(momentum=0.5)]
        layers += [L.ReLU(), L.Dropout(0.2)]
        model = keras.Sequential([*layers, L.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    x, y = batch(model, 64)
    model = kpi.prune_at_init(model, (x, y), sparsity=0.5, verbose=0)
    history = model.fit(x, y, batch_size=16, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    masked = masks(model)
    norm = model.layers[1]
    parts = [
        [[v.numpy() for v in variable.value.values], variable]
        for variable in (norm.moving_mean, norm.moving_variance)
    ]
    replicas.average_statistics(model)
    for before, variable in parts:
        # Keras leaves them apart; when it does not, `average_statistics` can go.
        assert np.abs(before[0] - before[1]).max() > 1e-3
        for component in variable.value.values:
            np.testing.assert_allclose(component, np.mean(before, axis=0), rtol=1e-5)
    for one, other in zip(masked, masks(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_is_pruned_twice_stays_in_its_strategy():
    strategy = mirrored(2)
    with strategy.scope():
        model = mlp()
    once = kpi.prune(model, None, "magnitude", sparsity=0.5)
    assert kpi.prune(once, None, "magnitude").distribute_strategy is strategy
