"""Scores are those of the loss that `fit` trains, for losses and data of every kind."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp

import keras_prune_init as kpi

ops = keras.ops
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
N = 12


def draw(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


def classes(count, *shape):
    return np.random.default_rng(count).integers(0, count, (N, *shape))


def dense(units, activation=None, loss="mse", **options):
    """A small network, compiled."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(6, "tanh"), L.Dense(units)])
    model.add(L.Activation(activation or "linear"))
    model.compile("sgd", loss, **options)
    return model


def named(name, loss):
    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(1, name=name)(L.Dense(6, "tanh")(x)))
    model.compile("sgd", loss)
    return model


def two_heads(loss, outputs="list", **options):
    x = keras.Input((4,))
    h = L.Dense(6, "tanh")(x)
    a, b = L.Dense(3, name="a")(h), L.Dense(1, name="b")(h)
    made = {"list": [a, b], "dict": {"one": a, "two": b}, "tuple": (a, b)}[outputs]
    model = keras.Model(x, made)
    model.compile("sgd", loss, **options)
    return model


def segmenter(loss, channels=5):
    model = keras.Sequential([keras.Input((None, None, 3))])
    model.add(L.Conv2D(4, 3, padding="same", activation="tanh"))
    model.add(L.Conv2D(channels, 1))
    model.compile("sgd", loss)
    return model


def tagger(loss, **options):
    layers = [L.Embedding(7, 5, mask_zero=True), L.GRU(4, return_sequences=True)]
    model = keras.Sequential([keras.Input((None,)), *layers, L.Dense(3)])
    model.compile("sgd", loss, **options)
    return model


def absolute(y, p):
    return tf.abs(y - p)


def one_number(y, p):
    return tf.reduce_mean(tf.square(y - p)) + tf.reduce_max(p)


def without_void(y, p):
    y = tf.cast(tf.reshape(y, tf.shape(p)[:-1]), "int32")
    valid = tf.cast(y < 5, "float32")
    values = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(y < 5, y, 0), p)
    return tf.reduce_sum(values * valid) / tf.reduce_sum(valid)


def quantile(y, p, q):
    return ops.maximum(q * (y - p), (q - 1) * (y - p))


class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.sum(ops.abs(y_true - y_pred) ** 1.5, -1)


class PullsTogether(L.Layer):
    """Adds a loss of its own."""

    def call(self, x):
        self.add_loss(0.3 * ops.mean(x**2))
        return x


