"""Weights, multiply-adds and training state, counted by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp, transformer

import keras_prune_init as kpi

# Layer, shape of a sample, and multiply-adds of it by hand.
LAYERS = {
    "dense": (lambda: L.Dense(4), (5,), 5 * 4),
    "dense on rows": (lambda: L.Dense(4), (7, 5), 7 * 5 * 4),
    "conv1d": (lambda: L.Conv1D(4, 3), (9, 2), 7 * 3 * 2 * 4),
    "conv2d": (
        lambda: L.Conv2D(4, 3, strides=2, padding="same"),
        (6, 6, 2),
        3 * 3 * 9 * 2 * 4,
    ),
    "grouped": (lambda: L.Conv2D(4, 3, groups=2), (6, 6, 2), 16 * 9 * 1 * 4),
    "transposed": (
        lambda: L.Conv2DTranspose(3, 3, strides=2),
        (5, 5, 2),
        25 * 9 * 2 * 3,
    ),
    "depthwise": (
        lambda: L.DepthwiseConv2D(3, depth_multiplier=2),
        (6, 6, 2),
        16 * 9 * 2 * 2,
    ),
    "separable": (
        lambda: L.SeparableConv2D(4, 3),
        (6, 6, 2),
        16 * 9 * 2 + 16 * 2 * 4,
    ),
    "einsum": (
        lambda: L.EinsumDense("abc,cde->abde", (None, 3, 2)),
        (4, 5),
        4 * 5 * 3 * 2,
    ),
    "lstm": (lambda: L.LSTM(3), (6, 5), 6 * (5 + 3) * 12),
    "gru": (lambda: L.GRU(3, return_sequences=True), (6, 5), 6 * (5 + 3) * 9),
    "bidirectional": (
        lambda: L.Bidirectional(L.SimpleRNN(3)),
        (6, 5),
        2 * 6 * (5 + 3) * 3,
    ),
    "time distributed": (lambda: L.TimeDistributed(L.Dense(3)), (6, 5), 6 * 15),
    "embedding": (lambda: L.Embedding(7, 4), (6,), 0),
}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *((name, "") for name in LAYERS),
        *zip(LAYERS, ("masked", "compact") * (len(LAYERS) // 2), strict=True),
    ],
)
def test_multiply_adds_of_a_layer(name, layout):
    make, shape, macs = LAYERS[name]
    model = keras.Sequential([keras.Input(shape), make()])
    expected = macs
    if layout:
        model = kpi.prune_at_init(
            model, None, "random", sparsity=0.5, layout=layout, allocation="uniform"
        )
    found = kpi.cost(model)
    assert found.macs == expected
    assert found.weights == sum(k.total for k in found.kernels) + found.others
    if layout:
        by_hand = sum(k.kept * k.uses for k in found.kernels)
        assert found.effective_macs == by_hand <= expected // 2 + 40


def test_shared_layers_count_each_time_and_nested_models_too():
    inputs = keras.Input((4,))
    shared = L.Dense(4)
    inner = keras.Sequential([keras.Input((4,)), L.Dense(6)])
    model = keras.Model(inputs, inner(shared(shared(inputs))))
    assert kpi.cost(model).macs == 16 + 16 + 24


def test_attention_counts_its_projections():
    found = kpi.cost(transformer())
    assert all(k.uses in (0, 7, 1) for k in found.kernels)
    assert found.macs == sum(k.total * k.uses for k in found.kernels) > 0


def test_models_of_text_are_counted():
    words = L.TextVectorization(output_mode="multi_hot", vocabulary=["a", "b", "c"])
    text = keras.Input((1,), dtype="string")
    model = keras.Model(text, L.Dense(2)(L.Dense(5)(words(text))))
    assert kpi.cost(model).macs == 4 * 5 + 5 * 2  # with the unknown word


class Loop(L.Layer):
    """Runs a layer three times, in a loop of TensorFlow."""

    def build(self, shape):
        self.dense = L.Dense(shape[-1])
        self.dense.build(shape)

    def call(self, x):
        step = lambda i, x: (i + 1, self.dense(x))  # noqa: E731
        return tf.while_loop(lambda i, x: i < 3, step, (0, x))[1]


def test_layers_in_loops_count_as_often_as_they_run():
    model = keras.Sequential([keras.Input((4,)), Loop()])
    assert kpi.cost(model).macs == 3 * 4 * 4


def test_known_networks():
    model = keras.applications.MobileNetV2(weights=None)
    found = kpi.cost(model)
    # As published: 300 million multiply-adds, 3.4 million weights with vectors.
    assert found.macs == pytest.approx(300e6, rel=0.005)
    assert found.weights == sum(np.prod(v.shape) for v in model.trainable_variables)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": keras.optimizers.Adam,
}


@pytest.mark.parametrize("layout", ["dense", "masked", "compact"])
def test_training_state_is_that_of_the_variables(layout, eagerly):
    model = mlp((64, 64), inputs=32)
    x, y = batch(model, 16)
    if layout != "dense":
        model = kpi.prune_at_init(model, (x, y), sparsity=0.9, layout=layout)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for name, optimizer in OPTIMIZERS.items():
        model.compile(optimizer(), loss)
        model.fit(x, y, verbose=0)
        variables = [*model.variables, *model.optimizer.variables]
        held = sum(v.numpy().nbytes for v in variables)
        # Scales, iteration and learning rate come on top.
        scales = 4 * (64 + 64 + 3) if layout != "dense" else 0
        found = kpi.cost(model).state_bytes(layout, name)
        assert held - scales - 12 == found


def test_text_and_report():
    model = mlp()
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5)
    text = str(kpi.cost(pruned))
    assert (
        "multiply-adds" in text and "training state, dense / masked / compact" in text
    )
    report = kpi.report(pruned)
    assert report.cost.macs == 5 * 8 + 8 * 6 + 6 * 3
    assert report.cost.effective_macs == report.kept
    assert "multiply-adds 53 of 106" in str(report)
