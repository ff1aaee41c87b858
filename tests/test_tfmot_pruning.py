"""Models of Keras 2 with our masks in tfmot's wrappers.

What tfmot's own tests ask of wrappers, stripping and saving is asked of our models.

- prune_test: which layers are wrapped, reused ones once, layers of users, none twice;
  the state of building, JSON; training needs the callback, inference does not; the
  config after stripping.
- prune_integration_test: sparsity 0 and 0.999, equal inference before training, single
  layers of all types, recurrent cells, embeddings, nested models, weights in both
  formats, checkpoints, stopping and going on.
- pruning_wrapper_test: saved wrappers. pruning_callbacks_test: steps, own loops.

Schedules, block pooling, policies and PruningSummaries (which needs TensorBoard) do not
apply, because masks stay. Layers that Keras 3 does not have are refused.
"""

import helpers
import keras
import keras2_models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from runs import mirrored

import keras_prune_init as kpi

K2 = tf_keras
sparsity = tfmot.sparsity.keras
WRAPPER = "PruneLowMagnitude"


def data(model, count=32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, model.output_shape[-1], count)


def pruned_cnn(method="snip", **options):
    model = keras2_models.compiled(keras2_models.cnn(K2), K2)
    return kpi.tfmot.prune_at_init(model, data(model), method, sparsity=0.8, **options)


def wrappers_of(model):
    for layer in model.layers:
        if isinstance(layer, K2.Model):
            yield from wrappers_of(layer)
        elif type(layer).__name__ == WRAPPER:
            yield layer


def masks(model):
    return [m.numpy() for v in wrappers_of(model) for _, m, _ in v.pruning_vars]


def kernels(model):
    return [w.numpy() for v in wrappers_of(model) for w, _, _ in v.pruning_vars]


def fit(model, **options):
    x, y = data(model)
    callback = sparsity.UpdatePruningStep()
    return model.fit(x, y, verbose=0, callbacks=[callback], **options)


def zeros_where_removed(model):
    pairs = zip(masks(model), kernels(model), strict=True)
    return all(not np.any(w[m == 0]) for m, w in pairs)


# What is scored


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "magnitude", "random"])
def test_masks_are_those_of_the_keras_3_model(method):
    model = keras2_models.compiled(keras2_models.cnn(K2), K2)
    chosen = kpi.tfmot.prune_at_init(model, data(model), method, sparsity=0.8)
    # tfmot has no wrapper for depthwise kernels.
    twin = kpi.prune_at_init(
        kpi.tfmot.to_keras3(model),
        data(model),
        method,
        sparsity=0.8,
        filters=lambda layer: not isinstance(layer, keras.layers.DepthwiseConv2D),
    )
    expected = [v.kept_mask("kernel") for v in helpers.masked_list(twin)]
    found = masks(chosen)
    assert len(found) == 3
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    total = sum(m.size for m in found)
    assert sum(int(m.sum()) for m in found) == total - int(0.8 * total)


@pytest.mark.parametrize("method", ["lobs", "obs"])
def test_weights_and_biases_that_a_method_moves_come_along(method):
    model = keras2_models.compiled(keras2_models.cnn(K2), K2)
    pruned = kpi.tfmot.prune_at_init(model, data(model), method, sparsity=0.5)
    pairs = zip(model.trainable_weights, pruned.trainable_weights, strict=True)
    biases = [(a.numpy(), b.numpy()) for a, b in pairs if len(a.shape) == 1]
    assert any(np.any(a != b) for a, b in biases)
    assert zeros_where_removed(pruned)  # and that outputs agree was checked


def test_scores_are_gradients_of_the_keras_2_model():
    model = keras2_models.compiled(keras2_models.cnn(K2), K2)
    x, y = data(model)
    scores = kpi.score(kpi.tfmot.to_keras3(model), (x, y), "snip")
    weights = [w for w in model.trainable_weights if len(w.shape) > 1]
    with tf.GradientTape() as tape:
        loss = model.compiled_loss(tf.constant(y), model(x, training=True))
    gradients = tape.gradient(loss, weights)
    for score, w, g in zip(scores.values(), weights, gradients, strict=True):
        expected = np.abs(w.numpy() * g.numpy())
        np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-5 * score.max())


