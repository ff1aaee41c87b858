"""Masks that move: trainings in several parts, and rules and models that do not fit."""

import keras
import numpy as np
import pytest
from helpers import L, batch, masks, mlp

import keras_prune_init as kpi

C = kpi.callbacks
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# Each rule, and the sparsity it begins with. Trainings have 12 steps: 3 epochs of 4.
RULES = {
    "SET": (lambda: C.SET(every=2), 0.8),
    "RigL": (lambda: C.RigL(every=2), 0.8),
    "GraNet": (lambda: C.GraNet(0.8, every=2, initial=0.0), 0.0),
    "GradualMagnitude": (lambda: C.GradualMagnitude(0.8, every=2, initial=0.0), 0.0),
    "ACDC": (lambda: C.ACDC(0.8, begin=2, every=2), 0.0),
}


def compiled(sparsity, model=None, optimizer="adam", **options):
    pruned = kpi.prune(model or mlp(), None, "random", sparsity=sparsity, **options)
    pruned.compile(optimizer, LOSS)
    return pruned


def fit(model, rules, epochs=3, data=None, **options):
    data = data or batch(model, 64)
    given = {"batch_size": 16, "shuffle": False, "verbose": 0} | options
    model.fit(*data, epochs=epochs, callbacks=rules, **given)


# --- trainings in several parts -------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_what_a_model_was_trained_on_before_does_not_count(name):
    make, sparsity = RULES[name]
    model, rule = compiled(sparsity), make()
    fit(model, [])
    fit(model, [rule])
    steps = {"GradualMagnitude": [0, 2, 4, 6, 8, 9], "GraNet": [2, 4, 6, 8, 9]}
    steps["ACDC"] = [2, 4, 6, 8, 9]
    assert [c.step for c in rule.history] == steps.get(name, [2, 4, 6, 8])
    assert kpi.report(model).sparsity == pytest.approx(0.8, abs=0.01)


def test_epochs_count_if_the_optimizer_is_new():
    """As of weights that were loaded without it."""
    rule = C.SET(every=2)
    fit(compiled(0.8), [rule], initial_epoch=1)
    assert [c.step for c in rule.history] == [4, 6, 8]


def test_a_user_can_say_where_a_training_began():
    model, rule = compiled(0.8), C.SET(every=2, end=9)
    fit(model, [], epochs=1)  # with 3 steps before the training that goes on
    rule.origin = 3
    fit(model, [rule], epochs=1)
    assert [c.step for c in rule.history] == [2, 4]


def test_a_sparsity_that_has_risen_needs_no_beginning():
    model = compiled(0.0)
    fit(model, [C.GradualMagnitude(0.8, every=2, end=8)])
    rule = C.GradualMagnitude(0.8, every=2, end=8)
    fit(model, [rule], epochs=5, initial_epoch=3)
    assert rule.history == []


