"""Compiled models and data of every kind, and what plain Keras makes of them."""

import functools

import keras
import numpy as np
import tensorflow as tf
from helpers import L

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


def tagger(hidden):
    layers = [L.Embedding(7, 5, mask_zero=True), hidden, L.Dense(3)]
    model = keras.Sequential([keras.Input((None,)), *layers])
    model.compile("sgd", SPARSE)
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
    """Adds a loss of its own, in float32 whatever the model computes in."""

    def call(self, x):
        self.add_loss(0.3 * ops.cast(ops.mean(x**2), "float32"))
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
    "masked sequences": lambda: (tagger(L.Dense(4, "tanh")), (TOKENS, TAGS)),
    "masked and recurrent": lambda: (
        tagger(L.GRU(4, return_sequences=True)),
        (TOKENS, TAGS),
    ),
    "masked and weighted": lambda: (
        tagger(L.Dense(4, "tanh")),
        (TOKENS, TAGS, draw(N, 5)),
    ),
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


def logits(activation=None, loss=SPARSE):
    keras.utils.set_random_seed(1)
    return dense(3, activation, loss)