@pytest.mark.parametrize(
    "kind",
    ["recurrent", "cells", "attention", "shared", "nested", "convolutions"],
)
def test_kinds_of_models(kind):
    model = getattr(keras2_models, kind)(K2)
    before = model.get_weights()
    pruned = kpi.tfmot.prune_at_init(
        model, method="magnitude", sparsity=0.6, allocation="uniform"
    )
    assert all(map(np.array_equal, before, model.get_weights()))
    assert any(wrappers_of(pruned)) and zeros_where_removed(pruned)
    removed = [1 - m.mean() for m in masks(pruned)]
    assert removed == pytest.approx([0.6] * len(removed), abs=0.1)
    stripped = sparsity.strip_pruning(pruned)
    assert not any(wrappers_of(stripped))
    assert [v.name for v in stripped.layers] == [v.name for v in model.layers]


def test_n_of_m_and_filters():
    model = keras2_models.compiled(keras2_models.cnn(K2), K2)
    pruned = kpi.tfmot.prune_at_init(
        model,
        method="magnitude",
        what="2:4",
        sparsity=0.5,
        filters=["dense", "conv2d_1"],
    )
    assert [m.shape for m in masks(pruned)] == [(1, 1, 8, 8), (128, 5)]
    for mask in masks(pruned):
        groups = mask.reshape(-1, 4, mask.shape[-1])
        assert (groups.sum(1) == 2).all()


def test_a_method_that_rescales_multiplies_the_weights():
    model = kpi.models.mlp((4,), classes=2, depth=10, width=16, init="eoc")
    old = kpi.tfmot.from_keras3(model)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    loss = K2.losses.SparseCategoricalCrossentropy(from_logits=True)
    y = np.arange(16) % 2
    pruned = kpi.tfmot.prune_at_init(old, (x, y), "robust", sparsity=0.8, loss=loss)
    twin = kpi.prune_at_init(model, (x, y), "robust", sparsity=0.8)
    layers = helpers.masked_list(twin)
    assert all(np.any(np.asarray(v.scales["kernel"]) != 1) for v in layers[1:-1])
    for found, layer in zip(kernels(pruned), layers, strict=True):
        expected = np.asarray(layer.masked_kernel("kernel"))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_sequence_and_a_loss_of_keras_2_are_taken():
    model = keras2_models.cnn(K2)
    x, y = data(model)

    class Batches(K2.utils.Sequence):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return x[i * 16 : i * 16 + 16], y[i * 16 : i * 16 + 16]

    loss = K2.losses.SparseCategoricalCrossentropy(from_logits=True)
    a = kpi.tfmot.prune_at_init(model, Batches(), loss=loss, batches=2)
    b = kpi.tfmot.prune_at_init(
        model,
        tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
        loss=loss,
        batches=2,
    )
    assert all(map(np.array_equal, masks(a), masks(b)))
    assert not getattr(a, "optimizer", None)


def test_a_layer_that_is_used_twice_is_wrapped_once():
    pruned = kpi.tfmot.prune_at_init(keras2_models.shared(K2), method="magnitude")
    names = [v.layer.name for v in wrappers_of(pruned)]
    assert len(names) == 2 and len(set(names)) == 2


def single_layers():
    L = K2.layers
    yield from [(L.Dense(4), (6,)), (L.Conv1D(4, 2), (6, 3)), (L.Embedding(9, 4), (5,))]
    yield from [(L.Conv2D(4, 2), (4, 6, 2)), (L.Conv3D(4, 2), (4, 4, 4, 2))]
    yield L.Conv2DTranspose(4, 2), (4, 4, 2)
    yield from [(L.Conv3DTranspose(4, 2), (3, 3, 3, 2)), (L.SimpleRNN(4), (3, 4))]
    yield from [(L.SeparableConv1D(4, 2), (6, 3)), (L.SeparableConv2D(4, 2), (4, 4, 2))]
    yield from [(L.LSTM(4), (3, 4)), (L.GRU(4), (3, 4))]


