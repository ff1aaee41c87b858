"""L-OBS: the inputs of layers of every kind, errors, new weights and biases."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, masks, mlp, net, transformer

import keras_prune_init as kpi
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.scoring import checks, layer_inputs
from keras_prune_init.scoring.products import product

BIASED = {"bias_initializer": "random_normal"}
IMAGE, SERIES = (5, 6, 4), (6, 5)
# A layer, and the shape of what it reads.
LAYERS = {
    "dense": (lambda: L.Dense(3, **BIASED), (5,)),
    "dense of series": (lambda: L.Dense(3), SERIES),
    "conv1d causal": (lambda: L.Conv1D(3, 2, padding="causal"), SERIES),
    "conv1d dilated": (lambda: L.Conv1D(3, 2, dilation_rate=2, **BIASED), SERIES),
    "conv2d same": (lambda: L.Conv2D(3, 3, padding="same", **BIASED), IMAGE),
    "conv2d strided": (lambda: L.Conv2D(3, (3, 2), strides=2), IMAGE),
    "conv2d strides": (lambda: L.Conv2D(3, 2, strides=(1, 2), **BIASED), IMAGE),
    "conv2d grouped": (lambda: L.Conv2D(6, 2, groups=2, **BIASED), IMAGE),
    "conv2d pointwise": (lambda: L.Conv2D(3, 1), IMAGE),
    "conv3d": (lambda: L.Conv3D(2, 2, strides=2, padding="same"), (3, 4, 3, 2)),
    "depthwise": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2, **BIASED), IMAGE),
    "depthwise1d": (lambda: L.DepthwiseConv1D(2, padding="same"), SERIES),
    "transposed1d": (lambda: L.Conv1DTranspose(3, 3, strides=2), SERIES),
    "transposed": (
        lambda: L.Conv2DTranspose(3, 3, 2, padding="same", **BIASED),
        IMAGE,
    ),
    "einsum": (
        lambda: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", **BIASED),
        SERIES,
    ),
    "einsum of groups": (
        lambda: L.EinsumDense("bgi,gio->bgo", (6, 2), bias_axes="go", **BIASED),
        SERIES,
    ),
    "einsum of any rank": (
        lambda: L.EinsumDense("...x,xy->...y", (4,), bias_axes="y", **BIASED),
        SERIES,
    ),
}
EACH = pytest.mark.parametrize("make, shape", LAYERS.values(), ids=LAYERS)


def single(make, shape, samples=50, seed=0):
    """A model of one layer, and correlated inputs."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, make()(inputs))
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, *shape)) @ rng.normal(size=(shape[-1], shape[-1]))
    return model, x.astype("float32")


def change(model, pruned, x):
    """The mean square of the change of a position's outputs."""
    a, b = np.asarray(model(x)), np.asarray(pruned(x))
    return ((a - b) ** 2).sum() / (a.size / a.shape[-1])


@EACH
def test_inputs_times_kernel_are_the_outputs(make, shape):
    model, x = single(make, shape)
    [kernel] = find_kernels(model)
    made_by = product(kernel)
    rows = np.asarray(made_by.inputs(tf.constant(x)))
    made = np.einsum("pgn,gon->pgo", rows, made_by.split(kernel.value))
    outputs = np.asarray(model(x)).reshape(len(rows), *made.shape[1:])
    if getattr(kernel.layer, "bias", None) is not None:
        outputs = outputs - np.asarray(kernel.layer.bias).reshape(made.shape[1:])
    np.testing.assert_allclose(made, outputs, rtol=1e-4, atol=1e-4)
    split = made_by.split(kernel.value)
    np.testing.assert_array_equal(made_by.join(split, kernel.shape), kernel.value)


@EACH
def test_the_error_is_the_least_for_the_masks(make, shape):
    """Against least squares over the kept weights and the bias of each output."""
    model, x = single(make, shape)
    method = kpi.methods.LOBS(damping=1e-9)
    pruned = kpi.prune(model, (x,), method, sparsity=0.5)
    [kernel] = find_kernels(model)
    made_by = product(kernel)
    rows = np.asarray(made_by.inputs(tf.constant(x)), float)
    [mask] = masks(pruned)
    weights, kept = made_by.split(kernel.value), made_by.split(mask)
    biased = getattr(kernel.layer, "bias", None) is not None
    left = 0.0
    for g in range(rows.shape[1]):
        for w, keep in zip(weights[g], kept[g], strict=True):
            columns = rows[:, g, keep]
            if biased:
                columns = np.concatenate([columns, np.ones((len(rows), 1))], 1)
            target = rows[:, g, ~keep] @ w[~keep]
            found = np.linalg.lstsq(columns, target, rcond=None)[0]
            left += np.sum((target - columns @ found) ** 2)
    outputs = np.asarray(model(x))
    positions = outputs.size / (weights.shape[0] * weights.shape[1])
    a, b = outputs, np.asarray(pruned(x))
    error = ((a - b) ** 2).sum() / positions
    assert error == pytest.approx(left / positions, rel=1e-3, abs=1e-7)


