"""Channels in front of pixels: the same numbers as with channels behind them."""

import keras
import numpy as np
import pytest
from helpers import L, batch, masks

import keras_prune_init as kpi

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(where):
    first = where == "channels_first"
    options, axis = {"data_format": where}, 1 if first else -1
    x = inputs = keras.Input((3, 9, 8) if first else (9, 8, 3))
    x = L.Conv2D(6, 3, activation="tanh", name="a", **options)(x)
    x = L.BatchNormalization(axis, name="norm")(x)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="b", **options)(x)
    y = L.Conv2D(12, 1, activation="tanh", name="c", **options)(x)
    x = L.Concatenate(axis)([L.Add()([x, y]), L.Conv2D(4, 1, name="e", **options)(x)])
    x = L.GlobalAveragePooling2D(name="pool", **options)(
        L.AveragePooling2D(2, **options)(x)
    )
    return keras.Model(inputs, L.Dense(4, name="d")(x))


@pytest.fixture(scope="module")
def pair():
    """One network in both ways, with data for each."""
    keras.utils.set_random_seed(0)
    last, first = network("channels_last"), network("channels_first")
    first.set_weights(last.get_weights())
    x, y = batch(last, 16)
    x2 = x.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(first(x2), last(x), atol=1e-5)
    return (last, (x, y)), (first, (x2, y))


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow"])
def test_scores_are_the_same(pair, method):
    options = {"iterations": 1} if method == "synflow" else {}
    one, other = (
        kpi.score(m, data, kpi.get_method(method, **options), verbose=0)
        for m, data in pair
    )
    for a, b in zip(one.values(), other.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * np.abs(a).max())


def test_reports_costs_and_signals_are_the_same(pair):
    both = [
        kpi.prune_at_init(m, data, "snip", sparsity=0.8, verbose=0) for m, data in pair
    ]
    for one, other in zip(*map(masks, both), strict=True):
        np.testing.assert_array_equal(one, other)
    reports, costs = [*map(kpi.report, both)], [*map(kpi.cost, both)]
    assert reports[0].digest == reports[1].digest
    assert reports[0].effective == reports[1].effective < reports[0].kept
    assert costs[0].macs == costs[1].macs > 0
    assert [k.macs for k in costs[0].kernels] == [k.macs for k in costs[1].kernels]
    signals = [
        kpi.signal_report(m, data, LOSS)
        for m, (_, data) in zip(both, pair, strict=True)
    ]
    assert len(signals[0].rows) == len(signals[1].rows) == 5
    for a, b in zip(signals[0].rows, signals[1].rows, strict=True):
        assert a.dead == b.dead
        for field in ("q", "correlation", "gradient", "m"):
            found = getattr(b, field)
            assert found == pytest.approx(getattr(a, field), rel=1e-3, nan_ok=True)


def test_channels_that_go_are_the_same(pair):
    small = [
        kpi.prune_at_init(m, data, "snip", sparsity=0.4, what="channels", verbose=0)
        for m, data in pair
    ]
    widths = [[k.shape for k in kpi.cost(m).kernels] for m in small]
    assert widths[0] == widths[1]
    (_, (x, _)), (_, (x2, _)) = pair
    np.testing.assert_allclose(small[1](x2), small[0](x), rtol=1e-3, atol=1e-5)