LAYERS = {type(layer).__name__: (layer, shape) for layer, shape in single_layers()}


@pytest.mark.parametrize("name", LAYERS)
def test_each_type_of_layer_trains_with_its_masks(name):
    layer, shape = LAYERS[name]
    layers = [type(layer).from_config(layer.get_config()), K2.layers.Flatten()]
    whole = "int32" if name == "Embedding" else "float32"
    layers += [K2.layers.Dense(3, name="out")]
    model = K2.Sequential([K2.Input(shape, dtype=whole), *layers])
    pruned = kpi.tfmot.prune_at_init(
        keras2_models.compiled(model, K2),
        method="magnitude",
        sparsity=0.5,
        allocation="uniform",
        filters=layer.name,
    )
    before = masks(pruned)
    assert before and sum(m.sum() for m in before) == sum(m.size for m in before) / 2
    x = np.random.default_rng(0).integers(0, 9, (16, *shape)).astype(whole)
    callback = sparsity.UpdatePruningStep()
    pruned.fit(x, np.arange(16) % 3, verbose=0, callbacks=[callback])
    assert all(map(np.array_equal, before, masks(pruned)))
    assert zeros_where_removed(pruned)
    stripped = sparsity.strip_pruning(pruned)
    np.testing.assert_allclose(stripped(x), pruned(x, training=False), atol=1e-6)


def test_layers_of_users_with_prunable_weights_are_wrapped():
    class Scaled(K2.layers.Dense, sparsity.PrunableLayer):
        def call(self, x):
            return 2 * super().call(x)

        def get_prunable_weights(self):
            return [self.kernel]

    class Scaled3(keras.layers.Dense):
        def call(self, x):
            return 2 * super().call(x)

    layers = [Scaled(8, name="mine"), K2.layers.Dense(2)]
    model = K2.Sequential([K2.Input((4,)), *layers])
    pruned = kpi.tfmot.prune_at_init(
        model, method="magnitude", sparsity=0.5, custom_objects={"Scaled": Scaled3}
    )
    assert [v.layer.name for v in wrappers_of(pruned)][0] == "mine"
    assert sum(m.sum() for m in masks(pruned)) == 24
    assert type(pruned.layers[0].layer) is Scaled


def test_extreme_sparsities():
    model = keras2_models.compiled(keras2_models.cnn(K2), K2)
    x, y = data(model)
    whole = kpi.tfmot.prune_at_init(model, (x, y), sparsity=0.0)
    for each, callbacks in ((model, []), (whole, [sparsity.UpdatePruningStep()])):
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
    pairs = zip(
        model.get_weights(), sparsity.strip_pruning(whole).get_weights(), strict=True
    )
    assert all(np.allclose(a, b, atol=1e-6) for a, b in pairs)
    few = kpi.tfmot.prune_at_init(model, (x, y), sparsity=0.999)
    total = sum(m.size for m in masks(few))
    assert sum(m.sum() for m in masks(few)) == total - int(0.999 * total)
    fit(few)
    assert sum((w != 0).sum() for w in kernels(few)) <= total - int(0.999 * total)


# Training


def test_masks_stay_through_500_steps_of_adam_with_decay():
    model = keras2_models.compiled(keras2_models.cnn(K2), K2, weight_decay=1e-2)
    pruned = kpi.tfmot.prune_at_init(model, data(model), sparsity=0.8)
    before = masks(pruned)
    history = fit(pruned, epochs=125, batch_size=8)
    assert int(pruned.optimizer.iterations) == 500
    assert all(map(np.array_equal, before, masks(pruned)))
    assert zeros_where_removed(pruned)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]


