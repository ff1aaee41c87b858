"""Models of Keras 2 in Keras 3, and the other way."""

import keras
import keras2_models
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras2_models import BOTH, KINDS

import keras_prune_init as kpi

EACH = pytest.mark.parametrize("version", BOTH)


def converted(model, **options):
    to = kpi.tfmot.from_keras3 if isinstance(model, keras.Model) else None
    return (to or kpi.tfmot.to_keras3)(model, **options)


def images(count):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


def trained(model):
    return [tuple(w.shape) for w in model.trainable_weights]


def leaves(model):
    for layer in model.layers:
        yield from leaves(layer) if hasattr(layer, "layers") else [layer]


@EACH
@pytest.mark.parametrize("kind", KINDS, ids=lambda f: f.__name__)
def test_models_convert_there_and_back(version, kind):
    model = kind(BOTH[version])
    there = converted(model)
    back = converted(there)
    assert isinstance(there, keras.Model) == (version == "Keras 2")
    for new in (there, back):
        pairs = zip(model.get_weights(), new.get_weights(), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
        assert trained(new) == trained(model)
    assert [type(v).__name__ for v in leaves(back) if v.weights] == [
        type(v).__name__ for v in leaves(model) if v.weights
    ]
    inputs = like(model.inputs)
    pairs = zip(
        keras.tree.flatten(model(inputs, training=False)),
        keras.tree.flatten(there(inputs, training=False)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-5)


def like(tensors):
    rng = np.random.default_rng(1)
    if len(tensors) > 1:
        return {t.name: rng.normal(size=(3, 4)) for t in tensors}
    [tensor] = tensors
    if "int" in str(tensor.dtype):
        return np.array([[1, 2, 0, 0, 0], [3, 6, 1, 5, 0]])  # with padding
    return rng.normal(size=(3, *tensor.shape[1:])).astype("float32")


@EACH
def test_a_network_of_the_applications_converts_with_its_statistics(version):
    model = keras2_models.mobile(BOTH[version])
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    back = converted(converted(model))
    pairs = zip(model.get_weights(), back.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert [v.name for v in back.layers] == [v.name for v in model.layers]


@EACH
def test_compile_arguments_are_kept(version):
    k = BOTH[version]
    model = keras2_models.nested(k)
    rate = k.optimizers.schedules.CosineDecay(1e-2, 100, warmup_steps=10)
    model.compile(
        k.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=1e-4),
        k.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[k.metrics.SparseTopKCategoricalAccuracy(2, name="top"), "accuracy"],
    )
    for new in (converted(model), converted(converted(model))):
        config = new.optimizer.get_config()
        assert config["momentum"] == 0.9 and config["nesterov"]
        assert config["weight_decay"] == 1e-4
        assert config["learning_rate"]["config"]["warmup_steps"] == 10
        x, y = np.ones((4, 8, 8, 3)), np.arange(4)
        expected = model.evaluate(x, y, verbose=0, return_dict=True)
        found = new.evaluate(x, y, verbose=0, return_dict=True)
        assert found == pytest.approx(expected, rel=1e-4)
        assert set(found) == {"loss", "top", "accuracy"}
    there = converted(model)
    for each in (model, there):
        each.fit(x, y, epochs=3, batch_size=2, shuffle=False, verbose=0)
    # Moving variances differ: those of Keras 2 are multiplied by n / (n - 1).
    pairs = zip(model.trainable_weights, there.trainable_weights, strict=True)
    assert max(np.abs(np.subtract(a, b)).max() for a, b in pairs) < 1e-4


@EACH
def test_losses_by_output_and_functions_of_users_are_kept(version):
    k = BOTH[version]

    def own(y, z):
        return (y - z) ** 2

    model = keras2_models.shared(k)
    losses = {"y": own, "z": k.losses.MeanAbsoluteError()}
    model.compile("sgd", losses, loss_weights={"y": 0.5, "z": 2.0})
    there = converted(model)
    x = {"a": np.ones((4, 4)), "b": np.zeros((4, 4))}
    y = {"y": np.ones((4, 3)), "z": np.ones((4, 2))}
    expected = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    found = there.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(expected, rel=1e-5)


@EACH
def test_what_is_not_compiled_stays_so(version):
    assert not getattr(converted(keras2_models.cnn(BOTH[version])), "optimizer", None)


def own_layer(k):
    class Own(k.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(
                shape=(shape[-1], 3), initializer="glorot_uniform", name="w"
            )

        def call(self, x):
            return x @ self.w

    return Own


@EACH
def test_a_layer_of_the_user_needs_its_class_in_the_other_keras(version):
    k = BOTH[version]
    [other] = [v for v in BOTH.values() if v is not k]
    model = k.Sequential([k.Input((4,)), own_layer(k)(name="mine")])
    with pytest.raises(ValueError, match=r"mine \(Own\).*custom_objects={'Own': ...}"):
        converted(model)
    new = converted(model, custom_objects={"Own": own_layer(other)})
    np.testing.assert_array_equal(new.get_weights()[0], model.get_weights()[0])


def refused(k):
    L = k.layers

    def sequential(*layers):
        return k.Sequential([k.Input((4,)), *layers])

    class Subclassed(k.Model):
        def call(self, x):
            return x

    subclassed = Subclassed()
    subclassed(np.ones((1, 4), "float32"))
    yield subclassed, "Only Sequential and Functional.*a Subclassed"
    yield k.Sequential([L.Dense(3)]), "built"
    yield sequential(L.Lambda(lambda x: 2 * x, name="twice")), "code for one.*twice"
    hard = L.Dense(3, activation="hard_sigmoid")
    yield sequential(hard), "same function in both.*'hard_sigmoid'"
    if k is keras:
        yield sequential(L.RMSNormalization(name="rms")), r"rms \(RMSNormalization\)"
        yield sequential(L.Dense(3, "hard_silu")), "Received: hard_silu"
        x = k.Input((4,))
        yield k.Model(x, keras.ops.roll(x, 1)), r"known in Keras 2.*roll \(Roll\)"
    else:
        x = k.Input((4,))
        yield k.Model(x, tf.roll(x, 1, -1)), "known in Keras 3.*tf.roll"


@EACH
def test_what_cannot_convert_is_named(version):
    for model, message in refused(BOTH[version]):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            converted(model)


def test_masks_and_other_objects_are_refused():
    model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.5)
    with pytest.raises(ValueError, match="no layers with our masks.*`strip` it first"):
        kpi.tfmot.from_keras3(pruned)
    with pytest.raises(TypeError, match="model of Keras 2.*It needs no conversion"):
        kpi.tfmot.to_keras3(model)
    with pytest.raises(TypeError, match="model of Keras 2"):
        kpi.tfmot.to_keras3("model")
    with pytest.raises(TypeError, match="keras.Model"):
        kpi.tfmot.from_keras3(kpi.tfmot.from_keras3(model))


def test_a_layer_that_computes_something_else_is_refused():
    class Dense(keras.layers.Dense):
        def call(self, x):
            return super().call(x) + 1

    old = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="must compute what the model does.*differ by"):
        kpi.tfmot.to_keras3(old, custom_objects={"Dense": Dense})


def test_random_state_is_left_alone():
    model = keras2_models.cnn(tf_keras)
    keras.utils.set_random_seed(1)
    expected = np.random.rand()
    keras.utils.set_random_seed(1)
    kpi.tfmot.to_keras3(model)
    assert np.random.rand() == expected


# What Keras 2 can do and Keras 3 cannot, and would change the training in silence


def of_keras_2(make):
    x = tf_keras.Input((6, 6, 3))
    return tf_keras.Model(x, tf_keras.layers.Flatten()(make(tf_keras.layers, x)))


def inner(L):
    return tf_keras.Sequential(
        [tf_keras.Input((6, 6, 3)), L.Conv2D(3, 2), L.BatchNormalization(name="bn")]
    )


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda L, x: inner(L)(x, training=False), "bn"),
        (lambda L, x: inner(L)(x, training=True), "bn"),
        (lambda L, x: L.Dropout(0.5, name="drop")(x, training=False), "drop"),
    ],
)
def test_an_argument_training_is_refused_where_it_matters(make, named):
    """Keras 3.15 trains all layers of a graph, whatever they were called with."""
    with pytest.raises(ValueError, match=f"ignores `training`.*in which {named}"):
        kpi.tfmot.to_keras3(of_keras_2(make))