@EACH
@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.9])
def test_the_error_is_below_that_of_magnitude(make, shape, sparsity):
    model, x = single(make, shape)
    pruned = kpi.prune(model, (x,), "lobs", sparsity=sparsity)
    other = kpi.prune(model, None, "magnitude", sparsity=sparsity)
    assert change(model, pruned, x) <= change(model, other, x)
    assert kpi.report(pruned).kept == kpi.report(other).kept


@pytest.mark.parametrize("make", [L.SimpleRNN, L.LSTM, L.GRU])
@pytest.mark.parametrize("wrapped", [False, True])
def test_recurrent_layers_and_their_states(make, wrapped):
    layer = make(6, return_sequences=True)
    model, x = single(lambda: L.Bidirectional(layer) if wrapped else layer, SERIES)
    pruned = kpi.prune(model, (x,), "lobs", sparsity=0.5, allocation="uniform")
    other = kpi.prune(model, None, "magnitude", sparsity=0.5, allocation="uniform")
    assert change(model, pruned, x) < 0.5 * change(model, other, x)


def test_attention_and_embeddings_of_a_transformer():
    keras.utils.set_random_seed(0)
    model = transformer()
    x = np.random.default_rng(0).integers(0, 20, size=(64, 7))
    pruned = kpi.prune(model, (x,), "lobs", sparsity=0.5, allocation="uniform")
    other = kpi.prune(model, None, "magnitude", sparsity=0.5, allocation="uniform")
    assert change(model, pruned, x) < 0.5 * change(model, other, x)


def test_tokens_that_never_occur_go_first():
    model = keras.Sequential([keras.Input((4,), dtype="int32"), L.Embedding(10, 3)])
    x = np.array([[0, 1, 2, 2]] * 8)
    method = kpi.methods.LOBS(damping=1e-9)
    pruned = kpi.prune(model, (x,), method, sparsity=0.7)
    [mask] = masks(pruned)
    assert mask[:3].all() and not mask[3:].any()


def test_layers_that_are_called_twice_count_both_calls():
    layer = L.Dense(3, use_bias=False)
    inputs = keras.Input((2, 3))
    model = keras.Model(inputs, layer(layer(inputs)))
    x = np.random.default_rng(0).normal(size=(20, 2, 3)).astype("float32")
    found = []

    class Seen(kpi.methods.LOBS):
        def scores(self, network, weights):
            found.extend(self._layers(network, weights))
            return super().scores(network, weights)

    kpi.score(model, (x,), Seen())
    both = np.concatenate([x.reshape(-1, 3), np.asarray(layer(x)).reshape(-1, 3)])
    expected = both.T @ both / len(both)
    np.testing.assert_allclose(found[0].moments.matrix[0], expected, rtol=1e-4)


def test_scores_of_the_published_way():
    model, x = single(*LAYERS["dense"])
    method = kpi.methods.LOBS(damping=0.1, downdate=False)
    [score] = kpi.score(model, (x,), method).values()
    y = np.c_[x, np.ones(len(x))].astype(float)
    psi = y.T @ y / len(y)
    inverse = np.linalg.inv(psi + 0.1 * np.diag(psi).mean() * np.eye(6))
    kernel = model.layers[1].kernel.numpy()
    expected = kernel**2 / np.diag(inverse)[:5, None]
    outputs = (kernel.T @ psi[:5, :5] * kernel.T).sum()
    np.testing.assert_allclose(score, expected / outputs, rtol=1e-4)


@pytest.mark.parametrize("downdate", [True, False])
def test_the_report_has_the_error_of_each_layer(downdate):
    keras.utils.set_random_seed(0)
    model = mlp()
    x, y = batch(model, 100)
    method = kpi.methods.LOBS(downdate=downdate)
    pruned = kpi.prune(model, (x, y), method, sparsity=0.5)
    first = keras.Model(model.inputs, model.layers[0].output)
    linear = keras.models.clone_model(first)
    linear.set_weights(first.get_weights())
    linear.layers[1].activation = keras.activations.linear
    a = np.asarray(linear(x))
    linear.set_weights(kpi.strip(pruned).get_weights()[:2])
    b = np.asarray(linear(x))
    error = ((a - b) ** 2).sum(1).mean()
    assert f"their change {error:.4g} (" in kpi.report(pruned).notes[0]
    assert len(kpi.report(pruned).notes) == 3


