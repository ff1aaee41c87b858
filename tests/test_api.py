"""`prune_at_init` and `score`: what they take, and what they leave alone."""

import gc
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, masked_list, mlp, subclassed, transformer

import keras_prune_init as kpi

METHODS = ("random", "magnitude", "snip", "grasp", kpi.methods.SynFlow(iterations=2))


def norm_net():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(4, 3),
            L.BatchNormalization(),
            L.ReLU(),
            L.Dropout(0.5),
            L.GlobalAveragePooling2D(),
            L.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)
    model.fit(*batch(model), verbose=0)  # an optimizer with state
    return model


def draws():
    return (
        keras.random.normal((3,)).numpy(),
        tf.random.normal((3,)).numpy(),
        L.Dense(2).kernel_initializer((2, 2)).numpy(),
        np.random.rand(2),
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_call_leaves_everything_as_it_was_and_the_next_one_makes_the_same(method):
    model = norm_net()
    data = batch(model)
    state = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    attributes = [set(vars(v)) for v in [model, *model.layers]]
    keras.utils.set_random_seed(3)
    expected = draws()
    keras.utils.set_random_seed(3)
    seeds = random.getstate(), np.random.get_state()[1].copy()
    kpi.score(model, data, method, verbose=0)
    digests = [
        kpi.report(kpi.prune_at_init(model, data, method, verbose=0)).digest
        for _ in range(2)
    ]
    assert digests[0] == digests[1]
    for a, b in zip(state, [*model.variables, *model.optimizer.variables], strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    assert [set(vars(v)) for v in [model, *model.layers]] == attributes
    assert random.getstate() == seeds[0]
    np.testing.assert_array_equal(np.random.get_state()[1], seeds[1])
    # The random streams of Keras and TensorFlow go on, too.
    for a, b in zip(draws(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_the_pruned_model_leaves_the_given_one(eagerly):
    model = keras.Sequential(
        [keras.Input((5,)), L.Embedding(20, 4), L.Flatten(), L.Dense(3)]
    )
    rng = np.random.default_rng(0)
    data = rng.integers(0, 20, (16, 5)), rng.integers(0, 3, 16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5, verbose=0)
    before = [v.numpy() for v in model.variables]
    for optimizer in ("sgd", "adam"):
        pruned.compile(optimizer, loss)
        start = [v.numpy() for v in pruned.trainable_variables]
        pruned.fit(*data, verbose=0)
        for a, v in zip(start, pruned.trainable_variables, strict=True):
            assert np.any(a != v.numpy())
    for a, v in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, v.numpy())


@pytest.mark.parametrize("frozen", [False, True])
def test_the_garbage_collector_is_as_it_was(frozen):
    model = mlp()
    try:
        if frozen:
            gc.freeze()
        count = gc.get_freeze_count()
        with pytest.raises(ValueError, match="sparsity"):
            kpi.prune_at_init(model, sparsity=2)
        kpi.prune_at_init(model, None, "random", verbose=0)
        assert (gc.get_freeze_count() > 0) == frozen == (count > 0)
    finally:
        gc.unfreeze()


def test_keys_are_the_paths_of_the_given_model():
    model = transformer()
    scores = kpi.score(model, None, "magnitude")
    variables = {v.path: v for v in model.variables}
    for path, s in scores.items():
        np.testing.assert_array_equal(s, np.abs(variables[path].numpy()))


def test_equal_paths_of_nested_models_are_told_apart():
    def inner():
        x = keras.Input((4,))
        return keras.Model(x, L.Dense(4, name="same")(x))

    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(2, name="same")(inner()(inner()(x))))
    scores = kpi.score(model, None, "magnitude")
    assert len(scores) == 3 and sum(s.size for s in scores.values()) == 40
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5)
    assert kpi.report(pruned).kept == 20


def test_filters():
    model = mlp()
    names = [v.name for v in model.layers]
    for filters in (names[1], [f"^{names[1]}$"], lambda layer: layer.name == names[1]):
        pruned = kpi.prune_at_init(model, None, "random", filters=filters)
        assert [v.name for v in masked_list(pruned)] == [names[1]]
        report = kpi.report(pruned)
        assert {p: "filters" in r for p, r in report.skipped} == {
            v.path: True for v in (model.layers[0], model.layers[2])
        }


def test_datasets_of_every_kind_give_the_same():
    model = mlp()
    x, y = batch(model, 128)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return x, y

    expected = kpi.score(model, (x, y), "snip")
    for dataset in (
        tf.data.Dataset.from_tensor_slices((x, y)).batch(128),
        Batches(),
        (x, keras.utils.to_categorical(y, 3)),
    ):
        for path, s in kpi.score(model, dataset, "snip").items():
            np.testing.assert_allclose(s, expected[path], rtol=1e-4, atol=1e-8)


def test_samples_count_by_their_weights():
    model = mlp()
    x, y = batch(model, 40)
    weights = np.random.default_rng(1).uniform(0, 3, 40).astype("float32")
    weights[::4] = 0
    kernels = [v.kernel for v in model.layers]
    with tf.GradientTape() as tape:
        z = tf.nn.log_softmax(model(x))
        loss = -tf.reduce_mean(weights * tf.gather(z, y, batch_dims=1))
    flows = tape.gradient(loss, kernels)
    expected = [np.abs(k * g) for k, g in zip(kernels, flows, strict=True)]
    plain = kpi.score(model, (x, y), "snip").values()
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(40)
    for data in ((x, y, weights), dataset):
        found = kpi.score(model, data, "snip").values()
        for s, t, without in zip(found, expected, plain, strict=True):
            np.testing.assert_allclose(s, t, rtol=1e-4, atol=1e-7)
            assert np.abs(s - without).max() > 0.05 * without.max()
    # Those of weight 0 could be anything.
    other = np.where((weights == 0)[:, None], x + 1, x)
    for method in ("snip", "grasp"):
        a, b = (kpi.score(model, (v, y, weights), method) for v in (x, other))
        for path in a:
            np.testing.assert_allclose(b[path], a[path], rtol=1e-5, atol=1e-8)


def test_several_inputs_and_outputs_and_loss_weights():
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    x = L.Concatenate()([a, b])
    outputs = {"u": L.Dense(3, name="u")(x), "v": L.Dense(1, name="v")(x)}
    model = keras.Model({"a": a, "b": b}, outputs)
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(6, 3)), "b": rng.normal(size=(6, 4))}
    y = {"u": rng.integers(0, 3, 6), "v": rng.normal(size=(6, 1))}
    losses = {"u": keras.losses.SparseCategoricalCrossentropy(True), "v": "mse"}
    model.compile("sgd", losses, loss_weights={"u": 1.0, "v": 0.0})
    scores = {p.split("/")[0]: s for p, s in kpi.score(model, (x, y)).items()}
    assert scores["u"].max() > 0 and scores["v"].max() == 0
    scores = kpi.score(model, (x, y), loss={"u": losses["u"], "v": "mse"})
    assert all(s.max() > 0 for s in scores.values())


