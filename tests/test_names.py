"""A kernel has one name: in scores, masks, reports, costs and signals, for all time."""

import keras
import pytest
from helpers import L, batch, masked_list, mlp

import keras_prune_init as kpi

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def functional():
    """Layers of one, two and four kernels, and a nested Sequential model."""
    inputs = keras.Input((2, 4))
    x = L.SimpleRNN(4, return_sequences=True, name="rnn")(inputs)
    x = L.MultiHeadAttention(2, 3, name="att")(x, x)
    layers = [keras.Input((2, 4)), L.Dense(4, name="dense")]
    inner = keras.Sequential(layers, name="inner")
    x = L.GlobalAveragePooling1D()(inner(x))
    return keras.Model(inputs, L.Dense(3, name="dense")(x), name="outer")


def sequential():
    layers = [L.Conv2D(4, 3, name="conv"), L.Flatten(), L.Dense(3, name="logits")]
    return keras.Sequential([keras.Input((6, 6, 2)), *layers], name="chain")


MAKE = {"functional": functional, "sequential": sequential}


def names(model, data):
    """All that name kernels, by what they are."""
    scores = kpi.score(model, data, "magnitude", verbose=0)
    found = {
        "score": list(scores),
        "select": list(kpi.select(scores, 0.5)),
        "cost": [k.path for k in kpi.cost(model).kernels],
    }
    rows = kpi.signal_report(model, data, LOSS).rows
    found["signals"] = [path for row in rows for path in row.kernels]
    if masked_list(model):
        found["report"] = [t.path for t in kpi.report(model).tensors]
    return found


def assert_named(model, data, expected):
    for where, paths in names(model, data).items():
        if where == "signals":  # in the order in which they run
            assert sorted(paths) == sorted(expected), where
        else:
            assert paths == expected, where


@pytest.mark.parametrize("name", MAKE)
def test_names_stay_whatever_becomes_of_a_model(name, tmp_path):
    model = MAKE[name]()
    data = batch(model)
    expected = [v.path for v in model.trainable_variables if "kernel" in v.path]
    if name == "sequential":  # whose name stays in the path, as Keras has it
        assert expected == ["chain/conv/kernel", "chain/logits/kernel"]
    assert_named(model, data, expected)
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5, verbose=0)
    assert_named(pruned, data, expected)
    pruned.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert_named(loaded, data, expected)
    compact = kpi.to_layout(loaded, "compact")
    assert_named(compact, data, expected)
    compact.save(tmp_path / "c.keras")
    again = keras.models.load_model(tmp_path / "c.keras")
    assert_named(kpi.to_layout(again, "masked"), data, expected)
    assert_named(kpi.strip(again), data, expected)


def test_channels_that_are_gone_leave_the_names():
    model = sequential()
    data = batch(model)
    expected = list(kpi.score(model, None, "magnitude"))
    small = kpi.prune_at_init(
        model, data, "magnitude", sparsity=0.3, what="channels", verbose=0
    )
    assert_named(small, data, expected)
    report = kpi.report(small, model)
    assert [t.path for t in report.tensors] == expected
    assert [t.kept for t in report.tensors] == [
        k.total for k in kpi.cost(small).kernels
    ]


def test_a_shrunk_sequential_model_is_compared_with_the_dense_one():
    model = mlp((8, 6))
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.9, verbose=0)
    small = kpi.strip(kpi.shrink(pruned))
    report = kpi.report(small, model)
    assert [t.path for t in report.tensors] == list(kpi.score(model, None, "magnitude"))
    sizes = [tuple(v.kernel.shape) for v in small.layers]
    assert [t.kept for t in report.tensors] == [a * b for a, b in sizes]
    assert report.kept < report.total == 5 * 8 + 8 * 6 + 6 * 3
