"""Skeletonization: relevances against gates on the outputs of units."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp, two_inputs_two_outputs
from objectives import CASES
from runs import mirrored

import keras_prune_init as kpi
from keras_prune_init.channels.groups import ChannelGroups
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.methods.skeleton import RATE

SKELETON = kpi.methods.Skeleton()


@pytest.fixture(autouse=True)
def same_weights():
    keras.utils.set_random_seed(4)


@pytest.fixture
def wide():
    """Layers compute in float64."""
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


class Scores(kpi.methods.Skeleton):
    """Remembers the scores of channels."""

    def channel_scores(self, network, weights, channels):
        self.found = super().channel_scores(network, weights, channels)
        return self.found


def relevances(model, data, **options):
    """The score of each group of channels, in the order of `ChannelGroups`."""
    method, options = Scores(), {"sparsity": 0.01, **options}
    kpi.prune(model, data, method, what="channels", verbose=0, **options)
    return method.found


@keras.saving.register_keras_serializable("tests")
class Gate(L.Layer):
    """Multiplies channels by numbers, 1 at first."""

    def build(self, shape):
        self.gate = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.gate


def gated(gates):
    x = inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(3, 3, activation="tanh", name="a")(x)
    x = L.BatchNormalization(name="norm")(x)
    x = Gate(name="gate1")(x) if gates else x
    x = L.Conv2D(4, 2, activation="relu", name="b")(x)
    x = L.MaxPooling2D(3)(x)
    x = Gate(name="gate2")(x) if gates else x
    x = L.Flatten()(x)
    x = L.Dense(5, "sigmoid", name="c")(x)
    x = Gate(name="gate3")(x) if gates else x
    return keras.Model(inputs, L.Dense(3, name="d")(x))


def groups_of(model):
    """The first groups of channels of the layers a, b and c."""
    plan = ChannelGroups(model, find_kernels(model), "params").plan
    names = {getattr(n.operation, "name", ""): i for i, n in enumerate(plan.nodes)}
    return [plan.groups[names[name]] for name in "abc"]


def linear_error(model, x, y):
    """Mean over samples of the sum of |t - p|."""
    p = tf.nn.softmax(model(x, training=False)).numpy()
    return np.abs(np.eye(p.shape[1])[y] - p).sum(1).mean()


def test_the_relevance_is_the_slope_of_the_linear_error_at_a_gate(wide):
    model, other = gated(False), gated(True)
    for name in ("a", "norm", "b", "c", "d"):
        other.get_layer(name).set_weights(model.get_layer(name).get_weights())
    x, y = batch(model, 7)
    found = relevances(model, (x, y), batches=1)
    step = 1e-4
    for number, groups in enumerate(groups_of(model), 1):
        gate = other.get_layer(f"gate{number}").gate
        for i, group in enumerate(groups):
            errors = []
            for sign in (1, -1):
                gate.assign(np.ones(len(groups)) + sign * step * np.eye(len(groups))[i])
                errors.append(linear_error(other, x, y))
            gate.assign(np.ones(len(groups)))
            slope = -(errors[0] - errors[1]) / (2 * step)
            # The first batch replaces a fifth of 0.
            np.testing.assert_allclose(found[group], RATE * slope, rtol=1e-5, atol=1e-9)


def test_the_relevance_of_small_weights_is_what_removal_costs(wide):
    model = mlp((6, 5))
    last = model.layers[-1]
    last.kernel.assign(last.kernel * 1e-3)
    x, y = batch(model, 20)
    found = relevances(model, (x, y)) / RATE
    before = linear_error(model, x, y)
    size = np.abs(found[-5:]).max()
    whole = last.kernel.numpy()
    costs = []
    for i in range(5):
        last.kernel.assign(np.where(np.arange(5)[:, None] == i, 0, whole))
        costs.append(linear_error(model, x, y) - before)
    groups = ChannelGroups(model, find_kernels(model), "params").sets[-1]
    np.testing.assert_allclose(found[groups], costs, atol=1e-2 * size)
    assert size > 0


@pytest.mark.parametrize("what", ["weights", "channels"])
def test_the_running_average_over_three_batches(what, wide):
    model = mlp((4,))
    x, y = batch(model, 12)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)

    def scores(data, **options):
        if what == "channels":
            return {"all": relevances(model, data, **options)}
        return kpi.score(model, data, SKELETON, verbose=0, **options)

    average = {}
    for i in range(0, 12, 4):
        for path, s in scores((x[i : i + 4], y[i : i + 4])).items():
            new = s / 0.2  # one batch, from 0 on
            average[path] = 0.8 * average.get(path, 0) + 0.2 * new
    found = scores(data, batches=3)
    for path, expected in average.items():
        np.testing.assert_allclose(found[path], expected, rtol=1e-9)
    one = scores((x, y), batches=1)
    assert any((np.abs(found[path] - one[path]) > 1e-6).any() for path in one)


def test_replicas_make_the_same_average():
    model = mlp((4,))
    x, y = batch(model, 22)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    with mirrored(2).scope():
        same = keras.models.clone_model(model)
        same.set_weights(model.get_weights())
    a, b = (kpi.score(m, data, SKELETON, batches=3).values() for m in (model, same))
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-7)


def test_single_weights_have_gates_of_their_own(wide):
    model = mlp((4,))
    x, y = batch(model, 9)
    scores = kpi.score(model, (x, y), SKELETON)
    kernel, step = model.layers[0].kernel, 1e-5
    whole = kernel.numpy()
    errors = []
    for sign in (1, -1):
        change = np.zeros(whole.shape)
        change[2, 1] = sign * step
        kernel.assign(whole * (1 + change))
        errors.append(linear_error(model, x, y))
    slope = -(errors[0] - errors[1]) / (2 * step)
    np.testing.assert_allclose(scores[kernel.path][2, 1], RATE * slope, rtol=1e-5)


def test_a_unit_that_nothing_reads_goes_first_if_others_help():
    """Its relevance is exactly 0, and those of the others are positive here."""
    x = np.eye(4, dtype="float32")
    layers = [L.Dense(5, use_bias=False), L.Dense(4, use_bias=False)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    # Each unit shows one class, except the third, which nothing reads.
    makes, reads = np.eye(5)[[0, 1, 3, 4]], np.eye(4)[[0, 1, 1, 2, 3]]
    makes[:, 2], reads[2] = 3, 0
    layers[0].kernel.assign(makes)
    layers[1].kernel.assign(reads)
    found = relevances(model, (x, np.arange(4)))
    [units] = ChannelGroups(model, find_kernels(model), "params").sets
    assert found[units[2]] == 0
    assert (found[np.delete(units, 2)] > 0).all()
    small = kpi.prune(model, (x, np.arange(4)), SKELETON, sparsity=0.2, what="channels")
    np.testing.assert_array_equal(small.layers[1].kernel, np.eye(4))


def test_readers_are_the_weights_that_read_a_channel():
    """Not those that make it; depthwise kernels pass a channel on."""
    x = inputs = keras.Input((5, 5, 2))
    x = L.Conv2D(2, 2, name="a")(x)
    x = L.DepthwiseConv2D(2, name="between")(x)
    y = L.Conv2D(2, 1, name="b")(x)  # reads what it is added to
    x = L.Add()([x, y])
    x = L.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, L.Dense(3, name="d")(x))
    kernels = find_kernels(model)
    groups = ChannelGroups(model, kernels, "params")
    values = [np.random.default_rng(1).normal(size=k.shape) for k in kernels]
    by_name = {k.layer.name: v for k, v in zip(kernels, values, strict=True)}
    expected = by_name["b"].sum((0, 1, 3)) + by_name["d"].sum(1)
    [made] = groups.sets
    np.testing.assert_allclose(groups.readers(values)[made], expected)
    assert (np.abs(groups.total(values)[made] - expected) > 1e-3).all()


def test_readers_that_filters_leave_out_are_an_error():
    model = mlp((6, 5))
    name = model.layers[-1].name
    options = {"filters": lambda v: v.name != name, "what": "channels"}
    with pytest.raises(ValueError, match=f"Received: `{name}`, which is left out"):
        kpi.prune(model, batch(model), SKELETON, sparsity=0.3, **options)
    kpi.prune(model, batch(model), "snip", sparsity=0.3, **options)


def test_a_trained_network_becomes_smaller_and_still_works():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 4)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    model = keras.Sequential([keras.Input((4,)), L.Dense(24, "tanh"), L.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, metrics=["accuracy"])
    model.fit(x, y, 64, 40, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.95
    options = {"sparsity": 0.4, "what": "channels", "batches": 2}
    small = kpi.prune(model, (x, y), "skeleton", **options)
    assert small.layers[0].units < 16
    assert small.evaluate(x, y, verbose=0)[1] > 0.75


B = np.random.default_rng(2).integers(0, 2, 10)
C = np.random.default_rng(3).integers(0, 3, 10)
REAL = np.random.default_rng(4).normal(size=(10, 3))
MULTI = np.random.default_rng(5).integers(0, 2, (10, 3)).astype("float64")
losses = keras.losses

# Units, activation, loss, labels, probabilities of outputs, targets in their shape.
ERRORS = {
    "sparse logits": (3, None, losses.SparseCategoricalCrossentropy(True), C),
    "one-hot logits": (3, None, losses.CategoricalCrossentropy(True), np.eye(3)[C]),
    "softmax": (3, "softmax", "sparse_categorical_crossentropy", C[:, None]),
    "binary logits": (1, None, losses.BinaryCrossentropy(True), B),
    "sigmoid": (1, "sigmoid", "binary_crossentropy", B[:, None]),
    "many labels": (3, None, losses.BinaryCrossentropy(True), MULTI),
    "values": (3, None, "mse", REAL),
    "one value": (1, None, "mae", REAL[:, 0]),
}
SOFT, BINARY = ("sparse logits", "one-hot logits"), ("binary logits", "many labels")


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_linear_error_is_that_of_probabilities_or_values(name, weighted, wide):
    units, activation, loss, y = ERRORS[name]
    model = mlp((4,), classes=units)
    if activation:
        model.add(L.Activation(activation))
    x = np.random.default_rng(0).normal(size=(10, 5))
    weight = np.linspace(0, 2, 10) if weighted else None
    data = (x, y) if weight is None else (x, y, weight)
    scores = kpi.score(model, data, SKELETON, loss=loss)
    targets = y.reshape(10, -1)
    if targets.shape[1] != units:
        targets = np.eye(units)[y.reshape(-1)]
    kernel = model.layers[1].kernel
    with tf.GradientTape() as tape:
        o = model(x)
        o = tf.nn.softmax(o) if name in SOFT else o
        o = tf.sigmoid(o) if name in BINARY else o
        errors = tf.reduce_sum(tf.abs(targets - o), -1)
        error = tf.reduce_mean(errors if weight is None else errors * weight)
    expected = -RATE * kernel.numpy() * tape.gradient(error, kernel.value).numpy()
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(scores[kernel.path], expected, atol=1e-9)


def test_several_outputs_are_summed_with_the_weights_of_each(wide):
    model = two_inputs_two_outputs()
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(6, 4)), "b": rng.normal(size=(6, 6))}
    y = [C[:6], rng.normal(size=(6, 1))]
    loss = [losses.SparseCategoricalCrossentropy(True), "mse"]
    weights = [np.linspace(1, 2, 6), np.linspace(0, 1, 6)]
    scores = kpi.score(model, (x, y, weights), SKELETON, loss=loss)
    kernel = model.get_layer("adapt").kernel
    with tf.GradientTape() as tape:
        z, v = model(x)
        first = tf.reduce_sum(tf.abs(np.eye(3)[y[0]] - tf.nn.softmax(z)), -1)
        second = tf.abs(y[1] - v)[:, 0]
        error = tf.reduce_mean(weights[0] * first + weights[1] * second)
    expected = -RATE * kernel.numpy() * tape.gradient(error, kernel.value).numpy()
    np.testing.assert_allclose(scores[kernel.path], expected, atol=1e-8)


def test_what_follows_the_end_of_a_sequence_makes_no_difference():
    model, (tokens, tags) = CASES["masked sequences"]()
    other = np.where(tokens == 0, 2 - tags, tags)
    a, b = (kpi.score(model, (tokens, y), SKELETON, verbose=0) for y in (tags, other))
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])


def added():
    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(4, activity_regularizer="l2")(L.Dense(3)(x)))
    model.compile("sgd")
    return model


def test_a_loss_of_layers_alone_has_no_linear_error():
    x = np.ones((5, 4), "float32")
    with pytest.raises(ValueError, match="it comes from layers only"):
        kpi.prune(added(), (x,), SKELETON)


def test_labels_must_fit_the_outputs():
    model = mlp((4,))

    def loss(y, p):
        return tf.reduce_sum(p**2) + tf.reduce_sum(y)

    x, y = batch(model)
    with pytest.raises(ValueError, match="labels of shape .8, 2. for outputs of shape"):
        kpi.prune(model, (x, np.stack([y, y], 1)), SKELETON, loss=loss)


def test_the_dense_network_need_not_be_trained():
    model, options = mlp(), {"sparsity": 0.3, "what": "channels"}
    small = kpi.prune_at_init(model, batch(model), "skeleton", **options)
    assert kpi.report(small, model).sparsity > 0.29
