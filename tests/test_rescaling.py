"""The rescaling trick: factors by hand, what it does for gradients, and refusals."""

import keras
import numpy as np
import pytest
from helpers import L, batch, deep_tanh, masked_list, mlp, subclassed, transformer

import keras_prune_init as kpi
from keras_prune_init.theory.phase import phase_of


def masked(layer, inputs, mask, kernel):
    model = keras.Sequential([keras.Input(inputs), layer])
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.0)
    (wrapper,) = masked_list(pruned)
    wrapper.layer.kernel.assign(kernel)
    wrapper.mask.assign(mask)
    return pruned, wrapper


def test_factors_of_a_dense_layer_computed_by_hand():
    kernel = np.array([[3.0, 1.0, 5.0], [4.0, 2.0, 6.0]])
    mask = np.array([[1, 0, 0], [1, 1, 0]])
    pruned, wrapper = masked(L.Dense(3), (2,), mask, kernel)
    kpi.rescale(pruned, sigma_w=2.0)
    # Energies 9 + 16, 4, and none: the dead unit is left alone.
    np.testing.assert_allclose(wrapper.scale, [[2 / 5, 2 / 2, 1]])
    kpi.rescale(pruned, sigma_w=2.0, granularity="layer")
    np.testing.assert_allclose(wrapper.scale, [[2 / np.sqrt(29 / 3)] * 3])


def test_factors_of_a_convolution_computed_by_hand():
    kernel = np.zeros((1, 2, 2, 1))
    kernel[0, 0, :, 0], kernel[0, 1, :, 0] = (3, 4), (5, 12)
    mask = np.ones((1, 2, 2, 1))
    mask[0, 1, 1, 0] = 0  # removes the 12
    pruned, wrapper = masked(L.Conv2D(1, (1, 2)), (4, 4, 2), mask, kernel)
    kpi.rescale(pruned, sigma_w=1.0)
    np.testing.assert_allclose(np.ravel(wrapper.scale), [1 / np.sqrt(50)] * 2)
    kpi.rescale(pruned, sigma_w=1.0, granularity="position")
    # Half of the variance for each of the two positions.
    expected = np.sqrt(0.5) / np.array([5, 5])
    np.testing.assert_allclose(np.ravel(wrapper.scale), expected)


def test_a_depthwise_channel_is_a_unit():
    kernel = np.arange(1.0, 9).reshape(2, 2, 2, 1)
    pruned, wrapper = masked(
        L.DepthwiseConv2D(2), (4, 4, 2), np.ones_like(kernel), kernel
    )
    kpi.rescale(pruned, sigma_w=3.0)
    energies = np.sum(kernel**2, (0, 1, 3))
    for channel in (0, 1):
        np.testing.assert_allclose(
            wrapper.scale[:, :, channel], 3 / np.sqrt(energies[channel])
        )


@pytest.mark.parametrize(
    "layer, fan_in",
    [
        (L.Conv2D(6, 3, groups=2), 9 * 2),
        (L.Conv2DTranspose(6, 3), 9 * 4),
        (L.EinsumDense("abcd,de->abce", (8, 8, 6)), 4),
        (L.Conv1D(5, 2), 2 * 32),
    ],
)
def test_every_unit_of_other_layers_gets_the_variance(layer, fan_in):
    inputs = (8, 32) if isinstance(layer, L.Conv1D) else (8, 8, 4)
    kernel = np.ones(layer.build((None, *inputs)) or layer.kernel.shape)
    pruned, wrapper = masked(layer, inputs, kernel, kernel)
    kpi.rescale(pruned, sigma_w=2.0)
    np.testing.assert_allclose(wrapper.scale, 2 / np.sqrt(fan_in), rtol=1e-6)


@pytest.mark.parametrize("granularity", ["unit", "layer", "position"])
def test_effective_variance_is_that_of_the_edge_of_chaos(granularity):
    model = deep_tanh(depth=5)
    pruned = kpi.prune_at_init(model, batch(model, 32), sparsity=0.8)
    kept = [(w.mask.numpy(), w.layer.kernel.numpy()) for w in masked_list(pruned)]
    kpi.rescale(pruned, "tanh", granularity=granularity)
    edge = kpi.mean_field.edge_of_chaos("tanh", 0.2)
    for wrapper, (mask, kernel) in zip(masked_list(pruned), kept, strict=True):
        np.testing.assert_array_equal(wrapper.mask, mask)
        np.testing.assert_array_equal(wrapper.layer.kernel, kernel)
        energies = np.sum(np.square(wrapper.masked_kernel("kernel")), 0)
        energies = energies if granularity == "layer" else energies[energies > 0]
        # sigma_b is estimated from the biases.
        assert np.mean(energies) == pytest.approx(edge.sigma_w**2, rel=0.03)