def test_iterations_see_the_inputs_so_far_and_move_biases_on():
    keras.utils.set_random_seed(0)
    model = mlp()
    data = batch(model, 100)
    once = kpi.prune(model, data, kpi.methods.LOBS(), sparsity=0.7)
    method = kpi.methods.LOBS(iterations=3)
    pruned = kpi.prune(model, data, method, sparsity=0.7)
    assert kpi.report(pruned).kept == kpi.report(once).kept
    changes = [change(model, p, data[0]) for p in (once, pruned)]
    assert changes[1] < 3 * changes[0]  # it is no other network


def test_frozen_and_pruned_models_go_on():
    keras.utils.set_random_seed(0)
    model = mlp()
    data = batch(model, 100)
    model.layers[0].trainable = False
    pruned = kpi.prune(model, data, "lobs", sparsity=0.5)
    assert not pruned.layers[0].trainable
    more = kpi.prune(pruned, data, "lobs", sparsity=0.8)
    assert kpi.report(more).sparsity == pytest.approx(0.8, abs=0.01)
    for a, b in zip(masks(pruned), masks(more), strict=True):
        assert not (b & ~a).any()


@pytest.mark.parametrize("what", ["2:4", "1x4"])
def test_patterns_are_made_up_for(what):
    model, x = single(lambda: L.Dense(8), (8,))
    pruned = kpi.prune(model, (x,), "lobs", sparsity=0.5, what=what)
    other = kpi.prune(model, None, "magnitude", sparsity=0.5, what=what)
    assert change(model, pruned, x) < change(model, other, x)


def test_cut_channels_are_made_up_for():
    keras.utils.set_random_seed(0)
    model, (x, _) = net()
    x = np.concatenate([x] * 5) + np.random.default_rng(1).normal(
        0, 0.1, (60, 6, 6, 2)
    ).astype("float32")
    small = kpi.prune(model, (x,), "lobs", sparsity=0.4, what="channels")
    other = kpi.prune(model, None, "magnitude", sparsity=0.4, what="channels")
    assert change(model, small, x) < change(model, other, x)
    assert not any(isinstance(v, kpi.MaskedLayer) for v in small.layers)


def test_the_compact_layout_has_the_same_weights():
    model = mlp()
    data = batch(model, 60)
    masked = kpi.prune(model, data, "lobs", sparsity=0.5)
    compact = kpi.prune(model, data, "lobs", sparsity=0.5, layout="compact")
    np.testing.assert_allclose(masked(data[0]), compact(data[0]), atol=1e-6)


def test_more_batches_than_fit_in_memory_at_once_are_cut(monkeypatch):
    model, x = single(*LAYERS["conv2d same"])
    whole = kpi.prune(model, (x,), "lobs", sparsity=0.5)
    monkeypatch.setattr(layer_inputs, "PATCHES", 10_000)
    cut = kpi.prune(model, (x,), "lobs", sparsity=0.5)
    np.testing.assert_allclose(whole(x), cut(x), atol=1e-4)


def test_labels_are_not_needed():
    model = mlp()
    x, y = batch(model, 60)
    with_labels = kpi.prune(model, (x, y), "lobs", sparsity=0.5)
    without = kpi.prune(model, x, "lobs", sparsity=0.5)
    np.testing.assert_array_equal(with_labels(x), without(x))


def test_what_cannot_be_seen_is_refused_before_work():
    inputs = keras.Input((3, 5, 5, 2))
    model = keras.Model(inputs, L.ConvLSTM2D(2, 3)(inputs))
    x = np.ones((4, 3, 5, 5, 2), "float32")
    with pytest.raises(ValueError, match="must know how .* ConvLSTMCell.*'obd'"):
        kpi.prune(model, (x,), "lobs")

    class Doubled(L.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    model = keras.Sequential([keras.Input((4,)), Doubled(3)])
    with pytest.raises(ValueError, match="kernel of a Doubled"):
        kpi.prune(model, (np.ones((4, 4)),), "lobs")


def test_layers_that_are_too_wide_are_refused_before_work(monkeypatch):
    model = mlp()
    monkeypatch.setattr(checks.os, "sysconf", lambda name: 30)
    with pytest.raises(ValueError, match="with sequential.*/kernel as its widest"):
        kpi.prune(model, batch(model), "lobs")


def test_nothing_is_moved_if_nothing_goes():
    model = mlp()
    data = batch(model, 40)
    for method in ("lobs", "obs"):
        pruned = kpi.prune(model, data, method, sparsity=0.0)
        np.testing.assert_allclose(pruned(data[0]), model(data[0]), atol=1e-6)


def test_layers_in_graphs_are_refused():
    class InGraph(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        @tf.function
        def call(self, inputs):
            return self.dense(inputs)

    model = InGraph()
    x = np.ones((4, 4), "float32")
    model(x)
    with pytest.raises(ValueError, match="within a `tf.function`"):
        kpi.prune(model, (x,), "lobs")


@pytest.mark.parametrize("options", [{"damping": 0}, {"downdate": "yes"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        kpi.methods.LOBS(**options)
