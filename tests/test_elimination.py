"""Optimal Brain Surgeon on quadratic errors, against single steps in plain loops."""

import numpy as np
import pytest

from keras_prune_init.scoring import elimination


def quadratic(n, groups=1, each=3, seed=0):
    """Hessians, their inverses, and rows of weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 2 * n, n)) * np.linspace(0.2, 2, n)
    hessians = x.swapaxes(1, 2) @ x / (2 * n)
    return hessians, np.linalg.inv(hessians), rng.normal(size=(groups, each, n))


def removed_one_by_one(inverse, w, free):
    """The order of removal, the increase of the error at each, and the last weights."""
    inverse, w, free = inverse.copy(), w.copy(), free.copy()
    order, increases = [], []
    while free.any():
        cost = np.where(free, w**2 / (2 * np.diag(inverse)), np.inf)
        q = int(np.argmin(cost))
        order.append(q)
        increases.append(cost[q])
        w -= w[q] / inverse[q, q] * inverse[:, q]
        inverse -= np.outer(inverse[:, q], inverse[q]) / inverse[q, q]
        free[q] = w[q] = 0
        inverse[q, q] = 1  # it is not looked at any more
    return order, np.array(increases), w


@pytest.mark.parametrize("steps", [3, 128])
@pytest.mark.parametrize("together", [1, 2**26])
def test_costs_are_those_of_single_steps(steps, together, monkeypatch):
    monkeypatch.setattr(elimination, "STEPS", steps)
    monkeypatch.setattr(elimination, "TOGETHER", together)
    _, inverses, rows = quadratic(20, groups=2)
    removable = np.arange(20) != 7
    costs = elimination.removal_costs(inverses, rows, removable)
    for inverse, group, found in zip(inverses, rows, costs, strict=True):
        for w, cost in zip(group, found, strict=True):
            order, increases, _ = removed_one_by_one(inverse, w, removable)
            assert np.argsort(cost, kind="stable")[:-1].tolist() == order
            highest = np.maximum.accumulate(increases)
            np.testing.assert_allclose(cost[order], highest, rtol=1e-9)
            assert cost[7] == np.inf


def test_equal_costs_keep_the_order_of_removal():
    # After the first, all others cost less.
    inverse = np.linalg.inv(np.full((4, 4), 0.9) + 0.1 * np.eye(4))
    w = np.array([1.0, -0.4, -0.3, -0.25])
    [[cost]] = elimination.removal_costs(inverse[None], w[None, None])
    order, increases, _ = removed_one_by_one(inverse, w, np.ones(4, bool))
    assert np.any(np.diff(increases) < 0)  # or the test would say nothing
    assert np.argsort(cost).tolist() == order
    assert len(set(cost)) == 4


def test_weights_that_are_0_go_first_and_cost_nothing():
    _, inverses, rows = quadratic(10)
    rows[0, :, [2, 5]] = 0
    costs = elimination.removal_costs(inverses, rows)
    assert not costs[0][:, [2, 5]].any()
    assert np.delete(costs[0], [2, 5], 1).min() > 0


def test_single_precision_chooses_the_same():
    _, inverses, rows = quadratic(60)
    wide = elimination.removal_costs(inverses, rows)
    narrow = elimination.removal_costs(inverses.astype("float32"), rows)
    np.testing.assert_allclose(narrow, wide, rtol=1e-3)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 1.0])
def test_compensated_weights_are_those_of_single_steps(kept):
    [hessian], [inverse], [rows] = quadratic(12)
    mask = np.random.default_rng(1).random(rows.shape) < kept
    mask[1] = mask[0]  # which are solved together
    new = elimination.compensated(hessian, rows, mask)
    for w, keep, found in zip(rows, mask, new, strict=True):
        h, left = inverse.copy(), w.copy()
        for q in np.flatnonzero(~keep):
            left -= left[q] / h[q, q] * h[:, q]
            h -= np.outer(h[:, q], h[q]) / h[q, q]
        np.testing.assert_allclose(found, np.where(keep, left, 0), atol=1e-9)


def test_by_the_inverse_it_is_the_same_with_its_increase():
    [hessian], [inverse], [rows] = quadratic(12)
    keep = np.arange(12) % 3 > 0
    new, increase = elimination.made_up_for(inverse, rows[0], keep)
    [expected] = elimination.compensated(hessian, rows[:1], keep[None])
    np.testing.assert_allclose(new, expected, atol=1e-9)
    change = new - rows[0]
    assert increase == pytest.approx(change @ hessian @ change / 2)


def test_the_published_way_adds_the_changes_of_the_first_inverse():
    _, [inverse], [rows] = quadratic(8)
    keep = np.random.default_rng(2).random(rows.shape) < 0.5
    new = elimination.published(inverse, rows, keep)
    for w, mask, found in zip(rows, keep, new, strict=True):
        gone = np.flatnonzero(~mask)
        order = gone[np.argsort(w[gone] ** 2 / np.diag(inverse)[gone])]
        left, there = w.copy(), np.ones(8)
        for q in order:
            left = left - left[q] / inverse[q, q] * inverse[q]
            there[q] = 0
            left *= there
        np.testing.assert_allclose(found, left)