def test_training_without_the_callback_is_refused_by_tfmot():
    pruned = pruned_cnn()
    x, y = data(pruned)
    with pytest.raises(tf.errors.InvalidArgumentError, match="UpdatePruningStep"):
        pruned.fit(x, y, verbose=0)


def test_the_callback_counts_steps():
    pruned = pruned_cnn()
    fit(pruned, epochs=2, batch_size=8)
    assert {int(v.pruning_step) for v in wrappers_of(pruned)} == {8}


def test_inference_needs_no_callback():
    pruned = pruned_cnn()
    x, y = data(pruned)
    assert pruned.predict(x, verbose=0).shape == (32, 5)
    assert np.isfinite(pruned.evaluate(x, y, verbose=0)[0])


def test_a_loop_of_ones_own_keeps_masks():
    pruned = pruned_cnn()
    x, y = data(pruned)
    before = masks(pruned)
    callback = sparsity.UpdatePruningStep()
    callback.set_model(pruned)
    callback.on_train_begin()
    for _ in range(3):
        callback.on_train_batch_begin(batch=-1)
        pruned.train_on_batch(x, y)
    # tfmot masks in the next step, or here.
    callback.on_epoch_end(batch=-1)
    assert all(map(np.array_equal, before, masks(pruned)))
    assert zeros_where_removed(pruned)


def test_masks_stay_on_two_replicas():
    strategy = mirrored(2)
    with strategy.scope():
        model = keras2_models.compiled(keras2_models.cnn(K2), K2)
    pruned = kpi.tfmot.prune_at_init(model, data(model), sparsity=0.8)
    before = masks(pruned)
    fit(pruned, epochs=2, batch_size=8)
    assert isinstance(pruned.layers[0].layer.kernel, tf.distribute.DistributedValues)
    assert all(map(np.array_equal, before, masks(pruned)))
    assert zeros_where_removed(pruned)


def test_frozen_layers_stay_frozen():
    model = keras2_models.compiled(keras2_models.cnn(K2), K2)
    model.layers[0].trainable = False
    pruned = kpi.tfmot.prune_at_init(model, data(model), sparsity=0.5)
    before = kernels(pruned)
    fit(pruned)
    after = kernels(pruned)
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[-1], after[-1])


# Stripping and saving


def test_stripping_leaves_ordinary_layers_that_compute_the_same():
    pruned = pruned_cnn()
    fit(pruned)
    x, _ = data(pruned)
    stripped = sparsity.strip_pruning(pruned)
    assert [type(v) for v in stripped.layers] == [
        type(v) for v in keras2_models.cnn(K2).layers
    ]
    np.testing.assert_allclose(stripped.predict(x), pruned.predict(x), atol=1e-6)
    zeros = sum(int((w.numpy() == 0).sum()) for w in stripped.weights)
    assert zeros >= sum(int((m == 0).sum()) for m in masks(pruned))


def test_configs_are_those_of_the_model():
    model = keras2_models.nested(K2)
    pruned = kpi.tfmot.prune_at_init(model, method="magnitude")
    assert pruned.name == model.name and pruned.built
    with sparsity.prune_scope():
        again = K2.models.model_from_json(pruned.to_json())
    assert again.built
    assert [type(v) for v in wrappers_of(again)] == [
        type(v) for v in wrappers_of(pruned)
    ]
    stripped = sparsity.strip_pruning(pruned)
    assert stripped.get_config() == model.get_config()