def test_an_argument_training_is_dropped_where_it_does_not_matter():
    def frozen(L, x):
        part = inner(L)
        part.trainable = False
        return L.Dropout(0.0)(part(x, training=False), training=True)

    model = keras2_models.compiled(of_keras_2(frozen), tf_keras)
    there = kpi.tfmot.to_keras3(model)
    x, y = images(8), np.arange(8) % 3
    for each in (model, there):
        each.fit(x[:, :6, :6], y, verbose=0)
    pairs = zip(model.get_weights(), there.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_losses_metrics_and_methods_beside_the_layers_are_refused():
    def dense(L, x):
        return L.Dense(2, name="d")(x)

    class Own(tf_keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    model = of_keras_2(dense)
    model.add_loss(tf.reduce_mean(model.output))
    with pytest.raises(ValueError, match="to which `add_loss"):
        kpi.tfmot.to_keras3(model)
    model = of_keras_2(dense)
    model.add_metric(tf.reduce_mean(model.output), name="mean")
    with pytest.raises(ValueError, match="to which `add_metric"):
        kpi.tfmot.to_keras3(model)
    model = of_keras_2(dense)
    model.add_loss(lambda: tf.reduce_sum(model.get_layer("d").kernel ** 2))
    with pytest.raises(ValueError, match="must have the losses that layers"):
        kpi.tfmot.to_keras3(model)
    with pytest.raises(ValueError, match="add_loss` of a function"):
        kpi.tfmot.quantize_aware(model)
    model = of_keras_2(dense)
    with pytest.raises(ValueError, match="an Own with a `train_step` of its own|a Own"):
        kpi.tfmot.to_keras3(Own(model.inputs, model.outputs))


@pytest.mark.parametrize(
    ("loss", "metrics"),
    [
        (["mse", "mae"], ["mae"]),
        ({"a": "mse"}, None),
        ("mse", {"a": "mae"}),
        ("mse", [["mae"], ["mse", "mae"]]),
    ],
)
def test_losses_and_metrics_of_several_outputs_are_kept(loss, metrics):
    x = tf_keras.Input((4,))
    outputs = [tf_keras.layers.Dense(1, name=name)(x) for name in "az"]
    model = tf_keras.Model(x, outputs)
    model.compile("sgd", loss, metrics=metrics)
    data = np.random.rand(8, 4), [np.random.rand(8, 1), np.random.rand(8, 1)]
    expected = model.evaluate(*data, verbose=0, return_dict=True)
    found = kpi.tfmot.to_keras3(model).evaluate(*data, verbose=0, return_dict=True)
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize("approximate", [True, False])
def test_arguments_with_other_defaults_are_kept(approximate):
    x = tf_keras.Input((64,))
    model = tf_keras.Model(x, tf.nn.gelu(3 * x, approximate=approximate))
    inputs = np.random.default_rng(0).normal(size=(9, 64)).astype("float32")
    found = kpi.tfmot.to_keras3(model)(inputs)
    np.testing.assert_allclose(model(inputs), found, atol=1e-6)


def test_weights_that_layers_share_are_refused():
    L = tf_keras.layers
    first, second = L.Dense(4, name="first"), L.Dense(4, name="second")
    first.build((None, 4))
    second.build((None, 4))
    second.kernel = first.kernel
    x = tf_keras.Input((4,))
    model = tf_keras.Model(x, second(first(x)))
    for convert in (kpi.tfmot.to_keras3, kpi.tfmot.quantize_aware):
        with pytest.raises(ValueError, match="first and second share one"):
            convert(model)


def test_the_states_of_recurrent_layers_are_kept_and_carried_over():
    layers = [tf_keras.layers.LSTM(3, stateful=True)]
    model = tf_keras.Sequential([tf_keras.Input((5, 4), batch_size=2), *layers])
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    model(x)
    before = model.layers[0].states[0].numpy()
    there = kpi.tfmot.to_keras3(model)
    np.testing.assert_array_equal(model.layers[0].states[0], before)
    np.testing.assert_allclose(there(x), model(x), atol=1e-6)


def test_floats_that_are_indices_are_taken():
    L = tf_keras.layers
    a, b = tf_keras.Input((5,)), tf_keras.Input((5,))
    embedding = L.Embedding(10, 4)
    h = L.Concatenate()([embedding(a), embedding(b)])
    assert kpi.tfmot.to_keras3(tf_keras.Model([a, b], L.Dense(2)(h)))


@pytest.mark.parametrize("wrong", [["x"], {"Mine": 3}, {3: dict}])
def test_custom_objects_must_be_classes_by_name(wrong):
    with pytest.raises(TypeError, match="`custom_objects` must be classes"):
        kpi.tfmot.to_keras3(keras2_models.cnn(tf_keras), custom_objects=wrong)


def test_what_a_frozen_model_holds_is_frozen():
    L = tf_keras.layers
    part = tf_keras.Sequential([tf_keras.Input((4,)), L.Dense(3), L.Dense(2)])
    part.trainable = False
    part.layers[0].trainable = True
    model = tf_keras.Sequential([tf_keras.Input((4,)), part, L.Dense(2)])
    assert trained(kpi.tfmot.to_keras3(model)) == trained(model) == [(2, 2), (2,)]


@pytest.mark.parametrize("make", ["legacy.SGD", "LossScaleOptimizer"])
def test_old_and_wrapped_optimizers_are_taken(make):
    adam = tf_keras.optimizers.Adam(0.02)
    optimizer = {
        "legacy.SGD": tf_keras.optimizers.legacy.SGD(0.02),
        "LossScaleOptimizer": tf_keras.mixed_precision.LossScaleOptimizer(adam),
    }[make]
    model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    there = kpi.tfmot.to_keras3(model)
    assert float(there.optimizer.learning_rate) == pytest.approx(0.02)


def test_layers_that_differ_in_unused_arguments_convert_both_ways():
    L = tf_keras.layers
    layers = [L.RandomFlip(), L.Resizing(4, 4), L.CenterCrop(2, 2), L.Flatten()]
    model = tf_keras.Sequential([tf_keras.Input((8, 8, 3)), *layers])
    back = kpi.tfmot.from_keras3(kpi.tfmot.to_keras3(model))
    found, expected = (m(images(3), training=False) for m in (back, model))
    np.testing.assert_allclose(found, expected, atol=1e-5)
