"""A pruned model trains like any other, and what was removed stays 0."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, masked_list

import keras_prune_init as kpi

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-2),
    "adam": lambda: keras.optimizers.Adam(1e-2, weight_decay=1e-2),
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1),
    "lion": lambda: keras.optimizers.Lion(1e-3, weight_decay=0.1),
}


def model_and_data():
    decay = {"kernel_regularizer": keras.regularizers.L1L2(1e-3, 1e-3)}
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(8, 3, activation="relu", **decay),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dense(
                16,
                "relu",
                kernel_regularizer=keras.regularizers.OrthogonalRegularizer(),
            ),
            L.Dense(4),
        ]
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8, 8, 1)).astype("float32")
    return model, x, rng.integers(0, 4, 64)


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def kernels(pruned):
    return [v.layer.kernel.numpy() for v in masked_list(pruned)]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion"])
def test_removed_weights_stay_exactly_zero(name):
    model, x, y = model_and_data()
    pruned = kpi.prune_at_init(model, (x, y), "snip", sparsity=0.9)
    before = kernels(pruned)
    pruned.compile(OPTIMIZERS[name](), LOSS)
    pruned.fit(x, y, batch_size=16, epochs=2, verbose=0)
    plain = {v.name: v for v in kpi.strip(pruned).layers}
    for layer, old in zip(masked_list(pruned), before, strict=True):
        removed = layer.mask.numpy() == 0
        new = layer.layer.kernel.numpy()
        assert removed.any()
        assert (new[removed] == 0).all()
        assert (plain[layer.name].kernel.numpy()[removed] == 0).all()
        if (~removed).any():
            assert (new[~removed] != old[~removed]).any()


def test_mixed_precision_training():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, x, y = model_and_data()
    finally:
        keras.config.set_dtype_policy("float32")
    pruned = kpi.prune_at_init(model, (x, y), "grasp", sparsity=0.8)
    pruned.compile(OPTIMIZERS["sgd"](), LOSS)
    pruned.fit(x, y, batch_size=16, epochs=2, verbose=0)
    for layer in masked_list(pruned):
        assert (layer.layer.kernel.numpy()[layer.mask.numpy() == 0] == 0).all()
    assert pruned.layers[0].compute_dtype == "float16"


def test_a_plain_gradient_tape_loop():
    model, x, y = model_and_data()
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.9)
    optimizer = keras.optimizers.Adam(1e-2)
    losses = []
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = LOSS(y, pruned(x, training=True)) + sum(pruned.losses)
        variables = pruned.trainable_variables
        optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    for layer in masked_list(pruned):
        assert (layer.layer.kernel.numpy()[layer.mask.numpy() == 0] == 0).all()


def test_a_compiled_model_comes_back_compiled():
    model, x, y = model_and_data()

    def my_loss(y, outputs):
        return keras.losses.sparse_categorical_crossentropy(
            y, outputs, from_logits=True
        )

    model.compile(OPTIMIZERS["sgd"](), my_loss, metrics=["accuracy"])
    pruned = kpi.prune_at_init(model, (x, y), "snip", sparsity=0.9)
    assert pruned.compiled and pruned.loss is my_loss
    assert pruned.optimizer is not model.optimizer
    history = pruned.fit(x, y, epochs=1, verbose=0).history
    assert set(history) == {"loss", "accuracy"}


def test_optimizer_state_of_a_saved_model_goes_on(tmp_path, eagerly):
    model, x, y = model_and_data()
    pruned = kpi.prune_at_init(model, (x, y), "snip", sparsity=0.9)
    pruned.compile(OPTIMIZERS["adam"](), LOSS)
    pruned.fit(x, y, epochs=1, verbose=0, shuffle=False)
    pruned.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for m in (pruned, loaded):
        m.fit(x, y, epochs=1, verbose=0, shuffle=False)
    for a, b in zip(pruned.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
