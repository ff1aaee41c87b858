"""What a TPU asks for: static shapes, and operations that XLA compiles."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, masked_list, net

import keras_prune_init as kpi
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.scoring import network


@pytest.fixture
def compiled(monkeypatch):
    """Scoring compiles all its steps; how many were, is in the list."""
    steps = []

    def compile(self, function, times=1):
        steps.append(tf.function(function, jit_compile=True, autograph=False))
        return steps[-1]

    monkeypatch.setattr(network.Network, "graph_if_it_pays", compile)
    return steps


# SNIP of the network as it is given, and GraSP with branches that are scaled.
@pytest.mark.parametrize(
    ("name", "count"),
    [("snip", 1), ("grasp_sr", 1), ("synflow", 1), ("magnitude", 0)],
)
def test_scoring_compiles(name, count, compiled, monkeypatch):
    model, data = net()
    method = kpi.get_method(name, iterations=2 if name == "synflow" else 1)
    found = kpi.score(model, data, method)
    assert len(compiled) == count
    monkeypatch.undo()
    expected = kpi.score(model, data, method)
    for a, b in zip(expected.values(), found.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5 * np.abs(a).max())


def test_training_step_compiles():
    x = inputs = keras.Input((6, 6, 2))
    x = L.BatchNormalization()(L.Conv2D(4, 3, use_bias=False)(x))
    x = L.Add()([x, L.DepthwiseConv2D(3, padding="same", activation="relu")(x)])
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    x, y = batch(model, 8)
    pruned = kpi.prune_at_init(model, (x, y), sparsity=0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned.compile(keras.optimizers.SGD(0.05), loss, jit_compile=True)
    losses = [pruned.train_on_batch(x, y) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert len(masked_list(pruned)) == 3
    for layer in masked_list(pruned):
        kernel = get_kernel(layer.layer, layer.kernels[0]).numpy()
        assert not kernel[layer.mask.numpy() == 0].any()