def test_a_beginning_that_the_masks_do_not_have_is_refused():
    with pytest.raises(ValueError, match="initial=0.7 for masks of 0. Leave it out"):
        fit(compiled(0.0), [C.GradualMagnitude(0.8, every=2, initial=0.7)])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (C.RigL(), "masks never change, as the training has 4 steps; every=100"),
        (C.GradualMagnitude(0.9, every=1, end=9), "until step 9, but 4 were taken"),
        (C.GradualMagnitude(0.9, every=1, end=4), "until step 4, but 4 were taken"),
        (C.ACDC(0.9, begin=50, every=1), "masks never change"),
    ],
)
def test_a_training_that_is_too_short_is_told(rule, message, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        fit(compiled(0.0), [rule], epochs=1)
    assert message in caplog.text


@pytest.mark.parametrize("rule", [C.RigL(every=2), C.SET(every=2, end=12)])
def test_nothing_is_told_if_all_is_well(rule, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        fit(compiled(0.8), [rule])
    assert not caplog.records


def test_no_epochs_tell_nothing(caplog):
    with caplog.at_level("WARNING", logger="absl"):
        fit(compiled(0.0), [C.GradualMagnitude(0.8, every=2)], initial_epoch=3)
    assert not caplog.records


# --- models ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [C.RigL, C.SET])
def test_optimizers_whose_slots_do_not_begin_at_0_stay_finite(make):
    optimizer = keras.optimizers.Ftrl(0.05)
    model = compiled(0.8, optimizer=optimizer)
    fit(model, [make(every=1)])
    before = model.get_weights()
    assert all(np.isfinite(v).all() for v in before)
    compact = kpi.to_layout(model, "compact")  # and back, with the optimizer
    back = kpi.to_layout(compact, "masked")
    for a, b in zip(model.optimizer.variables, back.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_embeddings_have_gradients_for_all_rows():
    model = keras.Sequential(
        [keras.Input((4,)), L.Embedding(9, 6), L.Flatten(), L.Dense(3)]
    )
    pruned = compiled(0.8, model)
    rule = C.RigL(every=2)
    x = np.random.default_rng(0).integers(0, 9, (64, 4))
    fit(pruned, [rule], data=(x, np.arange(64) % 3))
    assert sum(change.grown for change in rule.history) > 0


@pytest.mark.parametrize("what", ["2:4", "1x4", "2x1"])
@pytest.mark.parametrize("rule", [C.SET(), C.RigL(), C.GradualMagnitude(0.9)])
def test_a_pattern_is_not_broken_by_single_weights(what, rule):
    model = mlp((16, 16), inputs=16)
    pruned = kpi.prune(model, None, "magnitude", sparsity=0.5, what=what)
    pruned.compile("adam", LOSS)
    before = masks(pruned)
    with pytest.raises(ValueError, match="moves single weights.*(2:4|blocks)"):
        fit(pruned, [rule])
    for a, b in zip(before, masks(pruned), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_that_are_not_finite_end_the_training():
    model = compiled(0.8)
    x, y = batch(model, 64)
    with pytest.raises(FloatingPointError, match="`SET` takes .* that are NaN"):
        fit(model, [C.SET(every=2)], data=(x * np.nan, y))


# --- rules of ones own ----------------------------------------------------------------


def rule_that(method, value, base=C.DropAndGrow):
    own = {method: lambda self, moment: value(moment)}
    if base is C.DropAndGrow:
        own = {"grow": lambda self, moment: moment.weights} | own
    return type("Own", (base,), own)(every=2)


@pytest.mark.parametrize("method", ["drop", "grow"])
@pytest.mark.parametrize(
    "value",
    [
        lambda moment: {},
        lambda moment: None,
        lambda moment: {path: None for path in moment.weights},
        lambda moment: {path: w[:1] for path, w in moment.weights.items()},
        lambda moment: {path: w * np.nan for path, w in moment.weights.items()},
    ],
)
def test_scores_that_are_none_are_refused(method, value):
    with pytest.raises(ValueError, match=f"`{method}` must return a number for each"):
        fit(compiled(0.8), [rule_that(method, value)])


@pytest.mark.parametrize(
    "value",
    [
        lambda moment: {},
        lambda moment: {path: m[:1] for path, m in moment.masks.items()},
        lambda moment: {path: m * 1.0 for path, m in moment.masks.items()},
    ],
)
def test_masks_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="`masks` must return a bool array"):
        fit(compiled(0.8), [rule_that("masks", value, C.MovingMasks)])


def test_tensors_are_scores():
    def tensors(moment):
        return {p: keras.ops.abs(w) for p, w in moment.weights.items()}

    rule = rule_that("grow", tensors)
    fit(compiled(0.8), [rule])
    assert rule.history


@pytest.mark.parametrize(
    "gradients",
    [
        lambda moment: {path: moment.gradients[path] for path in moment.masks},
        lambda moment: {path: abs(g) for path, g in moment.gradients.items()},
    ],
)
def test_gradients_that_were_not_asked_for_are_told(gradients):
    with pytest.raises(ValueError, match="Write `needs_gradients = True`"):
        fit(compiled(0.8), [rule_that("grow", gradients)])


def test_masks_of_a_moment_are_not_changed_in_place():
    def flipped(moment):
        for mask in moment.masks.values():
            np.logical_not(mask, out=mask)
        return moment.masks

    with pytest.raises(ValueError, match="read-only"):
        fit(compiled(0.8), [rule_that("masks", flipped, C.MovingMasks)])


@pytest.mark.parametrize(
    ("method", "base"), [("grow", C.DropAndGrow), ("masks", C.MovingMasks)]
)
def test_other_paths_are_refused_before_a_mask_changes(method, base):
    def more(moment):
        given = {path: ~mask for path, mask in moment.masks.items()}
        return given | {"foo": np.ones(3, bool)}

    model = compiled(0.8)
    before = masks(model)
    with pytest.raises(ValueError, match=f"`{method}` must return a dict .* foo besid"):
        fit(model, [rule_that(method, more, base)])
    for a, b in zip(before, masks(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loops_of_ones_own_are_told_what_is_missing():
    rule = C.RigL(every=1)
    with pytest.raises(ValueError, match="Received: None. Compile it, and in a loop"):
        rule.prepare(9)
    model = compiled(0.8)
    rule.set_model(model)
    with pytest.raises(ValueError, match="`steps` must be a whole number, 1 or more"):
        rule.prepare(0)
    rule.prepare(9)
    with pytest.raises(ValueError, match="Pass the batch of the step"):
        rule.change(3)


def test_a_change_before_the_rule_knows_the_model_is_refused():
    with pytest.raises(ValueError, match="Call `set_model\\(model\\)` and `prepare"):
        C.SET().change(3)