def test_a_model_with_its_own_compute_loss():
    @keras.saving.register_keras_serializable("tests")
    class Own(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, **kwargs):
            return keras.ops.mean(y_pred[:, :1] ** 2)

    x = keras.Input((4,))
    model = Own(x, L.Dense(3)(x))
    (scores,) = kpi.score(model, batch(model)).values()
    assert (scores[:, 0] > 0).all() and (scores[:, 1:] == 0).all()


def test_balanced_scoring_batches():
    model = mlp()
    rng = np.random.default_rng(0)
    x, y = (
        rng.normal(size=(300, 5)).astype("float32"),
        rng.permutation(np.arange(300) % 3),
    )
    rows = np.sort(np.concatenate([np.flatnonzero(y == c)[:4] for c in range(3)]))
    expected = kpi.score(model, (x[rows], y[rows]))
    for path, s in kpi.score(model, (x, y), samples_per_class=4).items():
        np.testing.assert_allclose(s, expected[path], rtol=1e-5, atol=1e-9)


def test_signed_gradients_are_summed_over_batches():
    model = mlp()
    x, y = batch(model, 256)
    whole = kpi.score(model, (x, y), batches=2)
    parts = [kpi.score(model, (x[i : i + 128], y[i : i + 128])) for i in (0, 128)]
    for path, s in whole.items():
        upper = parts[0][path] + parts[1][path]
        assert (s <= upper + 1e-6).all() and (s < 0.99 * upper).any()


def test_subclassed_data_methods_need_no_input_layer():
    model = subclassed()
    x = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    for method in METHODS[2:]:
        pruned = kpi.prune_at_init(
            model, (x, np.arange(6) % 3), method, sparsity=0.5, verbose=0
        )
        assert kpi.report(pruned).effective > 0
