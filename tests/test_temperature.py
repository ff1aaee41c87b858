"""GraSP's temperature applies where a loss is a cross-entropy, by whatever name."""

import functools

import keras
import numpy as np
import pytest
from objectives import CASES, ONE_HOT, Y1, B, C, W, X, dense, logits, ops

import keras_prune_init as kpi


def hand_written(y, p):
    y = ops.one_hot(ops.cast(ops.reshape(y, (-1,)), "int32"), 3)
    return ops.logsumexp(p, -1) - ops.sum(y * p, -1)


def unnamed_probabilities(y, p):
    y = ops.one_hot(ops.cast(ops.reshape(y, (-1,)), "int32"), 3)
    return -ops.sum(y * ops.log(p), -1)


GRASP, PLAIN = (kpi.get_method("grasp", temperature=t) for t in (200, 1))


@functools.cache
def scores_of_logits():
    return kpi.score(logits(), (X, C), GRASP, verbose=0)


@pytest.mark.parametrize(
    "activation, loss, y",
    [
        (None, hand_written, C),
        (None, keras.losses.SparseCategoricalCrossentropy(True, name="loss"), C),
        (None, keras.losses.CategoricalCrossentropy(True), ONE_HOT),
        ("softmax", "sparse_categorical_crossentropy", C),
        ("softmax", unnamed_probabilities, C),
        ("softmax", "kl_divergence", ONE_HOT),
    ],
)
def test_the_temperature_goes_by_what_the_loss_is(activation, loss, y):
    expected = scores_of_logits()
    model = logits(activation, loss)
    found = kpi.score(model, (X, y), GRASP, verbose=0)
    for a, b in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3 * np.abs(b).max())
    pruned = kpi.prune_at_init(model, (X, y), "grasp", sparsity=0.5, verbose=0)
    assert not kpi.report(pruned).notes


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_the_temperature_of_binary_classifiers(activation):
    logits = activation is None
    found = []
    for loss in (
        keras.losses.BinaryCrossentropy(from_logits=logits),
        keras.losses.BinaryCrossentropy(from_logits=logits, name="other"),
        lambda y, p: keras.losses.binary_crossentropy(y, p, from_logits=logits),
    ):
        keras.utils.set_random_seed(1)
        model = dense(1, activation, loss)
        found.append(kpi.score(model, (X, B, W), "grasp", verbose=0))
    plain = kpi.score(model, (X, B, W), PLAIN)
    for scores in found[1:]:
        for path, a, b in zip(plain, scores.values(), found[0].values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())
            assert np.abs(a).max() < 0.1 * np.abs(plain[path]).max()


@pytest.mark.parametrize(
    "units, activation, loss, y",
    [
        (1, None, "mse", Y1),
        (1, "sigmoid", "mse", B),
        (1, "sigmoid", "binary_focal_crossentropy", B),
        (3, "softmax", keras.losses.CategoricalFocalCrossentropy(), ONE_HOT),
        (3, "softplus", "poisson", ONE_HOT),
        (3, "sigmoid", "categorical_crossentropy", ONE_HOT),
    ],
)
def test_where_the_loss_is_none_the_note_says_so(units, activation, loss, y):
    model = dense(units, activation, loss)
    found = kpi.score(model, (X, y), "grasp", verbose=0)
    for path, v in kpi.score(model, (X, y), PLAIN, verbose=0).items():
        np.testing.assert_array_equal(found[path], v)
    pruned = kpi.prune_at_init(model, (X, y), "grasp", sparsity=0.5, verbose=0)
    (note,) = kpi.report(pruned).notes
    assert note == (
        "GraSP: without the temperature of 200, as the loss is no cross-entropy."
    )


def test_only_outputs_with_logits_have_a_temperature():
    model, data = CASES["list"]()
    pruned = kpi.prune_at_init(model, data, "grasp", sparsity=0.5, verbose=0)
    assert "the loss of some outputs is no cross-entropy" in kpi.report(pruned).notes[0]
    pruned = kpi.prune_at_init(model, data, PLAIN, sparsity=0.5, verbose=0)
    assert not kpi.report(pruned).notes


@pytest.mark.parametrize("name", ["void is 255", "void is -1", "smoothing", "weights"])
def test_labels_left_out_and_weights_leave_a_cross_entropy(name):
    model, data = CASES[name]()
    pruned = kpi.prune_at_init(model, data, "grasp", sparsity=0.5, verbose=0)
    assert not kpi.report(pruned).notes


def test_a_temperature_leaves_the_mask():
    """Whatever follows the end of a sequence makes no difference."""
    model, (tokens, tags) = CASES["masked sequences"]()
    other = np.where(tokens == 0, 2 - tags, tags)
    a, b = (kpi.score(model, (tokens, y), "grasp", verbose=0) for y in (tags, other))
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])
