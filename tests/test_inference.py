"""The loss of a model that was not compiled, and data that fits no loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L
from objectives import (
    BN1,
    ONE_HOT,
    SPARSE,
    Y1,
    YN1,
    B,
    C,
    N,
    X,
    assert_same,
    classes,
    dense,
    draw,
    listed_inputs,
    logits,
    of_plain_keras,
    ops,
    two_heads,
)

import keras_prune_init as kpi


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
    snip = kpi.methods.SNIP(batch_norm="eval")
    found = kpi.score(model, (X, C), snip, verbose=0)
    expected = kpi.score(model, (X, C), snip, loss=loss, verbose=0)
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
    model.compile("sgd", loss)
    assert_same(found, of_plain_keras(model, X, y))


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
