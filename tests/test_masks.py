"""Exact top-k, worked out by hand."""

import numpy as np
import pytest

from keras_prune_init.masks import top_k


def test_keeps_the_largest():
    [kept] = top_k.top_k_of_all([np.array([[0.1, 0.9], [-0.2, 0.5]])], 2)
    np.testing.assert_array_equal(kept, [[False, True], [False, True]])


def test_ties_go_to_the_first_index():
    [kept] = top_k.top_k_of_all([np.array([1.0, 2.0, 1.0, 1.0])], 2)
    np.testing.assert_array_equal(kept, [True, True, False, False])


@pytest.mark.parametrize("value", [0.0, 3.0, -1.0])
@pytest.mark.parametrize("k", [0, 1, 5, 12])
def test_all_equal_scores_keep_the_first(value, k):
    [kept] = top_k.top_k_of_all([np.full((3, 4), value)], k)
    np.testing.assert_array_equal(kept.ravel(), np.arange(12) < k)


def test_a_single_weight():
    [kept] = top_k.top_k_of_all([np.array([[[0.0]]])], 1)
    assert kept.tolist() == [[[True]]]
    [kept] = top_k.top_k_of_all([np.array([[[9.0]]])], 0)
    assert kept.tolist() == [[[False]]]


def test_agrees_with_a_stable_sort_on_many_ties():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.integers(0, 4, 37).astype("float32")
        k = int(rng.integers(0, 38))
        expected = np.zeros(37, bool)
        expected[np.argsort(-scores, kind="stable")[:k]] = True
        [kept] = top_k.top_k_of_all([scores], k)
        np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("levels", [3, 1000, 10**9])
@pytest.mark.parametrize("order", ["random", "sorted"])
@pytest.mark.parametrize("block", [top_k.BLOCK, 1000])
def test_many_scores_in_several_arrays_among_some(levels, order, block, monkeypatch):
    monkeypatch.setattr(top_k, "BLOCK", block)  # small ones make it use threads
    rng = np.random.default_rng(levels)
    flat = rng.integers(0, levels, 300_000).astype("float32")
    flat = np.sort(flat) if order == "sorted" else flat
    pool = rng.random(flat.size) < 0.3
    scores = [flat[:100_000].reshape(100, 1000), flat[100_000:]]
    within = [pool[:100_000].reshape(100, 1000), pool[100_000:]]
    for k in (1, 777, 40_000, int(pool.sum())):
        got = np.concatenate([m.ravel() for m in top_k.top_k_of_all(scores, k, within)])
        expected = np.zeros(flat.size, bool)
        order_ = np.argsort(np.where(pool, -flat, np.inf), kind="stable")
        expected[order_[:k]] = True
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "sparsity, total, removed",
    [
        (0.29, 100, 29),
        (0.9, 1824, 1641),
        (0.95, 3684, 3499),
        (0, 7, 0),
        (0.999, 999, 998),
        (np.float32(0.9), 10, 9),
        (1 - 1e-10, 1000, 999),
        (1 - 1e-10, 10**10, 10**10 - 1),
        (0.9999999997, 10**10, 10**10 - 3),
        (1 - 1e-15, 10, 9),
        (1 - 2**-53, 7, 6),
        (1 - 999 / 1000, 1000, 1),
    ],
)
def test_removed_count_is_that_of_the_number_typed(sparsity, total, removed):
    assert top_k.removed_count(sparsity, total) == removed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_names_its_layer(bad):
    scores = {"good": np.ones(3), "conv/kernel": np.array([1.0, bad])}
    with pytest.raises(ValueError, match="NaN or infinite scores in conv/kernel"):
        top_k.check_finite(scores)


def test_large_finite_scores_are_fine():
    top_k.check_finite({"a": np.full(9, 3e38, "float32")})


def test_digest_tells_masks_and_shapes_apart():
    ones = np.ones((2, 3))
    assert top_k.digest([ones]) == top_k.digest([ones.astype(bool)])
    assert top_k.digest([ones]) != top_k.digest([ones.reshape(3, 2)])
    assert top_k.digest([ones]) != top_k.digest([ones * [1, 1, 0]])
