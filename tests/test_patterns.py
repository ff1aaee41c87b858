"""Blocks of weights, and N of each M."""

import keras
import numpy as np
import pytest
from helpers import L, batch, masked_list, mlp

import keras_prune_init as kpi
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.masks.patterns import pattern_of
from keras_prune_init.options import what_of


def net():
    """All ways in which kernels lie in memory."""
    inputs = keras.Input((4, 4, 4))
    x = L.Conv2D(8, 3, name="conv")(inputs)
    x = L.Conv2DTranspose(8, 2, name="transposed")(x)
    x = L.DepthwiseConv2D(2, name="depthwise")(x)
    x = L.Reshape((4, 8))(x)
    x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = L.LSTM(4, name="lstm")(x)
    return keras.Model(inputs, L.Dense(4, name="dense")(L.Dense(6, name="six")(x)))


def pruned(model, what, method="magnitude", sparsity=0.5, **options):
    return kpi.prune_at_init(
        model, batch(model), method, what=what, sparsity=sparsity,
        verbose=0, **options
    )  # fmt: skip


def matrices(masked, name):
    """Masks of a layer as (position, outputs, inputs)."""
    mask = masked.kept_mask(name)
    if "transposed" in masked.name:
        return mask.reshape(-1, *mask.shape[-2:])
    if name == "output_dense.kernel":  # heads x size x outputs
        return mask.reshape(-1, mask.shape[-1]).T[None]
    if "attention" in masked.name:  # inputs x heads x size
        return mask.reshape(len(mask), -1).T[None]
    return mask.reshape(-1, *mask.shape[-2:]).transpose(0, 2, 1)


@pytest.mark.parametrize(
    ("method", "layout"),
    [("snip", "compact"), ("synflow", "masked")],
)
def test_two_of_four_neighbouring_inputs_stay(method, layout):
    model = net()
    method = kpi.methods.SynFlow(iterations=2) if method == "synflow" else method
    model = pruned(model, "2:4", method, layout=layout)
    names = [layer.name for layer in masked_list(model)]
    # Of six inputs or one there are no whole groups.
    assert names == ["conv", "transposed", "attention", "lstm", "six"]
    for layer in masked_list(model):
        for name in layer.kernels:
            mask = matrices(layer, name)
            groups = mask.reshape(*mask.shape[:-1], -1, 4)
            assert (groups.sum(-1) == 2).all()
    left_out = dict(kpi.report(model).skipped)
    assert "what" in left_out["dense"] and "depthwise" in left_out


def test_the_best_of_each_group_stay():
    model = keras.Sequential([keras.Input((8,)), L.Dense(3)])
    scores = np.abs(model.layers[0].kernel.numpy())
    mask = pruned(model, "1:4", sparsity=0.75).layers[0].kept_mask("kernel")
    np.testing.assert_array_equal(
        mask.reshape(2, 4, 3).argmax(1), scores.reshape(2, 4, 3).argmax(1)
    )


def test_a_sparsity_that_is_nearly_that_of_the_groups_removes_as_many():
    model = keras.Sequential([keras.Input((9,)), L.Dense(2)])
    new = pruned(model, "1:3", sparsity=0.6666)
    assert kpi.report(new).kept == 6


@pytest.mark.parametrize("rows, columns", [(1, 4), (4, 1), (2, 2), (8, 4)])
def test_blocks_come_and_go_together(rows, columns):
    model = pruned(net(), f"{rows}x{columns}", "snip", sparsity=0.6)
    total = kept = 0
    for layer in masked_list(model):
        for name in layer.kernels:
            mask = matrices(layer, name)
            n, outputs, inputs = mask.shape
            cells = mask.reshape(
                n, outputs // rows, rows, inputs // columns, columns
            ).transpose(0, 1, 3, 2, 4)
            cells = cells.reshape(-1, rows * columns)
            assert (cells.all(1) == cells.any(1)).all()
            total, kept = total + len(cells), kept + int(cells.any(1).sum())
    assert kept == total - int(0.6 * total + 1e-6)


def test_the_blocks_of_largest_sum_stay():
    model = keras.Sequential([keras.Input((4,)), L.Dense(6)])
    sums = np.abs(model.layers[0].kernel.numpy()).reshape(2, 2, 3, 2).sum((1, 3))
    layer = pruned(model, "2x2").layers[0]
    mask = layer.kept_mask("kernel").reshape(2, 2, 3, 2).all((1, 3))
    np.testing.assert_array_equal(mask, sums >= np.sort(sums.ravel())[-3])