class ReadsInputs(keras.Model):
    """Its loss reads the inputs, a weight and what the base class makes."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        more = ops.mean(ops.abs(y_pred[:, :1] - x[:, :1]))
        more += ops.sum(self.layers[-1].kernel ** 2)
        return super().compute_loss(x, y, y_pred, sample_weight) + more


class NamesItsOwnWay(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.last = L.Dense(5, "tanh"), L.Dense(3)
        self.seen = keras.metrics.Mean("seen")

    def call(self, inputs):
        return self.last(self.first(inputs))

    def compute_loss(self, inputs, labels, predictions, weights, training):
        assert training
        value = ops.mean((predictions - ops.one_hot(labels, 3)) ** 4)
        self.seen.update_state(value)
        return value


def own(cls, **options):
    x = keras.Input((4,))
    model = cls(x, L.Dense(3)(L.Dense(6, "tanh")(x)))
    model.compile("sgd", "mse", **options)
    return model


def subclass():
    model = NamesItsOwnWay()
    model(draw(N, 4))
    return model


def autoencoder(compiled):
    x = keras.Input((4,))
    h = PullsTogether()(L.Dense(3, "tanh")(x))
    model = keras.Model(x, L.Dense(4, activity_regularizer="l2")(h))
    if compiled:
        model.compile("sgd")
    return model


def listed_inputs():
    late, early = keras.Input((4,), name="z"), keras.Input((3,), name="a")
    h = L.Concatenate()([L.Dense(3, "tanh")(late), early])
    model = keras.Model([late, early], L.Dense(2)(h))
    model.compile("sgd", SPARSE)
    return model


X, Y1, YN1 = draw(N, 4), draw(N), draw(N, 1)
B, BN1 = classes(2), classes(2)[:, None]
C, ONE_HOT = classes(3), np.eye(3, dtype="float32")[classes(3)]
W = np.abs(draw(N, 1))[:, 0]
PIXELS, CROP = classes(5, 4, 6), draw(N, 4, 6, 3)
VOID = np.where(draw(N, 4, 6) > 0, PIXELS, 255)
NEGATIVE = np.where(draw(N, 4, 6) > 0, PIXELS, -1)
TOKENS = np.where(np.arange(5) < 1 + np.arange(N)[:, None] % 5, classes(6, 5) + 1, 0)
TAGS = classes(3, 5)
ignoring = functools.partial(keras.losses.SparseCategoricalCrossentropy, True)

CASES = {
    "name, labels (n,)": lambda: (dense(1, "sigmoid", "binary_crossentropy"), (X, B)),
    "name, labels (n, 1)": lambda: (
        dense(1, "sigmoid", "binary_crossentropy"),
        (X, BN1),
    ),
    "hinge (n,)": lambda: (dense(1, None, "hinge"), (X, 2 * B - 1)),
    "poisson (n,)": lambda: (dense(1, "softplus", "poisson"), (X, B)),
    "huber (n,)": lambda: (dense(1, None, "huber"), (X, Y1)),
    "mae (n, 1)": lambda: (dense(1, None, "mae"), (X, YN1)),
    "float64 arrays": lambda: (dense(1), (X.astype("float64"), Y1.astype("float64"))),
    "crossentropy": lambda: (dense(3, "softmax", "crossentropy"), (X, C)),
    "focal": lambda: (dense(1, "sigmoid", "binary_focal_crossentropy"), (X, B)),
    "function (n,)": lambda: (dense(1, None, absolute), (X, Y1)),
    "function of one number": lambda: (dense(2, None, one_number), (X, draw(N, 2))),
    "partial": lambda: (dense(1, None, functools.partial(quantile, q=0.8)), (X, Y1)),
    "lambda": lambda: (dense(1, None, lambda y, p: (y - p) ** 4), (X, Y1)),
    "object": lambda: (dense(3, None, SPARSE), (X, C)),
    "sum": lambda: (dense(1, None, keras.losses.MeanSquaredError("sum")), (X, Y1)),
    "no reduction": lambda: (dense(2, None, OwnLoss(reduction=None)), (X, draw(N, 2))),
    "own class": lambda: (dense(2, None, OwnLoss()), (X, draw(N, 2))),
    "smoothing": lambda: (
        dense(3, None, keras.losses.CategoricalCrossentropy(True, 0.1)),
        (X, ONE_HOT),
    ),
    "multi-label": lambda: (
        dense(3, "sigmoid", "binary_crossentropy"),
        (X, classes(2, 3)),
    ),
    "weights": lambda: (dense(3, None, SPARSE), (X, C, W)),
    "weighted mean": lambda: (
        dense(1, None, keras.losses.MeanSquaredError("mean_with_sample_weight")),
        (X, Y1, W),
    ),
    "a list with one loss": lambda: (dense(1, None, ["mse"]), (X, YN1)),
    "a dict with one loss": lambda: (named("out", {"out": "mse"}), (X, YN1)),
    "a list with one label": lambda: (named("out", {"out": "mse"}), (X, [YN1])),
    "loss weight": lambda: (dense(1, None, "mse", loss_weights=0.3), (X, YN1)),
    "list": lambda: (two_heads([SPARSE, "mse"]), (X, [C, YN1])),
    "tuple of labels": lambda: (two_heads([SPARSE, "mse"]), (X, (C, Y1))),
    "tuple of outputs": lambda: (two_heads([SPARSE, "mse"], "tuple"), (X, (C, Y1))),
    "dict by layer": lambda: (
        two_heads({"a": SPARSE, "b": "mse"}, loss_weights={"a": 0.2, "b": 3.0}),
        (X, {"b": YN1, "a": C}),
    ),
    "dict outputs": lambda: (
        two_heads({"two": "mse", "one": SPARSE}, "dict"),
        (X, {"one": C, "two": YN1}),
    ),
    "dict outputs and weights": lambda: (
        two_heads({"two": "mse", "one": SPARSE}, "dict"),
        (X, {"one": C, "two": YN1}, {"one": W, "two": 1 - W}),
    ),
    "list of weights": lambda: (
        two_heads([SPARSE, "mse"]),
        (X, [C, YN1], [W, np.zeros(N, "float32")]),
    ),
    "one weight for two": lambda: (two_heads([SPARSE, "mse"]), (X, [C, YN1], W)),
    "two losses of one name": lambda: (
        two_heads([lambda y, p: (p - 1) ** 2, lambda y, p: (p - 2) ** 2]),
        (X, [ONE_HOT, YN1]),
    ),
    "an output without loss": lambda: (two_heads([SPARSE, None]), (X, [C, YN1])),
    "an output without labels": lambda: (
        two_heads({"one": SPARSE}, "dict"),
        (X, {"one": C, "two": YN1}),
    ),
    "segmentation": lambda: (segmenter(SPARSE), (CROP, PIXELS)),
    "segmentation (..., 1)": lambda: (segmenter(SPARSE), (CROP, PIXELS[..., None])),
    "void is 255": lambda: (segmenter(ignoring(ignore_class=255)), (CROP, VOID)),
    "void is -1": lambda: (segmenter(ignoring(ignore_class=-1)), (CROP, NEGATIVE)),
    "void left out by a function": lambda: (segmenter(without_void), (CROP, VOID)),
    "weights of pixels": lambda: (segmenter(SPARSE), (CROP, PIXELS, draw(N, 4, 6))),
    "masked sequences": lambda: (tagger(SPARSE), (TOKENS, TAGS)),
    "masked and weighted": lambda: (tagger(SPARSE), (TOKENS, TAGS, draw(N, 5))),
    "own compute_loss": lambda: (own(ReadsInputs), (X, draw(N, 3))),
    "own names": lambda: (subclass(), (X, C)),
    "add_loss": lambda: (autoencoder(True), (X,)),
    "add_loss, (x, None)": lambda: (autoencoder(False), (X, None)),
    "add_loss, (x, y, None)": lambda: (autoencoder(True), (X, X, None)),
    "inputs by name": lambda: (
        listed_inputs(),
        ({"a": draw(N, 3), "id": np.arange(N), "z": X}, B),
    ),
    "inputs in a list": lambda: (listed_inputs(), ([X, draw(N, 3)], B)),
}


def of_plain_keras(model, x, y=None, sample_weight=None):
    """|w dL/dw| of each kernel, L being what `compute_loss` returns."""
    kernels = [
        v
        for v in model.trainable_variables
        if len(v.shape) > 1 and not v.path.endswith("bias")
    ]

    def tensors(value):
        value = np.asarray(value)
        return tf.constant(value, "float32" if value.dtype.kind == "f" else value.dtype)

    x, y, sample_weight = keras.tree.map_structure(
        lambda v: None if v is None else tensors(v), (x, y, sample_weight)
    )
    with tf.GradientTape() as tape:
        outputs = model(x, training=False)
        takes = {"training": True} if isinstance(model, NamesItsOwnWay) else {}
        loss = model.compute_loss(x, y, outputs, sample_weight, **takes)
    gradients = tape.gradient(loss, [v.value for v in kernels])
    return {
        v.path: np.zeros(v.shape)
        if g is None
        else abs(np.asarray(v) * np.asarray(tf.convert_to_tensor(g)))
        for v, g in zip(kernels, gradients, strict=True)
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    largest = max(v.max() for v in expected.values())
    assert largest > 0
    for path in found:
        np.testing.assert_allclose(found[path], expected[path], atol=1e-5 * largest)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_compute_loss(name):
    model, data = CASES[name]()
    metrics = [v.numpy() for v in model.metrics_variables]
    found = kpi.score(model, data, verbose=0)
    for before, variable in zip(metrics, model.metrics_variables, strict=True):
        np.testing.assert_array_equal(variable, before)
    assert_same(found, of_plain_keras(model, *data))


@pytest.mark.parametrize("name", ["list", "masked sequences", "own compute_loss"])
def test_the_same_in_a_graph(name):
    """Several batches are traced once."""
    model, data = CASES[name]()
    twice = keras.tree.map_structure(lambda v: np.concatenate([v, v, v]), data)
    dataset = tf.data.Dataset.from_tensor_slices(
        tuple(tuple(v) if isinstance(v, list) else v for v in twice)
    )
    found = kpi.score(model, dataset.batch(N), batches=3, verbose=0)
    expected = of_plain_keras(model, *data)
    assert_same(found, {path: 3 * v for path, v in expected.items()})


@pytest.mark.parametrize(
    "loss, labels",
    [
        ("mae", Y1),
        (absolute, Y1),
        (keras.losses.Huber(0.1), YN1),
        (["mse"], YN1),
        (functools.partial(quantile, q=0.1), Y1),
    ],
    ids=str,
)
def test_an_argument_is_what_compile_makes_of_it(loss, labels):
    model = dense(1, None, "log_cosh", loss_weights=0.1)
    before = model._compile_loss
    found = kpi.score(model, (X, labels), loss=loss, verbose=0)
    assert model._compile_loss is before
    model.compile("sgd", loss)
    assert_same(found, of_plain_keras(model, X, labels))


def test_an_argument_for_several_outputs():
    for outputs, loss in (
        ("list", {"a": SPARSE, "b": "mae"}),
        ("dict", {"one": SPARSE, "two": "mae"}),
    ):
        model = two_heads("mse", outputs)
        y = dict(zip(loss, (C, YN1), strict=True))
        found = kpi.score(model, (X, y), loss=loss, verbose=0)
        model.compile("sgd", loss)
        assert_same(found, of_plain_keras(model, X, y))


def test_weights_by_name_are_those_of_a_list():
    model, (x, y, weights) = CASES["list of weights"]()
    named = dict(zip("ba", weights[::-1], strict=True))
    expected = kpi.score(model, (x, y, weights), verbose=0)
    assert_same(kpi.score(model, (x, y, named), verbose=0), expected)


def test_penalties_on_weights_stay_out_and_stay_there():
    model = dense(1)
    expected = kpi.score(model, (X, Y1), verbose=0)
    penalty = keras.regularizers.L2(3.0)
    for layer in model.layers[:2]:
        layer.kernel.regularizer = penalty
    found = kpi.score(model, (X, Y1), verbose=0)
    assert_same(found, expected)
    assert [v.kernel.regularizer for v in model.layers[:2]] == [penalty] * 2
    assert len(model.losses) == 2


def test_half_precision_and_float64_follow_the_same_loss():
    expected = None
    for policy in ("float32", "float64", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            x = keras.Input((4,))
            h = PullsTogether()(L.Dense(6, "tanh")(x))
            model = keras.Model(x, L.Dense(1)(h))
        finally:
            keras.config.set_dtype_policy("float32")
        model.compile("sgd", [absolute])
        if expected is None:
            weights = model.get_weights()
            expected = of_plain_keras(model, X, YN1).values()
        model.set_weights(weights)
        found = kpi.score(model, (X, YN1), verbose=0).values()
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_a_loss_that_the_model_ignores_is_named(caplog):
    model = subclass()
    expected = kpi.score(model, (X, C), verbose=0)
    assert_same(kpi.score(model, (X, C), loss="mse", verbose=0), expected)
    assert "its own `compute_loss` ignores `loss=`" in caplog.text


class Steps(keras.Model):
    """Computes its loss in `train_step`."""

    def train_step(self, data):
        raise NotImplementedError


class Parts(keras.Model):
    """Has models, but no `call`."""

    def __init__(self):
        super().__init__()
        self.encoder = mlp()
        self.built = True


def test_models_whose_loss_is_hidden_ask_for_it():
    x = keras.Input((4,))
    model = Steps(x, L.Dense(3)(x))
    with pytest.raises(ValueError, match="a Steps, which has a `train_step`.*`loss=`"):
        kpi.score(model, (X, C))
    assert kpi.score(model, (X, C), loss=SPARSE, verbose=0)
    model.compile("sgd", SPARSE)
    assert kpi.score(model, (X, C), verbose=0)
    with pytest.raises(ValueError, match="`model.encoder = prune_at_init\\(model.enc"):
        kpi.score(Parts(), (X, C), loss=SPARSE)


def test_all_scores_of_zero_are_refused():
    model, data = CASES["object"]()

    def wrong(y, p):
        return tf.cast(tf.argmax(p, -1) != tf.cast(y, "int64"), "float32")

    with pytest.raises(ValueError, match="scores of 0 for all of .*/kernel, .*/kernel"):
        kpi.prune_at_init(model, data, loss=wrong)
    with pytest.raises(ValueError, match="sample weights"):
        kpi.score(model, (*data, np.zeros(N)))
    with pytest.raises(ValueError, match="scores of 0 for all"):
        kpi.score(mlp(kernel_initializer="zeros"), None, "magnitude")


# --- GraSP's temperature ---


def logits(activation=None, loss=SPARSE):
    keras.utils.set_random_seed(1)
    return dense(3, activation, loss)


def hand_written(y, p):
    y = ops.one_hot(ops.cast(ops.reshape(y, (-1,)), "int32"), 3)
    return ops.logsumexp(p, -1) - ops.sum(y * p, -1)


def unnamed_probabilities(y, p):
    y = ops.one_hot(ops.cast(ops.reshape(y, (-1,)), "int32"), 3)
    return -ops.sum(y * ops.log(p), -1)


GRASP = kpi.get_method("grasp")


@pytest.mark.parametrize(
    "activation, loss, y",
    [
        (None, hand_written, C),
        (None, keras.losses.SparseCategoricalCrossentropy(True, name="loss"), C),
        (None, keras.losses.CategoricalCrossentropy(True), ONE_HOT),
        ("softmax", "sparse_categorical_crossentropy", C),
        ("softmax", unnamed_probabilities, C),
        ("softmax", "kl_divergence", ONE_HOT),
    ],
)
def test_the_temperature_goes_by_what_the_loss_is(activation, loss, y):
    expected = kpi.score(logits(), (X, C), GRASP, verbose=0)
    model = logits(activation, loss)
    found = kpi.score(model, (X, y), GRASP, verbose=0)
    for a, b in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3 * np.abs(b).max())
    pruned = kpi.prune_at_init(model, (X, y), "grasp", sparsity=0.5, verbose=0)
    assert not kpi.report(pruned).notes


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_the_temperature_of_binary_classifiers(activation):
    logits = activation is None
    found = []
    for loss in (
        keras.losses.BinaryCrossentropy(from_logits=logits),
        keras.losses.BinaryCrossentropy(from_logits=logits, name="other"),
        lambda y, p: keras.losses.binary_crossentropy(y, p, from_logits=logits),
    ):
        keras.utils.set_random_seed(1)
        model = dense(1, activation, loss)
        found.append(kpi.score(model, (X, B, W), "grasp", verbose=0))
        plain = kpi.score(model, (X, B, W), kpi.get_method("grasp", temperature=1))
    for scores in found[1:]:
        for path, a, b in zip(plain, scores.values(), found[0].values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())
            assert np.abs(a).max() < 0.1 * np.abs(plain[path]).max()


@pytest.mark.parametrize(
    "units, activation, loss, y",
    [
        (1, None, "mse", Y1),
        (1, "sigmoid", "mse", B),
        (1, "sigmoid", "binary_focal_crossentropy", B),
        (3, "softmax", keras.losses.CategoricalFocalCrossentropy(), ONE_HOT),
        (3, "softplus", "poisson", ONE_HOT),
        (3, "sigmoid", "categorical_crossentropy", ONE_HOT),
    ],
)
def test_where_the_loss_is_none_the_note_says_so(units, activation, loss, y):
    model = dense(units, activation, loss)
    found = kpi.score(model, (X, y), "grasp", verbose=0)
    plain = kpi.get_method("grasp", temperature=1)
    assert_equal = np.testing.assert_array_equal
    for path, v in kpi.score(model, (X, y), plain, verbose=0).items():
        assert_equal(found[path], v)
    pruned = kpi.prune_at_init(model, (X, y), "grasp", sparsity=0.5, verbose=0)
    (note,) = kpi.report(pruned).notes
    assert note == (
        "GraSP: without the temperature of 200, as the loss is no cross-entropy."
    )
    pruned = kpi.prune_at_init(model, (X, y), plain, sparsity=0.5, verbose=0)
    assert not kpi.report(pruned).notes


def test_only_outputs_with_logits_have_a_temperature():
    model, data = CASES["list"]()
    pruned = kpi.prune_at_init(model, data, "grasp", sparsity=0.5, verbose=0)
    assert "the loss of some outputs is no cross-entropy" in kpi.report(pruned).notes[0]


@pytest.mark.parametrize("name", ["void is 255", "void is -1", "smoothing", "weights"])
def test_labels_left_out_and_weights_leave_a_cross_entropy(name):
    model, data = CASES[name]()
    pruned = kpi.prune_at_init(model, data, "grasp", sparsity=0.5, verbose=0)
    assert not kpi.report(pruned).notes


def test_a_temperature_leaves_the_mask():
    """Whatever follows the end of a sequence makes no difference."""
    model, (tokens, tags) = CASES["masked sequences"]()
    other = np.where(tokens == 0, 2 - tags, tags)
    a, b = (kpi.score(model, (tokens, y), "grasp", verbose=0) for y in (tags, other))
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])


# --- Losses of models that were not compiled ---


def softmax_by_hand(z):
    z = ops.exp(z - ops.max(z, -1, keepdims=True))
    return z / ops.sum(z, -1, keepdims=True)


class Ends(keras.Model):
    """Ends with a function of Keras or TensorFlow."""

    def __init__(self, end):
        super().__init__()
        self.dense, self.end = L.Dense(3), end

    def call(self, x):
        return self.end(self.dense(x))


def subclassed(end):
    model = Ends(end)
    model(X)
    return model


def graph(*ends):
    return keras.Sequential([keras.Input((4,)), L.Dense(3), *ends])


@tf.function
def traced(z):
    return tf.nn.softmax(z)


SOFTMAX = {
    "activation": lambda: keras.Sequential([keras.Input((4,)), L.Dense(3, "softmax")]),
    "layer": lambda: graph(L.Softmax()),
    "Activation": lambda: graph(L.Activation(tf.nn.softmax)),
    "by another name": lambda: graph(L.Activation(softmax_by_hand)),
    "then reshape": lambda: graph(L.Softmax(), L.Reshape((1, 3)), L.Flatten()),
    "then dropout": lambda: graph(L.Softmax(), L.Dropout(0.5), L.Activation("linear")),
    "nested": lambda: graph(keras.Sequential([keras.Input((3,)), L.Softmax()])),
    "operation": lambda: functional(ops.softmax),
    "subclassed": lambda: subclassed(tf.nn.softmax),
    "in a tf.function": lambda: subclassed(traced),
}
LOGITS = {
    "dense": graph,
    "sum": lambda: functional(lambda z: z + z[:, :1]),
    "scaled": lambda: subclassed(lambda z: z / 3.0),
    "normalized": lambda: graph(L.BatchNormalization()),
}


def functional(end):
    x = keras.Input((4,))
    return keras.Model(x, end(L.Dense(3)(x)))


@pytest.mark.parametrize("name", [*SOFTMAX, *LOGITS])
def test_a_loss_is_inferred_from_what_the_output_computes(name):
    model = {**SOFTMAX, **LOGITS}[name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=name in LOGITS)
    found = kpi.score(model, (X, C), batch_norm="eval", verbose=0)
    expected = kpi.score(model, (X, C), loss=loss, batch_norm="eval", verbose=0)
    assert_same(found, expected)


@pytest.mark.parametrize(
    "end",
    [
        lambda z: tf.nn.log_softmax(z),
        lambda z: tf.exp(z),
        lambda z: (tf.nn.softmax(z) + tf.nn.softmax(2 * z)) / 2,
        lambda z: tf.nn.softmax(z, axis=0),
        lambda z: tf.nn.relu(z),
    ],
)
def test_an_output_that_is_not_known_asks_for_a_loss(end):
    model = subclassed(end)
    with pytest.raises(ValueError, match="made in another way. Pass `loss=`"):
        kpi.score(model, (X, C))
    assert kpi.score(model, (X, ONE_HOT), loss="mse", verbose=0)


@pytest.mark.parametrize(
    "activation, units, y, loss",
    [
        ("sigmoid", 1, B, keras.losses.BinaryCrossentropy()),
        ("sigmoid", 1, BN1, keras.losses.BinaryCrossentropy()),
        (tf.nn.sigmoid, 1, B, keras.losses.BinaryCrossentropy()),
        (None, 1, B, keras.losses.BinaryCrossentropy(from_logits=True)),
        ("sigmoid", 3, classes(2, 3), keras.losses.BinaryCrossentropy()),
        ("softmax", 3, ONE_HOT, keras.losses.CategoricalCrossentropy()),
        (None, 3, ONE_HOT, keras.losses.CategoricalCrossentropy(from_logits=True)),
        (None, 3, C.astype("float32"), SPARSE),
        (None, 1, Y1, "mse"),
        (None, 3, draw(N, 3), "mse"),
        ("sigmoid", 3, abs(np.tanh(draw(N, 3))), "mse"),
    ],
)
def test_a_loss_is_inferred_from_labels(activation, units, y, loss):
    model = dense(units, activation, None)
    found = kpi.score(model, (X, y), verbose=0)
    assert_same(found, kpi.score(model, (X, y), loss=loss, verbose=0))


def test_losses_are_inferred_for_several_outputs():
    for outputs, names in (("list", "ab"), ("dict", ("one", "two"))):
        model = two_heads(None, outputs)
        y = dict(zip(names, (C, YN1), strict=True))
        losses = dict(zip(names, (SPARSE, "mse"), strict=True))
        expected = kpi.score(model, (X, y), loss=losses, verbose=0)
        assert_same(kpi.score(model, (X, y), verbose=0), expected)
        del y[names[1]]  # an output without labels has no loss
        scores = kpi.score(model, (X, y), verbose=0)
        assert scores["a/kernel"].any() and not scores["b/kernel"].any()
    with pytest.raises(ValueError, match="Received: 1 labels for 2 outputs"):
        kpi.score(model, (X, C))


@pytest.mark.parametrize(
    "make, data, message",
    [
        (graph, (X, C + 1), "from 0 to 2, as .* labels from 1 to 3"),
        (graph, (X, draw(N)), "labels of shape \\(12,\\) and dtype float32"),
        (
            lambda: logits(None, "mse"),
            (X, draw(N, 7)),
            "shape \\(12, 7\\).*\\(12, 3\\)",
        ),
        (lambda: logits(None, "nonsense"), (X, C), "nonsense.*Pass `loss=`"),
        (graph, (X,), "must give \\(x, y\\).*x alone"),
        (listed_inputs, ([X], B), "one array for each input. *.*1 arrays for 2"),
        (listed_inputs, ({"z": X, "b": X}, B), "1 arrays for 2 inputs"),
        (listed_inputs, ([X, X], B), "x of shape \\(12, 4\\) for an input .*None, 3"),
        (lambda: subclassed(tf.identity), (draw(N, 7), C), "take the first batch"),
    ],
)
def test_data_that_does_not_fit_is_refused(make, data, message):
    with pytest.raises(ValueError, match=message):
        kpi.prune_at_init(make(), data)


def test_signal_report_takes_the_same_data():
    for name in ("add_loss", "list of weights", "inputs by name", "own compute_loss"):
        model, data = CASES[name]()
        assert kpi.signal_report(model, data).rows[0].gradient > 0
    model = mlp()
    assert kpi.signal_report(model, batch(model), SPARSE).rows[0].gradient > 0
