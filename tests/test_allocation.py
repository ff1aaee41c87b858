"""From scores to masks: exact totals in every allocation."""

from unittest import mock

import numpy as np
import pytest
from helpers import batch, mlp

import keras_prune_init as kpi
from keras_prune_init import critical_sparsity, select
from keras_prune_init.masks.densities import ALLOCATIONS, erk_densities


def random_scores(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 3, 4, 8), "b": (5, 7), "c": (1,), "d": (40, 30)}
    return {k: rng.random(s) for k, s in shapes.items()}


def kept(masks):
    return {k: int(m.sum()) for k, m in masks.items()}


@pytest.mark.parametrize("name", ["global", "uniform", "erk"])
@pytest.mark.parametrize("sparsity", [0, 0.1, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("floor", [0, 1])
def test_the_total_is_exact(name, sparsity, floor):
    scores = random_scores()
    total = sum(s.size for s in scores.values())
    expected = total - int(sparsity * total + 1e-6)
    allocation = kpi.Allocation(name, floor)
    if 4 * floor > expected:
        with pytest.raises(ValueError, match="Lower one of the two"):
            kpi.select(scores, sparsity, allocation)
        return
    counts = kept(kpi.select(scores, sparsity, allocation))
    assert sum(counts.values()) == expected
    assert min(counts.values()) >= floor


def test_global_ranks_all_weights_together():
    masks = kpi.select({"a": np.array([3.0, 1.0, 2.0]), "b": np.array([0.5])}, 0.5)
    assert masks["a"].tolist() == [True, False, True] and masks["b"].tolist() == [False]


def test_global_ties_go_to_the_first_tensor():
    masks = kpi.select({"a": np.ones(3), "b": np.ones((2, 1))}, 0.2)
    assert masks["a"].all() and masks["b"].tolist() == [[True], [False]]


def test_all_zero_scores_still_keep_the_exact_number():
    assert kept(kpi.select({"a": np.zeros((10, 10))}, 0.93)) == {"a": 7}


def test_uniform_keeps_the_same_fraction_of_each():
    counts = kept(
        kpi.select({"a": np.arange(100.0), "b": np.arange(50.0)}, 0.9, "uniform")
    )
    assert counts == {"a": 10, "b": 5}


def test_erk_by_hand():
    # Densities proportional to (10+10)/100 and (2+10)/20 at 30 of 120 weights:
    # epsilon * (20 + 12) = 30, so 18.75 and 11.25 weights; the larger remainder is .75.
    scores = {"a": np.zeros((10, 10)), "b": np.zeros((2, 10))}
    assert kept(kpi.select(scores, 0.75, "erk")) == {"a": 19, "b": 11}


def test_erk_keeps_a_small_tensor_whole_rather_than_more_than_whole():
    densities = erk_densities([(100, 100), (2, 2)], 0.5)
    assert densities[1] == 1.0
    assert densities[0] * 10_000 + 4 == pytest.approx(0.5 * 10_004)


def test_min_per_layer_saves_a_layer_that_would_go():
    scores = {"strong": np.arange(10.0) + 5, "weak": np.array([1.0, 3.0, 2.0])}
    assert kept(kpi.select(scores, 0.5)) == {"strong": 7, "weak": 0}
    masks = kpi.select(scores, 0.5, kpi.Allocation("global", 2))
    assert kept(masks) == {"strong": 5, "weak": 2}
    assert masks["weak"].tolist() == [False, True, True]


def test_more_sparsity_keeps_a_subset():
    scores = random_scores(3)
    few, many = kpi.select(scores, 0.9), kpi.select(scores, 0.6)
    assert all((few[k] <= many[k]).all() for k in scores)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sparsity": 1.0}, "0 <= sparsity < 1. Received: sparsity=1.0"),
        ({"sparsity": -0.1}, "Received: sparsity=-0.1"),
        ({"sparsity": "90%"}, "Received: sparsity='90%'. For 90 %, pass 0.9"),
        ({"allocation": "layer"}, "one of .* Received: allocation='layer'"),
        ({"allocation": {"a": 1.0}}, "0 <= sparsity < 1. Received: 'a': 1.0"),
        ({"allocation": {"a": "b"}}, "Received: 'a': 'b'"),
        ({"allocation": {"(": 0.5}}, "regular expressions.*'\\('"),
        ({"allocation": {3: 0.5}}, "regular expressions.*Received: 3"),
        ({"allocation": {}}, "must say how much"),
        ({"allocation": {"e": 0.5}}, "'e', which finds none of them: a, b, c, d"),
        ({"allocation": {"a": 0.5, "a|b": 0.1, "[ab]": 0.2}}, "an earlier key took"),
        ({"allocation": lambda shapes, density: [density]}, "one density from 0 to 1"),
        ({"allocation": lambda shapes, d: ["x"] * len(shapes)}, "one density from 0"),
        ({"allocation": lambda shapes, density: [1.0] * 4}, "together they must keep"),
        ({"allocation": lambda shapes: 0}, "raised TypeError"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        kpi.select(random_scores(), **{"sparsity": 0.5, **change})


def test_a_minimum_is_a_whole_number():
    with pytest.raises(ValueError, match="Received: min_per_layer=-1"):
        kpi.Allocation("global", -1)


def test_sparsities_of_layers_are_exact_and_the_rest_is_ranked():
    scores = random_scores()
    sizes = {k: v.size for k, v in scores.items()}
    masks = kpi.select(scores, 0.7, {"a": 0.25, "^[b-c]$": 0.5})
    counts = kept(masks)
    assert counts["a"] == 288 - 72 and counts["b"] == 18 and counts["c"] == 1
    total = sum(sizes.values())
    assert sum(counts.values()) == total - int(0.7 * total)
    best = np.sort(scores["d"].ravel())[-counts["d"]]
    np.testing.assert_array_equal(masks["d"], scores["d"] >= best)


def test_the_first_pattern_counts_and_a_star_is_all_others():
    scores = random_scores()
    counts = kept(kpi.select(scores, 0.1, {"a": 0.25, "*": 0.9, "a|d": 0.5}))
    assert counts == {"a": 216, "b": 35 - 31, "c": 1, "d": 600}


def test_a_sparsity_that_layers_do_not_leave_is_refused_with_those_they_do():
    scores = random_scores()
    with pytest.raises(ValueError, match="can be from 0.0472[0-9]* to 0.8576") as error:
        kpi.select(scores, 0.02, {"a": 0.25})
    assert "add the key '*'" in str(error.value)
    least = np.float64(str(error.value).split("can be from ")[1].split(" to ")[0])
    kpi.select(scores, least + 1e-3, {"a": 0.25})


def test_what_a_dict_leaves_has_a_minimum_too():
    scores = dict(zip("abc", np.random.default_rng(0).random((3, 10)), strict=True))
    allocation = {"a": 0.5}
    counts = kept(kpi.select(scores, 0.7, kpi.Allocation(allocation, 2)))
    assert counts["a"] == 5 and counts["b"] + counts["c"] == 4 and counts["b"] == 2
    with pytest.raises(ValueError, match="leave room for the sparsities of `alloc"):
        kpi.select(scores, 0.7, kpi.Allocation(allocation, 3))


def test_a_function_says_how_much_is_kept():
    def halves(shapes, density):
        sizes = np.array([np.prod(s) for s in shapes])
        return (
            np.where(sizes == sizes.max(), 0.5, 1.0)
            * density
            * sizes.sum()
            / (sizes.sum() - sizes.max() / 2)
        )

    scores = random_scores()
    counts = kept(kpi.select(scores, 0.5, halves))
    total = sum(v.size for v in scores.values())
    assert sum(counts.values()) == total - total // 2
    assert counts["a"] / 288 == pytest.approx(2 * counts["d"] / 1200, abs=0.01)


def test_a_registered_function_has_a_name():
    def same(shapes, density):
        return [density] * len(shapes)

    with mock.patch.dict(ALLOCATIONS):
        kpi.register_allocation("same", same)
        scores = random_scores()
        a, b = (kept(kpi.select(scores, 0.3, name)) for name in ("same", "uniform"))
        assert a == b
        for name in ("same", "", None):
            with pytest.raises(ValueError, match="a name of its own"):
                kpi.register_allocation(name, same)
        with pytest.raises(TypeError, match="function=3"):
            kpi.register_allocation("other", 3)


@pytest.mark.parametrize("method", ["snip", "synflow"])
def test_layers_of_a_model_lose_what_a_dict_says(method):
    model = mlp((16, 8), 12, 4)
    method = kpi.get_method(method, iterations=3)
    names = [f"{layer.name}/" for layer in model.layers]
    allocation = {names[0]: 0.9, names[-1]: 0.25}
    pruned = kpi.prune_at_init(
        model, batch(model), method, sparsity=0.7, allocation=allocation
    )
    kept = {t.path: (t.total, t.kept) for t in kpi.report(pruned).tensors}
    first, _, last = kept.values()
    assert first == (192, 192 - 172) and last == (32, 24)
    total = sum(n for n, _ in kept.values())
    assert kpi.report(pruned).kept == total - int(0.7 * total)
    with pytest.raises(ValueError, match="'logits', which finds none of them"):
        kpi.prune_at_init(model, batch(model), method, allocation={"logits": 0.5})
    again = kpi.prune_at_init(
        pruned, batch(model), method, sparsity=0.75, allocation={names[-1]: 0.5}
    )
    assert kpi.report(again).tensors[-1].kept == 16
    with pytest.raises(ValueError, match="lost more already"):
        kpi.prune_at_init(
            pruned, batch(model), method, sparsity=0.7, allocation={names[0]: 0.5}
        )


def test_critical_sparsity_by_hand():
    # `b` dies with its best weight, 0.5; below that are 0.1, 0.2, 0.3 of all 6.
    scores = {
        "a": np.array([0.9, 0.1, 0.2]),
        "b": np.array([0.5, 0.3]),
        "c": np.array([0.6]),
    }
    assert kpi.critical_sparsity(scores) == (4 / 6, "b")


@pytest.mark.parametrize("seed", range(5))
def test_critical_sparsity_is_where_select_empties_a_layer(seed):
    rng = np.random.default_rng(seed)
    scores = {k: rng.integers(0, 6, n) * 1.0 for k, n in (("a", 7), ("b", 4), ("c", 9))}
    critical = kpi.critical_sparsity(scores)
    assert critical.layer in scores
    if critical.sparsity < 1:
        assert not kpi.select(scores, critical.sparsity)[critical.layer].any()
    below = kpi.select(scores, max(critical.sparsity - 1 / 20, 0))
    assert all(m.any() for m in below.values())


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
def test_empty_tensors_take_no_part(allocation):
    rng = np.random.default_rng(0)
    scores = {"a": np.zeros((0, 3)), "b": rng.random((4, 5)), "c": rng.random(7)}
    masks = select(scores, 1 / 3, allocation)
    assert masks["a"].shape == (0, 3)
    assert sum(int(m.sum()) for m in masks.values()) == 18
    without = select({k: scores[k] for k in "bc"}, 1 / 3, allocation)
    for name in "bc":
        np.testing.assert_array_equal(masks[name], without[name])
    only = select({"a": np.zeros((0, 3))}, 0.5, allocation)
    assert only["a"].shape == (0, 3)


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
def test_single_numbers_are_refused(allocation):
    with pytest.raises(ValueError, match="array of its shape. Received: .* for b. Le"):
        select({"a": np.ones(3), "b": np.float32(2)}, 0.5, allocation)


def test_empty_tensors_do_not_become_empty():
    scores = {"a": np.zeros((0, 3)), "b": np.array([1.0, 2.0]), "c": np.array([3.0])}
    assert critical_sparsity(scores) == (2 / 3, "b")
    with pytest.raises(ValueError, match="Received: no scores"):
        critical_sparsity({})


def test_what_a_pruned_layer_lacks_is_shared_out_in_proportion():
    model = mlp((16, 8), 12, 4)
    names = [f"{layer.name}/" for layer in model.layers]
    first = kpi.prune_at_init(
        model, None, "magnitude", allocation={names[0]: 0.9, "*": 0.1}
    )
    second = kpi.prune_at_init(
        first, None, "magnitude", sparsity=0.7, allocation="uniform"
    )
    whole, *others = kpi.report(second).tensors
    assert whole.kept == 192 - 172
    densities = [t.kept / t.total for t in others]
    assert densities[0] == pytest.approx(densities[1], abs=0.05)


def test_a_minimum_without_room_is_refused_before_anything_is_scored(monkeypatch):
    monkeypatch.setattr(
        kpi.methods.Magnitude, "scores", lambda *args: pytest.fail("scored")
    )
    for rule in ("global", "uniform", {"dense": 0.999}):
        with pytest.raises(ValueError, match="must leave room"):
            kpi.prune_at_init(
                mlp(), None, "magnitude", allocation=kpi.Allocation(rule, 10**6)
            )
