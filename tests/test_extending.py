"""Methods of a user's own, seeds of those that draw, and notes for the report."""

import keras
import numpy as np
import pytest
from helpers import L, batch, masks, mlp

import keras_prune_init as kpi


def same(a, b):
    return kpi.report(a).digest == kpi.report(b).digest


def by(method, model, **options):
    return kpi.prune_at_init(
        model, batch(model), method, sparsity=0.5, verbose=0, **options
    )


# --- seeds ----------------------------------------------------------------------------


def test_random_takes_the_seed_of_the_call_and_its_own_wins():
    model = mlp()
    by_name = [by("random", model, seed=seed) for seed in (1, 2)]
    assert not same(*by_name)
    for seed in (1, 2):
        found = by(kpi.methods.Random(), model, seed=seed)
        assert same(found, by_name[seed - 1])
        assert same(by(kpi.methods.Random(seed=1), model, seed=seed), by_name[0])
    a, b = (
        kpi.score(model, None, kpi.methods.Random(seed=1), seed=seed) for seed in (1, 2)
    )
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])


class Draws(kpi.Method):
    """Numbers of its own, from the seed of the call."""

    needs_data = False

    def scores(self, network, weights):
        rng = np.random.default_rng(network.seed)
        return [rng.random(tuple(w.shape)).astype("float32") for w in weights]


def test_the_seed_reaches_a_method_of_the_users():
    model = mlp()
    one, again, other = (
        kpi.prune_at_init(model, None, Draws(), sparsity=0.5, seed=seed, verbose=0)
        for seed in (1, 1, 2)
    )
    assert same(one, again) and not same(one, other)
    rng = np.random.default_rng(1)
    for scores in kpi.score(model, None, Draws(), seed=1).values():
        np.testing.assert_allclose(scores, rng.random(scores.shape), rtol=1e-6)


# --- what a method may say ------------------------------------------------------------


class Widest(kpi.Method):
    """Keeps the channels whose largest weight is the largest, whatever they cost."""

    needs_data = False

    def scores(self, network, weights):
        return [abs(w) for w in weights]

    def channel_scores(self, network, weights, channels):
        seen.append(channels.cost)
        firsts = [np.zeros(tuple(w.shape), "float32") for w in weights]
        firsts[0] += np.arange(firsts[0].shape[-1])  # the last units of the first
        firsts[1] += 1e3  # and all of the second
        return channels.total(firsts)


seen = []


def test_channel_scores_decide_which_channels_stay():
    model = mlp((6, 4), inputs=5, classes=3)
    seen.clear()
    small = by(Widest(), model, what="channels")
    # Of each input, hidden unit and output with its weights in and out.
    assert sorted(seen[0]) == sorted([6] * 5 + [5 + 4] * 6 + [6 + 3] * 4 + [4] * 3)
    width = small.layers[0].units
    assert small.layers[1].units == 4 and 0 < width < 6
    kept = model.layers[0].kernel.numpy()[:, -width:]
    np.testing.assert_array_equal(small.layers[0].kernel, kept)


class Doubling(kpi.DataMethod):
    """Prunes a copy whose inputs are doubled, and sets a scale at last."""

    def recipe(self, model):
        assert not finished
        inputs = keras.Input(model.input_shape[1:])
        other = keras.models.clone_model(model)
        other.set_weights(model.get_weights())
        doubled = keras.Model(inputs, other(L.Rescaling(2.0, name="twice")(inputs)))
        return kpi.Recipe(doubled, "Inputs are doubled.", self.finish)

    def finish(self, pruned, network):
        finished.append((pruned, network))
        return f"Done after {len(network.batches)} batches."

    def scores(self, network, weights):
        return [abs(g) for g in network.gradients(weights, self.batch_norm)]


finished = []


@pytest.mark.parametrize("what", ["weights", "channels"])
def test_a_recipe_says_what_is_pruned_and_finish_comes_last(what):
    model = mlp((6, 4))
    x, y = batch(model)
    before = [v.numpy() for v in model.variables]
    finished.clear()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned = kpi.prune_at_init(
        model, (x, y), Doubling(), sparsity=0.3, loss=loss, what=what, verbose=0
    )
    assert any(v.name == "twice" for v in pruned.layers)
    [(given, network)] = finished
    np.testing.assert_array_equal(network.batches[0][0], x)
    note = "Inputs are doubled. Done after 1 batches."
    assert kpi.report(pruned, model if what == "channels" else None).notes[0] == note
    for old, v in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, v.numpy())
    if what == "weights":
        # Pruned before `finish` got it, and nothing is undone afterwards.
        for one, other in zip(masks(given), masks(pruned), strict=True):
            np.testing.assert_array_equal(one, other)
        assert kpi.report(pruned).sparsity == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("method", "note"),
    [
        ("robust", "Robust: SBP-SR, as the network is residual."),
        ("sbp_sr", "Stable ResNet: 3 residual branches scaled by 1/sqrt(3)."),
    ],
)
def test_notes_of_a_method_stand_in_the_report_of_channels_too(method, note):
    x = inputs = keras.Input((4,))
    for _ in range(3):
        x = L.Add()([x, L.Dense(4, "relu")(L.Dense(6, "relu")(x))])
    model = keras.Model(inputs, L.Dense(3)(x))
    small = by(method, model, what="channels")
    report = kpi.report(small, model)
    assert report.notes[0].startswith(note)
    assert note in str(report) and note in report.to_json()


@pytest.mark.parametrize(
    "scores",
    [
        lambda weights: weights[:1],
        lambda weights: [w[0] for w in weights],
        lambda weights: None,
        lambda weights: weights[0],
    ],
)
@pytest.mark.parametrize("function", [kpi.prune_at_init, kpi.score])
def test_scores_of_other_shapes_are_refused(scores, function):
    class Wrong(kpi.Method):
        needs_data = False

        def scores(self, network, weights):
            return scores(weights)

    with pytest.raises(ValueError, match="a list with an array .* Received from Wrong"):
        function(mlp(), method=Wrong())