def test_allocation_and_minimum_count_blocks():
    model = mlp((16, 8), 12, 4)
    uniform = pruned(model, "1x4", sparsity=0.75, allocation="uniform")
    assert [m.kept_mask("kernel").mean() for m in masked_list(uniform)] == [0.25] * 3
    least = pruned(model, "1x4", sparsity=0.9, allocation=kpi.Allocation("global", 2))
    assert min(m.kept_mask("kernel").sum() for m in masked_list(least)) >= 8


def test_single_weights_are_blocks_of_one():
    model = mlp((16, 8), 12, 4)
    one, other = (pruned(model, name) for name in ("weights", "1x1"))
    assert kpi.report(one).digest == kpi.report(other).digest


def test_what_earlier_iterations_removed_stays_removed():
    model = mlp((16, 8), 12, 4)
    kernels = find_kernels(model)
    for name, sparsity in (("1x4", 0.7), ("2:4", 0.5)):
        what = what_of(name)
        assert all(what.fits(k) for k in kernels)
        units = what.units(model, kernels, sparsity, kpi.Allocation())
        rng = np.random.default_rng(0)
        first, second = (
            {k.path: rng.random(k.shape) for k in kernels} for _ in range(2)
        )
        before = units.choose(first, None, lambda sparsity: 0.4 * sparsity)
        after = units.choose(second, list(before.values()), float)
        for path, mask in after.items():
            assert not (mask & ~before[path]).any()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"what": "filter"}, "`what` must be 'weights', .*'filter'"),
        ({"what": "0x4"}, "`rows` must be"),
        ({"what": "4:2"}, "N is less than M. Received: n=4, m=2.*what='2:4'"),
        ({"what": "2:4"}, "removes 0.5 of the weights.*Pass sparsity=0.5"),
        (
            {"what": "2:4", "sparsity": 0.5, "allocation": "erk"},
            "all layers keep the same.*'erk'",
        ),
        ({"what": "5x7"}, "multiples of what `what`.*\\(12, 16\\)"),
        ({"what": "channels", "layout": "compact"}, "Leave `layout` out"),
        ({"what": "channels", "allocation": "erk"}, "`allocation` of channels"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_scored(
    change, message, monkeypatch
):
    from keras_prune_init.methods.magnitude import Magnitude

    monkeypatch.setattr(Magnitude, "scores", lambda *args: pytest.fail("scored"))
    with pytest.raises(ValueError, match=message):
        kpi.prune_at_init(mlp((16, 8), 12, 4), None, "magnitude", **change)


def test_channels_have_a_budget_and_a_multiple():
    with pytest.raises(ValueError, match="`budget` must be one of .*'bytes'"):
        kpi.Channels("bytes")
    with pytest.raises(ValueError, match="whole number, 1 or more.*multiple_of=0"):
        kpi.Channels(multiple_of=0)


@pytest.mark.parametrize(
    ("what", "sparsity", "found"),
    [
        ("2:4", 0.5, {"2:4"}),
        ("1:4", 0.75, {"1:4"}),
        ("1x4", 0.5, {"blocks of 1x2 or more"}),
        ("3x1", 0.5, {"blocks of 3x1 or more"}),
        ("weights", 0.5, {""}),
        ("weights", 0.98, {""}),
        ("weights", 0.0, {""}),
    ],
)
def test_patterns_of_masks_are_seen(what, sparsity, found):
    model = mlp((48, 24), inputs=16)
    kernels = find_kernels(pruned(model, what, sparsity=sparsity))[:2]
    assert {pattern_of(k, k.mask.astype(bool)) for k in kernels} == found


def test_whole_inputs_and_outputs_are_no_pattern():
    [kernel] = find_kernels(mlp((), inputs=64, classes=64))
    inputs, outputs = np.arange(64) < 32, np.arange(64) % 4 < 2
    assert pattern_of(kernel, np.outer(inputs, outputs)) == ""
    half = np.repeat(np.random.default_rng(0).random((32, 64)) < 0.5, 2, 0)
    assert pattern_of(kernel, half) == "blocks of 1x2 or more"
