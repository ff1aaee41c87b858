"""Counts, dead paths and what a report looks like."""

import json

import keras
import numpy as np
import pytest
from helpers import L, mlp, transformer, two_inputs_two_outputs

import keras_prune_init as kpi


def with_masks(model, masks):
    """Prune nothing, then set the masks by layer name."""
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0)
    for layer in pruned.layers:
        if layer.name in masks:
            layer.mask.assign(masks[layer.name])
    return pruned


def effective(pruned):
    return {t.path.split("/")[-2]: t.effective for t in kpi.report(pruned).tensors}


def chain():
    names = ("a", "b", "c")
    layers = [L.Dense(2, "tanh", name=n) for n in names]
    return keras.Sequential([keras.Input((2,)), *layers])


def test_dead_paths_by_hand():
    # Unit 0 of `a` gets nothing, so row 0 of `b` is idle; unit 1 of `b` is not read by
    # `c`, so column 1 of `b` is idle: one weight of `b` is in use.
    masks = {"a": [[0, 1], [0, 1]], "b": [[1, 1], [1, 1]], "c": [[1, 1], [0, 0]]}
    assert effective(with_masks(chain(), masks)) == {"a": 2, "b": 1, "c": 2}


def test_an_empty_layer_leaves_nothing_in_use():
    pruned = with_masks(chain(), {"b": [[0, 0], [0, 0]]})
    report = kpi.report(pruned)
    assert report.kept == 8 and report.effective == 0
    assert report.collapsed == [
        t.path for t in report.tensors if "b" in t.path.split("/")
    ]
    assert "COLLAPSED, nothing is kept of: " + report.collapsed[0] in str(report)


def test_a_skip_connection_keeps_the_rest_alive():
    x = keras.Input((2,))
    y = L.Dense(2, "relu", name="a")(x)
    y = L.BatchNormalization()(L.Dense(2, name="b")(y))
    model = keras.Model(x, L.Dense(1, name="c")(L.Add()([x, y])))
    zero = [[0, 0], [0, 0]]
    assert effective(with_masks(model, {"b": zero})) == {"a": 0, "b": 0, "c": 2}
    assert effective(with_masks(model, {"a": zero})) == {"a": 0, "b": 0, "c": 2}


def test_a_sigmoid_does_not_make_a_dead_unit_alive():
    x = keras.Input((2,))
    y = L.Dense(2, "sigmoid", name="a")(x)
    model = keras.Model(x, L.Dense(1, "sigmoid", name="b")(y))
    assert effective(with_masks(model, {"a": [[0, 1], [0, 1]]})) == {"a": 2, "b": 1}


def test_softmax_outputs_and_max_pooling_hide_no_path():
    layers = [L.Conv2D(3, 2, activation="relu"), L.MaxPooling2D(), L.Flatten()]
    model = keras.Sequential([keras.Input((5, 5, 1)), *layers, L.Dense(4, "softmax")])
    report = kpi.report(kpi.prune_at_init(model, None, "random", sparsity=0))
    assert report.effective == report.total


@pytest.mark.parametrize("make", [transformer, two_inputs_two_outputs, mlp])
def test_everything_is_in_use_in_a_dense_model(make):
    report = kpi.report(kpi.prune_at_init(make(), None, "random", sparsity=0))
    assert report.effective == report.total == report.kept


def residual():
    def block(x, filters, strides):
        y = L.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        y = L.ReLU()(L.BatchNormalization()(y))
        y = L.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
        y = L.Conv2D(filters, 1, use_bias=False)(L.ReLU()(y))
        return L.ReLU()(L.Add()([L.Conv2D(filters, 1, strides, use_bias=False)(x), y]))

    x = inputs = keras.Input((12, 12, 3))
    for filters, strides in ((8, 1), (12, 2)):
        x = block(x, filters, strides)
    return keras.Model(inputs, L.Dense(3)(L.GlobalMaxPooling2D()(x)))


def test_weights_without_use_can_be_zeroed_and_others_cannot():
    from keras_prune_init.reports import live_paths

    model = residual()
    for variable in model.trainable_variables:  # no ReLU may hide a path by chance
        variable.assign(abs(variable))
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.85, seed=0)
    used = live_paths.used_weights(pruned)
    x = np.random.default_rng(0).uniform(size=(16, 12, 12, 3)).astype("float32")
    before = pruned(x).numpy()
    assert 0 < kpi.report(pruned).effective < kpi.report(pruned).kept
    wrappers = [v for v in pruned.layers if isinstance(v, kpi.MaskedLayer)]
    for layer in wrappers:
        layer.mask.assign(used[layer.path_of("kernel")])
    np.testing.assert_array_equal(pruned(x), before)
    for layer in wrappers:
        first = np.argwhere(used[layer.path_of("kernel")])
        if len(first):
            changed = layer.layer.kernel.numpy()
            old = changed.copy()
            changed[tuple(first[0])] += 1.0
            layer.layer.kernel.assign(changed)
            assert (pruned(x).numpy() != before).any(), layer.name
            layer.layer.kernel.assign(old)


def test_the_probe_leaves_the_model_as_it_was():
    pruned = kpi.prune_at_init(residual(), None, "random")
    before = [v.numpy() for v in pruned.variables]
    attributes = [set(vars(v)) for v in pruned.layers]
    kpi.report(pruned)
    for a, b in zip(before, pruned.variables, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    assert [set(vars(v)) for v in pruned.layers] == attributes


def test_an_unknown_operation_makes_it_unknown_not_wrong():
    @keras.saving.register_keras_serializable("tests")
    class OnlyBatchesOfThree(L.Layer):
        def call(self, x):
            return keras.ops.reshape(x, (3, 4))

    model = keras.Sequential([keras.Input((4,)), OnlyBatchesOfThree(), L.Dense(2)])
    report = kpi.report(kpi.prune_at_init(model, None, "random", sparsity=0.5))
    assert report.kept == 4 and report.effective is None
    assert report.effective_sparsity is None and "unknown" in str(report)


def test_table_json_and_picture(tmp_path):
    pruned = kpi.prune_at_init(residual(), None, "random", sparsity=0.9)
    report = kpi.report(pruned)
    lines = str(report).splitlines()
    assert len({len(line) for line in lines[: len(report.tensors) + 4]}) == 1
    assert f"sparsity {report.sparsity:.4%}" in str(report)
    assert "never pruned: batch_normalization" in str(report)
    content = json.loads(report.to_json())
    assert content["kept"] == report.kept == sum(t["kept"] for t in content["tensors"])
    assert content["digest"] == report.digest
    report.plot(tmp_path / "kept.png")
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("function", [kpi.report, kpi.strip])
def test_a_model_that_was_not_pruned_is_refused(function):
    with pytest.raises(ValueError, match="takes a pruned model.*has no MaskedLayer"):
        function(mlp())


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_with_the_dense_model_masks_count_as_they_do_without(layout, filtered):
    model = mlp((16, 8), 12, 4)
    filters = f"{model.layers[0].name}$" if filtered else None
    pruned = kpi.prune_at_init(
        model, None, "magnitude", sparsity=0.9, layout=layout, filters=filters
    )
    a, b = kpi.report(pruned), kpi.report(pruned, model)
    assert (a.kept, a.effective, a.digest) == (b.kept, b.effective, b.digest)
    assert a.kept == a.total - int(0.9 * a.total)
    removed = a.total - a.kept
    plain = kpi.report(kpi.strip(pruned), model)
    assert plain.total - plain.kept == removed
    small = kpi.report(kpi.shrink(pruned), model)
    assert small.total == a.total and a.effective <= small.kept <= a.kept