@pytest.mark.parametrize("name", ["m.h5", "m.keras", "saved_model"])
def test_saved_models_load_and_train_on(name, tmp_path):
    pruned = pruned_cnn()
    fit(pruned)
    x, y = data(pruned)
    expected = pruned.predict(x, verbose=0)
    pruned.save(tmp_path / name)
    with sparsity.prune_scope():
        loaded = K2.models.load_model(tmp_path / name)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
    if name != "saved_model":  # of which Keras 2 revives functions, not the wrappers
        assert all(map(np.array_equal, masks(pruned), masks(loaded)))
        fit(loaded, epochs=2, batch_size=8)
        assert all(map(np.array_equal, masks(pruned), masks(loaded)))
        assert zeros_where_removed(loaded)
    stripped = sparsity.strip_pruning(pruned)
    stripped.save(tmp_path / f"stripped_{name}")
    again = K2.models.load_model(tmp_path / f"stripped_{name}")
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, atol=1e-6)


def test_checkpoints_and_weights_hold_masks(tmp_path):
    pruned = pruned_cnn()
    fit(pruned)
    pruned.save_weights(tmp_path / "w")
    tf.train.Checkpoint(model=pruned).save(tmp_path / "c")
    path = str(tmp_path / "c-1")
    other = kpi.tfmot.prune_at_init(keras2_models.cnn(K2), method="random", seed=5)
    assert not all(map(np.array_equal, masks(pruned), masks(other)))
    other.load_weights(tmp_path / "w")
    assert all(map(np.array_equal, masks(pruned), masks(other)))
    pruned.save_weights(tmp_path / "w.h5")
    other.load_weights(tmp_path / "w.h5")
    assert all(map(np.array_equal, kernels(pruned), kernels(other)))
    another = kpi.tfmot.prune_at_init(keras2_models.cnn(K2), method="random", seed=6)
    tf.train.Checkpoint(model=another).restore(path).expect_partial()
    assert all(map(np.array_equal, masks(pruned), masks(another)))
    assert all(map(np.array_equal, kernels(pruned), kernels(another)))


def test_tflite_conversion_of_a_stripped_model_keeps_zeros():
    pruned = pruned_cnn()
    stripped = sparsity.strip_pruning(pruned)
    converter = tf.lite.TFLiteConverter.from_keras_model(stripped)
    from keras_prune_init.export import sparse

    _, found = sparse.encode(converter.convert())
    zeros = sum(round((1 - k.density) * k.values) for k in found)
    assert zeros == sum(int((m == 0).sum()) for m in masks(pruned))


# Refusals


def test_a_model_with_wrappers_is_not_pruned_again():
    with pytest.raises(ValueError, match="strip_pruning"):
        kpi.tfmot.prune_at_init(pruned_cnn(), method="magnitude")


def test_what_cannot_be_done_with_wrappers_says_what_can():
    model = keras2_models.cnn(K2)
    prune = kpi.tfmot.prune_at_init
    with pytest.raises(ValueError, match="cannot cut out channels.*to_keras3"):
        prune(model, method="magnitude", what="channels")
    residual = kpi.tfmot.from_keras3(kpi.models.resnet((8, 8, 3), classes=3, depth=8))
    with pytest.raises(ValueError, match="network must stay as it is.*sbp_sr"):
        prune(residual, data(residual), "sbp_sr")
    x = K2.Input((4, 4))
    with pytest.raises(ValueError, match="a wrapper for at least one.*embedding"):
        words = K2.Sequential(
            [K2.Input((5,)), K2.layers.Embedding(4, 3, mask_zero=True)]
        )
        prune(words, method="magnitude")
    einsum = K2.Model(x, K2.layers.EinsumDense("abc,cd->abd", (None, 3))(x))
    with pytest.raises(ValueError, match="a wrapper for at least one.*to_keras3"):
        prune(einsum, method="magnitude")
    with pytest.raises(ValueError, match="a wrapper for at least one.*depthwise"):
        prune(model, method="magnitude", filters="depthwise")
    with pytest.raises(TypeError, match="model of Keras 2.*It needs no conversion"):
        prune(keras2_models.cnn(keras), method="magnitude")
    with pytest.raises(ValueError, match="`sparsity`"):
        prune(model, method="magnitude", sparsity=1.5)
    with pytest.raises(ValueError, match="needs data"):
        prune(model)
