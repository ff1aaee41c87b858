"""Channels that are removed before training, with all that goes with them."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp, subclassed
from runs import mirrored
from shrinking import NETWORKS, data, multiply_adds

import keras_prune_init as kpi

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def prune(
    model, method="snip", sparsity=0.5, examples=None, rule="global", least=0, **options
):
    channels = {k: options.pop(k) for k in ("budget", "multiple_of") if k in options}
    return kpi.prune_at_init(
        model, examples or data(model), method, sparsity=sparsity, loss=LOSS,
        what=kpi.Channels(**channels), allocation=kpi.Allocation(rule, least),
        verbose=0, **options
    )  # fmt: skip


def widths(model):
    return [k.shape[-1] for k in kpi.cost(model).kernels]


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        *(("resnet", "params"), ("cnn", "params"), ("densenet", "flops")),
        *(("inverted", "params"), ("inverted", "flops"), ("squeezed", "flops")),
    ],
)
def test_the_budget_is_met_and_an_ordinary_model_is_left(name, budget, eagerly):
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    # A gate between 0 and 1 lets little flow: its layers would go first.
    least = 2 if name == "squeezed" else 0
    small = prune(model, kpi.methods.SynFlow(iterations=5), budget=budget, least=least)
    dense, left = kpi.cost(model), kpi.cost(small)
    assert multiply_adds(small) == left.macs and multiply_adds(model) == dense.macs
    if budget == "flops":
        saved = 1 - left.macs / dense.macs
    else:
        totals = [sum(k.total for k in c.kernels) for c in (dense, left)]
        saved = 1 - totals[1] / totals[0]
    assert 0.5 <= saved < (0.64 if name == "squeezed" else 0.56)
    assert [type(v) for v in small.layers] == [type(v) for v in model.layers]
    assert len(small.trainable_variables) == len(model.trainable_variables)
    assert small(data(model)[0]).shape == (16, 5)


def test_nothing_goes_at_zero_sparsity(eagerly):
    model = NETWORKS["resnet"]()
    small = prune(model, sparsity=0.0)
    assert widths(small) == widths(model)
    x = data(model)[0].astype("float32")
    np.testing.assert_array_equal(small(x), model(x))


def gated():
    """A network, and one with a gate of 1 for each of its hidden units."""
    keras.utils.set_random_seed(1)
    model = mlp((12, 9), 7, 3)
    inputs = x = keras.Input((7,))
    gates = []
    for layer in model.layers[:-1]:
        gate = keras.Input((layer.units,))
        gates.append(gate)
        x = L.Multiply()([layer(x), gate])
    return model, keras.Model([inputs, *gates], model.layers[-1](x))


def test_snip_scores_are_sensitivities_to_a_gate_over_the_cost(eagerly):
    model, with_gates = gated()
    x, y = batch(model, 32)
    gates = [tf.ones((1, n)) for n in (12, 9)]
    with tf.GradientTape() as tape:
        tape.watch(gates)
        copies = [tf.repeat(g, len(x), 0) for g in gates]
        loss = LOSS(y, with_gates([tf.constant(x), *copies]))
    flows = [np.abs(g[0]) for g in tape.gradient(loss, gates)]
    # A unit goes with its weights in and out.
    keys = np.concatenate([flows[0] / (7 + 9), flows[1] / (12 + 3)])
    small = prune(model, examples=(x, y), sparsity=0.3)
    kept = [unit_mask(model, small, i) for i in range(2)]
    kept = np.concatenate(kept)
    assert keys[kept].min() > keys[~kept].max() and 0 < kept.sum() < 21


def unit_mask(model, small, i):
    """Which units of a layer are left: its biases are told apart by weights out."""
    before, after = (m.layers[i].kernel.numpy() for m in (model, small))
    if i:
        rows = unit_mask(model, small, i - 1)
        before = before[rows]
    return np.array([any(np.array_equal(u, v) for v in after.T) for u in before.T])


def test_other_scores_are_summed_over_all_that_goes():
    keras.utils.set_random_seed(1)
    model = mlp((12, 9), 7, 3)
    first, second, third = (np.abs(v.kernel.numpy()) for v in model.layers)
    keys = [
        (first.sum(0) + second.sum(1)) / (7 + 9),
        (second.sum(0) + third.sum(1)) / (12 + 3),
    ]
    small = prune(model, "magnitude", 0.3)
    kept = np.concatenate([unit_mask(model, small, i) for i in range(2)])
    keys = np.concatenate(keys)
    assert keys[kept].min() > keys[~kept].max() and 0 < kept.sum() < 21


def test_random_channels_do_not_depend_on_their_size():
    parts = []
    for seed in range(10):
        small = prune(mlp((40, 10), 20, 3), "random", 0.5, seed=seed)
        parts.append([widths(small)[0] / 40, widths(small)[1] / 10])
    wide, narrow = np.mean(parts, 0)
    assert abs(wide - narrow) < 0.12
    assert np.std([p[0] for p in parts]) > 0.02
    model = mlp((40, 10), 20, 3)
    one, other = (prune(model, "random", seed=3) for _ in range(2))
    assert widths(one) == widths(other)


def test_uniform_removes_the_same_part_of_each_set():
    model = NETWORKS["vgg"]()
    small = prune(model, "magnitude", 0.6, rule="uniform", budget="flops")
    dense, left = kpi.cost(model), kpi.cost(small)
    assert multiply_adds(small) == left.macs and multiply_adds(model) == dense.macs
    assert 0.6 <= 1 - left.macs / dense.macs < 0.66
    assert [type(v) for v in small.layers] == [type(v) for v in model.layers]
    parts = np.array(widths(small)[:-1]) / widths(model)[:-1]
    assert parts.max() - parts.min() <= 1 / 8
    other = prune(model, "magnitude")
    assert len(set(np.array(widths(other)[:-1]) / widths(model)[:-1])) > 3


def test_residual_streams_stay_whole(eagerly):
    model = NETWORKS["resnet"]()
    small = prune(model, sparsity=0.6)
    for layer in small.layers:
        if isinstance(layer, L.Add):
            one, other = layer.input
            assert one.shape == other.shape
    assert {v.output.shape[-1] for v in small.layers if isinstance(v, L.Add)} != {
        v.output.shape[-1] for v in model.layers if isinstance(v, L.Add)
    }


@pytest.mark.parametrize("multiple", [4, 8])
def test_numbers_of_channels_are_multiples(multiple):
    model = kpi.models.resnet((16, 16, 3), 5, depth=8, width=16)
    small = prune(model, "magnitude", 0.6, multiple_of=multiple, least=4)
    assert all(n % multiple == 0 for n in widths(small)[:-1])


def test_layers_of_other_numbers_of_channels_lose_whole_multiples():
    model = mlp((12, 6), 8, 3)
    # 12 leaves a multiple at first; a layer of 6 may lose its half.
    left = widths(prune(model, "random", 0.4, multiple_of=8, rule="uniform"))
    assert left[0] in (6, 12) and left[1] in (3, 6) and left != [12, 6, 3]


def test_a_collapse_names_the_layer_and_the_largest_sparsity_that_works():
    keras.utils.set_random_seed(0)
    model = NETWORKS["cnn"]()
    # The weights of the widest layer are the smallest.
    with pytest.raises(ValueError, match="Every layer must keep a channel") as error:
        prune(model, "magnitude", 0.999)
    [layer] = re.findall("`(.*?)` would keep no channel", str(error.value))
    assert layer in [v.name for v in model.layers]
    possible = float(*re.findall("that works is ([0-9.]+)", str(error.value)))
    assert 0 < possible < 0.999
    small = prune(model, "magnitude", possible)
    assert min(widths(small)) == 1
    with pytest.raises(ValueError, match=f"`{layer}` would keep no channel"):
        prune(model, "magnitude", possible + 1e-3)


def test_layers_keep_as_many_channels_as_they_must():
    model = NETWORKS["cnn"]()
    small = prune(model, "magnitude", 0.8, least=2)
    assert min(widths(small)) == 2
    with pytest.raises(ValueError, match="more channels would go than may go"):
        prune(model, "magnitude", 0.8, least=8)


def test_filtered_layers_keep_all_they_make():
    model = NETWORKS["resnet"]()
    names = [v.name for v in model.layers if isinstance(v, L.Conv2D)]
    chosen = [n for n in names if n.endswith("conv1")]
    small = prune(model, "magnitude", 0.2, filters=chosen)
    for name in names:
        same = small.get_layer(name).filters == model.get_layer(name).filters
        assert same or name in chosen
    assert widths(small) != widths(model)


def test_models_without_channels_to_remove_are_refused():
    model = keras.Sequential([keras.Input((5,)), L.Dense(3)])
    with pytest.raises(ValueError, match="channels that can be removed"):
        prune(model, examples=batch(model))
    inputs = keras.Input((6, 4))
    x = L.LSTM(3)(L.LayerNormalization()(L.Dense(5)(inputs)))
    model = keras.Model(inputs, L.Dense(2)(x))
    with pytest.raises(ValueError, match="`layer_normalization.*not known"):
        prune(model, examples=batch(model))
    with pytest.raises(ValueError, match="Sequential and Functional models"):
        prune(subclassed(), "magnitude", examples=batch(mlp()))


def test_multiply_adds_that_are_not_known_are_refused():
    class Picky(L.Layer):
        """Refuses ones, with which a model is run to count."""

        def call(self, x):
            if tf.executing_eagerly() and bool(keras.ops.all(x == 1)):
                raise ValueError("What a strange input.")
            return x * 2

    model = keras.Sequential([keras.Input((5,)), Picky(), L.Dense(4), L.Dense(3)])
    with pytest.raises(ValueError, match="multiply-adds of every layer"):
        prune(model, "magnitude", budget="flops")


def test_the_given_model_stays_and_the_small_one_is_compiled_saved_and_exported(
    tmp_path,
):
    model = NETWORKS["cnn"]()
    x, y = data(model)
    x = x.astype("float32")
    model.compile("adam", LOSS, metrics=["accuracy"], run_eagerly=True)
    before = [v.numpy() for v in model.variables]
    small = prune(model)
    for old, v in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, v.numpy())
    assert set(small.fit(x, y, verbose=0).history) == {"accuracy", "loss"}
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(x), small(x))
    report = kpi.export_tflite(small, tmp_path / "small.tflite")
    assert report.size.plain < 0.8 * 4 * model.count_params()


def test_plain_networks_are_rescaled_without_channels_too():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((30,)), *[L.Dense(60, "tanh") for _ in range(5)], L.Dense(3)]
    )
    kpi.initializers.reinitialize(model)
    examples = batch(model, 64)
    plain, *rescaled = (
        prune(model, sparsity=0.7, examples=examples, **options)
        for options in ({}, {"rescale": True}, {"method": "robust"})
    )
    dense, without = (gradient_ratio(m, examples) for m in (model, plain))
    for small in rescaled:
        assert widths(small) == widths(plain)
        ratio = gradient_ratio(small, examples)
        assert ratio < without and ratio < dense + 0.5


def gradient_ratio(model, examples):
    return abs(np.log(kpi.signal_report(model, examples, LOSS).gradient_ratio))


def test_residual_networks_are_stabilized_without_channels_too(eagerly):
    model = NETWORKS["resnet"]()
    small = prune(model, "sbp_sr", 0.6)
    assert any(isinstance(v, L.Rescaling) for v in small.layers)
    streams = {v.output.shape[-1] for v in small.layers if isinstance(v, L.Add)}
    assert streams != {8, 16, 32} and max(streams) < 32
    # A shortcut behind a scaled branch is still the same kernel.
    report = kpi.report(small, model)
    assert report.notes[0].startswith("Stable ResNet")
    names = {k.path: k.shape for k in kpi.cost(small).kernels}
    assert {np.prod(s) for s in names.values()} == {t.kept for t in report.tensors}


def test_replicas_choose_the_same_channels():
    def make():
        keras.utils.set_random_seed(0)
        model = NETWORKS["cnn"]()
        model.compile("sgd", LOSS, jit_compile=False)
        return model

    x, y = data(make(), 64)
    alone = prune(make(), examples=(x, y))
    with mirrored(2).scope():
        model = make()
    small = prune(model, examples=(x, y))
    assert widths(small) == widths(alone)
    assert small.distribute_strategy.num_replicas_in_sync == 2
    small.fit(x, y, batch_size=16, verbose=0)


def test_report_compares_with_the_model_that_had_all_channels(eagerly):
    model = NETWORKS["cnn"]()
    small = prune(model)
    report = kpi.report(small, model)
    assert [t.shape for t in report.tensors] == [
        k.shape for k in kpi.cost(model).kernels
    ]
    assert [t.kept for t in report.tensors] == [
        k.total for k in kpi.cost(small).kernels
    ]
    assert 0.5 <= report.sparsity == report.effective_sparsity < 0.56
    assert "multiply-adds" in report.notes[1] and not report.collapsed
    assert report.digest == kpi.report(prune(model), model).digest
    with pytest.raises(ValueError, match="pass `dense`"):
        kpi.report(small)
    with pytest.raises(ValueError, match="must be the model before pruning"):
        kpi.report(small, NETWORKS["resnet"]())


def chain(width=12):
    layers = [L.Dense(width, "tanh") for _ in range(3)]
    return keras.Sequential([keras.Input((8,)), *layers, L.Dense(5)])


def twins(width=8):
    """Two nested models with equal names in them."""
    x = inputs = keras.Input((8,))
    for i in range(2):
        x = keras.Sequential(
            [keras.Input((8,)), L.Dense(width, "relu", name="wide"), L.Dense(8)],
            name=f"part_{i}",
        )(x)
    return keras.Model(inputs, L.Dense(5, name="wide")(x))


@pytest.mark.parametrize(("build", "method"), [(chain, "snip"), (twins, "robust")])
def test_kernels_are_compared_with_those_of_any_model(build, method, eagerly):
    model = build()
    small = prune(model, method, 0.3)
    report = kpi.report(small, model)
    kept = [k.total for k in kpi.cost(small).kernels]
    assert [t.kept for t in report.tensors] == kept
    assert [t.path for t in report.tensors] == list(
        kpi.score(model, None, "magnitude", verbose=0)
    )
    said = [note.startswith("Robust: SBP and rescaling") for note in report.notes]
    assert said == [method == "robust"] + [False] * (len(said) - 1)
    with pytest.raises(ValueError, match="must be the model before pruning"):
        kpi.report(small, build(4))


def test_the_sparsity_of_the_error_is_that_which_was_asked_for(eagerly):
    with pytest.raises(ValueError, match=r"sparsity=0.99, with which on the way, at"):
        prune(chain(), kpi.methods.SynFlow(iterations=20), 0.99)
    with pytest.raises(ValueError, match=r"sparsity=0.99, with which `dense.*` would"):
        prune(chain(), "snip", 0.99)
