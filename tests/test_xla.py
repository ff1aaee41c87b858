"""What a TPU asks for: static shapes, and operations that XLA compiles."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import batch, masked_list
from shrinking import NETWORKS
from test_methods_common import EACH, net

import keras_prune_init as kpi
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.scoring import network


@pytest.fixture
def compiled(monkeypatch):
    """Scoring compiles all its steps; how many were, is in the list."""
    steps = []

    def compile(self, function):
        steps.append(tf.function(function, jit_compile=True, autograph=False))
        return steps[-1]

    monkeypatch.setattr(network.Network, "graph_if_it_pays", compile)
    return steps


@EACH
def test_scoring_compiles(name, options, needs_data, compiled, monkeypatch):
    model, data = net()
    found = kpi.score(model, data, name, **options)
    count = len(compiled)
    assert count == (0 if name in ("random", "magnitude") else 1)
    monkeypatch.undo()
    expected = kpi.score(model, data, name, **options)
    for a, b in zip(expected.values(), found.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("name", ["residual", "inverted"])
def test_training_step_compiles(name):
    model = net()[0] if name == "residual" else NETWORKS[name]()
    x, y = batch(model, 8)
    pruned = kpi.prune_at_init(model, (x, y), sparsity=0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned.compile(keras.optimizers.SGD(0.05), loss, jit_compile=True)
    losses = [pruned.train_on_batch(x, y) for _ in range(5)]
    assert losses[-1] < losses[0]
    for layer in masked_list(pruned):
        kernel = get_kernel(layer.layer, layer.kernels[0]).numpy()
        assert not kernel[layer.mask.numpy() == 0].any()