def test_gradients_reach_the_first_layer_with_rescaling_and_not_without():
    model = deep_tanh(depth=40, width=100)
    data = batch(model, 64)
    plain = kpi.prune_at_init(model, data, sparsity=0.9)
    rescaled = kpi.prune_at_init(model, data, sparsity=0.9, rescale=True)
    assert kpi.report(plain).digest == kpi.report(rescaled).digest
    assert kpi.signal_report(plain, data).gradient_ratio < 1e-8
    assert kpi.signal_report(rescaled, data).gradient_ratio > 0.01


def test_rescaling_twice_is_rescaling_once():
    model = deep_tanh(depth=4)
    pruned = kpi.prune_at_init(model, batch(model), sparsity=0.5, rescale=True)
    before = [np.array(w.scale) for w in masked_list(pruned)]
    kpi.rescale(pruned)
    for wrapper, scale in zip(masked_list(pruned), before, strict=True):
        np.testing.assert_array_equal(wrapper.scale, scale)


def test_a_rescaled_model_saves_strips_and_trains(tmp_path, eagerly):
    model = deep_tanh(depth=4)
    x, y = batch(model, 32)
    pruned = kpi.prune_at_init(model, (x, y), sparsity=0.7, rescale=True)
    pruned.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    losses = pruned.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    pruned.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(pruned(x), loaded(x))
    np.testing.assert_allclose(kpi.strip(pruned)(x), pruned(x), atol=1e-5)


def residual():
    x = inputs = keras.Input((4,))
    for _ in range(2):
        x = x + L.Dense(4, "relu")(x)
    return keras.Model(inputs, x)


REFUSED = {
    "residual": (residual, "2 residual additions.*proposition 3.*sbp_sr"),
    "normalized": (
        lambda: keras.Sequential(
            [keras.Input((3,)), L.Dense(4), L.BatchNormalization(name="norm")]
            + [L.ReLU(), L.Dense(2)]
        ),
        "`norm` normalizes away",
    ),
    "transformer": (transformer, "Received: functional.*residual"),
    "recurrent": (
        lambda: keras.Sequential([keras.Input((2, 2)), L.SimpleRNN(3), L.Dense(2)]),
        "mean field theory does not cover: simple_rnn",
    ),
    "subclassed": (subclassed, "Sequential and Functional models"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_the_theory_excludes_are_refused_before_any_work(name):
    build, message = REFUSED[name]
    model = build()
    with pytest.raises(ValueError, match=message):
        kpi.prune_at_init(model, None, "magnitude", rescale=True)
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5)
    for options in ({}, {"sigma_w": 1.0}, {"activation": "relu"}):
        with pytest.raises(ValueError, match=message):
            kpi.rescale(pruned, **options)
    ones = [s.numpy() for w in masked_list(pruned) for s in w.scales.values()]
    assert all((s == 1).all() for s in ones)
    kpi.rescale(pruned, "relu", force=True)
    scaled = [s.numpy() for w in masked_list(pruned) for s in w.scales.values()]
    assert any((s != 1).any() for s in scaled)


def test_normalization_of_the_inputs_is_no_obstacle():
    layers = [L.BatchNormalization(), L.Dense(4, "relu"), L.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    kpi.prune_at_init(model, None, "magnitude", rescale=True)


def test_bad_arguments_are_refused():
    pruned = kpi.prune_at_init(mlp(), None, "magnitude", sparsity=0.5)
    with pytest.raises(ValueError, match="one of .*Received: granularity='row'"):
        kpi.rescale(pruned, "relu", granularity="row")
    with pytest.raises(ValueError, match="must be positive. Received: sigma_w=0"):
        kpi.rescale(pruned, sigma_w=0)
    with pytest.raises(ValueError, match="takes a pruned model"):
        kpi.rescale(mlp())
    x = keras.Input((4,))
    mixed = L.Dense(4, "relu")(x) + L.Dense(4, "tanh")(x)
    model = keras.Model(x, L.Dense(2, name="last")(mixed))
    with pytest.raises(ValueError, match="read several.*last/kernel"):
        kpi.prune_at_init(model, None, "magnitude", rescale=True)


@pytest.mark.parametrize(
    "sigma_w, words", [(None, "near the edge"), (0.8, "ordered"), (2.0, "chaotic")]
)
def test_the_phase_of_an_actual_model(sigma_w, words):
    phase = phase_of(deep_tanh(sigma_w, depth=12, width=60))
    expected = kpi.mean_field.chi("tanh", sigma_w or 1.3041, 0.2)
    assert phase.chi == pytest.approx(expected, rel=0.05)
    assert phase.depth == 12 and phase.off is bool(sigma_w)
    assert words in str(phase)
