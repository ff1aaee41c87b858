"""SBP-SR, GraSP-SR and the recipe that picks what the paper recommends."""

import keras
import numpy as np
import pytest
from helpers import L, batch, deep_tanh, masked_list, mlp, subclassed

import keras_prune_init as kpi

# Inputs and labels for the subclassed model.
VECTORS = np.eye(4, 5, dtype="float32"), np.arange(4) % 3


def residual():
    x = inputs = keras.Input((4,))
    for _ in range(3):
        x = L.Add()([x, L.Dense(4, "tanh")(x)])
    return keras.Model(inputs, L.Dense(3)(x))


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_sr_methods_are_the_plain_ones_on_the_stable_model(name):
    model = residual()
    data = batch(model, 20)
    method = {"snip": "sbp_sr", "grasp": "grasp_sr"}[name]
    found = kpi.score(model, data, method)
    expected = kpi.score(kpi.stabilize(model), data, name)
    assert set(found) == {v.path for v in model.weights if v.name == "kernel"}
    for path in found:
        np.testing.assert_array_equal(found[path], expected[path])
    pruned = kpi.prune_at_init(model, data, method, sparsity=0.8)
    scales = [v.scale for v in pruned.layers if isinstance(v, L.Rescaling)]
    np.testing.assert_allclose(scales, [3**-0.5] * 3)
    assert "3 residual branches scaled by 1/sqrt(3)" in str(kpi.report(pruned))


def test_a_stable_model_is_taken_as_it_is():
    model = kpi.models.resnet((8, 8, 3), depth=8, width=4, stable=True)
    pruned = kpi.prune_at_init(model, batch(model), "sbp_sr", sparsity=0.5)
    assert len(pruned.layers) == len(model.layers)
    assert "scaled already" in kpi.report(pruned).notes[0]


def test_sr_methods_refuse_plain_networks():
    model = mlp()
    with pytest.raises(ValueError, match="no residual additions"):
        kpi.prune_at_init(model, batch(model), "sbp_sr")


def robust(model, data=None):
    data = data or batch(model, 20)
    pruned = kpi.prune_at_init(model, data, "robust", sparsity=0.8)
    (note,) = kpi.report(pruned).notes
    return pruned, note


def same_masks(a, b):
    return kpi.report(a).digest == kpi.report(b).digest


def rescaled(model):
    layers = [v for v in model.layers if isinstance(v, kpi.MaskedLayer)]
    return any((v.scale.numpy() != 1).any() for v in layers)


def assert_saved_with(note, pruned, tmp_path):
    pruned.save(tmp_path / "model.keras")
    loaded = kpi.report(keras.models.load_model(tmp_path / "model.keras"))
    assert loaded.notes == [note]
    assert note in loaded.to_json()


def test_robust_takes_sbp_sr_for_residual_networks(tmp_path):
    model = residual()
    pruned, note = robust(model)
    assert note.startswith("Robust: SBP-SR, as the network is residual.")
    other = kpi.prune_at_init(model, batch(model, 20), "sbp_sr", sparsity=0.8)
    assert same_masks(pruned, other) and not rescaled(pruned)
    assert_saved_with(note, pruned, tmp_path)


def test_robust_takes_sbp_alone_for_plain_networks_with_batch_norm():
    layers = [L.Conv2D(6, 3), L.BatchNormalization(), L.ReLU(), L.Flatten()]
    model = keras.Sequential([keras.Input((6, 6, 3)), *layers, L.Dense(3)])
    pruned, note = robust(model)
    assert note.startswith("Robust: SBP alone") and "normalizes away" in note
    other = kpi.prune_at_init(model, batch(model, 20), "sbp", sparsity=0.8)
    assert same_masks(pruned, other) and not rescaled(pruned)


@pytest.mark.parametrize(
    "sigma_w, words", [(None, "near the edge of chaos"), (0.8, "ordered phase")]
)
def test_robust_rescales_plain_networks_and_checks_their_start(sigma_w, words):
    model = deep_tanh(sigma_w, depth=6, width=60)
    pruned, note = robust(model)
    assert note.startswith("Robust: SBP and rescaling, as the network is plain.")
    assert "Rescaling helps: " in note
    assert words in note
    other = kpi.prune_at_init(model, batch(model, 20), "sbp", sparsity=0.8)
    assert same_masks(pruned, other) and rescaled(pruned)


def test_robust_takes_rescaling_back_where_it_does_harm():
    keras.utils.set_random_seed(0)
    model = kpi.models.mlp((60,), 5, depth=28, width=60, init="eoc")
    data = batch(model, 50)
    pruned, note = robust(model, data)
    assert "Rescaling was taken back" in note and not rescaled(pruned)
    assert 0.1 < kpi.signal_report(pruned, data).gradient_ratio < 10
    kpi.rescale(pruned)
    assert kpi.signal_report(pruned, data).gradient_ratio > 1e3


def test_robust_says_what_it_does_not_know(tmp_path):
    pruned, note = robust(subclassed(), VECTORS)
    assert note == "Robust: SBP alone, as how the layers of a Subclassed connect " + (
        "is not known."
    )
    assert_saved_with(note, pruned, tmp_path)


def gated(width=6):
    """Plain, but layers read several activations: no one edge of chaos."""
    x = inputs = keras.Input((width,))
    for _ in range(2):
        sides = [L.Dense(width, a)(x) for a in ("tanh", "relu")]
        x = L.Multiply()(sides)
    return keras.Model(inputs, L.Dense(3)(x))


def test_where_rescaling_does_not_fit_sbp_is_left_and_the_note_says_so():
    model = gated()
    data = batch(model, 32)
    pruned = kpi.prune_at_init(model, data, "robust", sparsity=0.5, verbose=0)
    [note] = kpi.report(pruned).notes
    assert "Rescaling was left out, as it does not fit: The activation that" in note
    alone = kpi.prune_at_init(model, data, "snip", sparsity=0.5, verbose=0)
    assert kpi.report(pruned).digest == kpi.report(alone).digest
    scales = [s for v in masked_list(pruned) for s in v.scales.values()]
    assert all((s.numpy() == 1).all() for s in scales)


def test_where_sbp_sr_does_not_fit_sbp_is_left_and_the_note_says_so(monkeypatch):
    from keras_prune_init.methods import robust

    class Refusing:
        def recipe(self, model):
            raise ValueError("A block cannot be called again. Received: this one.")

    monkeypatch.setattr(robust, "SBPSR", Refusing)
    model = residual()
    pruned = kpi.prune_at_init(model, batch(model), "robust", verbose=0)
    [note] = kpi.report(pruned).notes
    expected = "SBP alone, as SBP-SR does not fit: A block cannot be called again."
    assert expected in note


def test_augmentation_in_front_hides_nothing():
    layers = [L.RandomFlip(), L.RandomZoom(0.1), L.Rescaling(0.5)]
    layers += [L.Conv2D(6, 3, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, L.Flatten(), L.Dense(3)])
    pruned = kpi.prune_at_init(model, batch(model), "robust", verbose=0)
    assert "chi = " in kpi.report(pruned).notes[0]
    kpi.rescale(pruned)
