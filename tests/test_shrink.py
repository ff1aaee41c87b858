"""Shrunk networks compute the same, with nothing left that pruning disconnected."""

import keras
import numpy as np
import pytest
from helpers import L, subclassed
from shrinking import NETWORKS, assert_same, data, float64, multiply_adds, randomized

import keras_prune_init as kpi
from keras_prune_init.channels import analysis, shrink_report

pytestmark = pytest.mark.usefixtures(float64.__name__)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# The others are pruned by SNIP, which leaves no path through the inverted blocks.
BY_SYNFLOW = ("vgg", "inverted", "squeezed")


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_pruned_network_trained_or_not(name, eagerly):
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    x, y = data(model)
    method = kpi.methods.SynFlow(iterations=3) if name in BY_SYNFLOW else "snip"
    pruned = kpi.prune_at_init(
        model, (x, y), method, sparsity=0.95, loss=LOSS, verbose=0
    )
    small = kpi.shrink(pruned)
    assert np.ptp(np.asarray(small(x)), axis=0).max() > 0
    assert_same(pruned, small, x)
    assert_same(pruned, small, x, training=True)
    before, after = kpi.cost(pruned), kpi.cost(small)
    assert after.macs == multiply_adds(small) < before.macs
    assert after.weights < before.weights
    if name in ("vgg", "cnn"):
        assert [k.shape[-1] for k in after.kernels] == filters_in_use(pruned)
        assert kpi.cost(kpi.shrink(small)).weights == after.weights
    # Biases and statistics that training moves go into what is left.
    trained = kpi.shrink(randomized(pruned))
    assert_same(pruned, trained, x)
    assert np.abs(np.asarray(trained(x)) - np.asarray(small(x))).max() > 1e-3
    assert kpi.cost(trained).macs < kpi.cost(pruned).macs


def test_a_network_of_keras_computes_what_it_did(eagerly):
    whole = keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), alpha=0.35, include_top=False
    )
    end = L.GlobalAveragePooling2D()(whole.get_layer("block_2_add").output)
    model = keras.Model(whole.input, L.Dense(5)(end))
    x, y = data(model)
    pruned = kpi.prune_at_init(
        model, (x, y), kpi.methods.SynFlow(iterations=5), sparsity=0.95, verbose=0
    )
    small = kpi.shrink(pruned)
    assert np.ptp(np.asarray(small(x)), axis=0).max() > 0
    assert_same(pruned, small, x)
    after = kpi.cost(small)
    assert after.macs == multiply_adds(small) < kpi.cost(pruned).macs


def filters_in_use(pruned):
    """Filters of a chain of layers with weights in and out, to a fixed point."""
    masks = [
        v.kept_mask("kernel").reshape(-1, *v.layer.kernel.shape[-2:])
        for v in pruned.layers
        if isinstance(v, kpi.MaskedLayer)
    ]
    for _ in masks:
        for one, other in zip(masks, masks[1:], strict=False):
            outputs = one.any((0, 1))
            # After a Flatten, several inputs read one filter.
            inputs = other.any((0, 2)).reshape(-1, len(outputs)).any(0)
            used = outputs & inputs
            one[:, :, ~used] = False
            other[:, np.tile(~used, other.shape[1] // len(used))] = False
    return [int(m.any((0, 1)).sum()) for m in masks[:-1]] + [masks[-1].shape[-1]]


def test_the_compact_layout_shrinks_too():
    model = NETWORKS["cnn"]()
    x, y = data(model)
    masked, compact = (
        kpi.shrink(
            kpi.prune_at_init(model, None, "magnitude", layout=layout, verbose=0)
        )
        for layout in ("masked", "compact")
    )
    assert isinstance(compact.layers[1], kpi.CompactLayer)
    assert kpi.report(masked).digest == kpi.report(compact).digest
    assert_same(masked, compact, x)


def masked(model, **kept):
    """A model with the given masks, all else kept."""
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.0)
    for layer in pruned.layers:
        if layer.name in kept:
            value = layer.kernel_value("kernel")
            layer.install(
                "kernel", np.broadcast_to(kept[layer.name], value.shape), value
            )
    return pruned


def test_what_a_cut_unit_emits_goes_into_the_bias_of_its_readers():
    inputs = keras.Input((4,))
    x = L.Dense(3, "relu", name="a")(inputs)
    model = randomized(keras.Model(inputs, L.Dense(2, name="b", use_bias=False)(x)))
    pruned = masked(model, a=np.array([True, False, True]))
    small = kpi.shrink(pruned)
    assert small.get_layer("a").layer.units == 2
    x = data(model)[0]
    assert_same(pruned, small, x)
    # The second unit was relu of its bias; its reader had no bias to put it into.
    weights = pruned.get_layer("b").kernel_value("kernel")[1]
    emitted = pruned.get_layer("a").layer.bias.numpy()[1] * weights
    np.testing.assert_allclose(small.get_layer("b").layer.bias.numpy(), emitted)


@pytest.mark.parametrize(("padding", "filters"), [("valid", 2), ("same", 3)])
def test_a_constant_stays_where_padding_makes_it_uneven(padding, filters):
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(3, 3, activation="tanh", name="a")(inputs)
    model = keras.Model(inputs, L.Conv2D(2, 3, padding=padding, name="b")(x))
    pruned = masked(randomized(model), a=np.array([True, False, True]))
    small = kpi.shrink(pruned)
    assert small.get_layer("a").layer.filters == filters
    assert_same(pruned, small, data(model)[0])
    reasons = analysis.analyse(pruned).reasons
    assert any("padding makes it uneven" in r and g for r, g in reasons.items()) == (
        padding == "same"
    )


def test_channels_that_are_added_go_together():
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 1, name="a", use_bias=False)(inputs)
    y = L.Conv2D(4, 1, name="b", use_bias=False)(L.ReLU()(x))
    x = L.Conv2D(3, 1, name="c", use_bias=False)(L.Add()([x, y]))
    model = keras.Model(inputs, x)
    first, second = np.ones(4, bool), np.ones(4, bool)
    first[[0, 1]] = second[[1, 2]] = False
    pruned = masked(model, a=first, b=second)
    small = kpi.shrink(pruned)
    # Only channel 1 is empty in both.
    assert [small.get_layer(n).layer.filters for n in "ab"] == [3, 3]
    assert_same(pruned, small, data(model)[0])


def test_all_outputs_keep_their_shape():
    inputs = keras.Input((4,))
    x = L.Dense(3, name="a")(inputs)
    y = x + 1 * L.Dense(3, name="b")(x)  # operations, not layers
    model = keras.Model(inputs, [y, L.Dense(2, name="c")(y)])
    pruned = masked(model, a=np.array([True, False, True]), c=np.zeros((3, 1), bool))
    small = kpi.shrink(pruned)
    for one, other in zip(pruned(data(model)[0]), small(data(model)[0]), strict=True):
        np.testing.assert_allclose(one, other)


def test_layers_of_which_nothing_is_known_keep_what_they_read():
    inputs = keras.Input((6, 4))
    x = L.Dense(5, name="a", use_bias=False)(inputs)
    x = L.LSTM(3)(L.LayerNormalization()(x))
    model = keras.Model(inputs, L.Dense(2, name="b")(x))
    pruned = masked(model, a=np.array([True, False, True, True, True]))
    small = kpi.shrink(pruned)
    assert small.get_layer("a").layer.units == 5
    assert_same(pruned, small, data(model)[0])
    reasons = analysis.analyse(pruned).reasons
    assert "`layer_normalization` reads them" in " ".join(reasons)


class MixesChannels(L.Layer):
    def call(self, x):
        return keras.ops.flip(x, -1)


@pytest.mark.parametrize("mixing", [L.LayerNormalization, MixesChannels])
def test_what_a_layer_mixes_is_needed_up_to_the_first_kernel(mixing):
    """Also if as many channels come out, of which only some are read."""
    inputs = keras.Input((4,))
    x = L.Dense(4, name="b")(L.Dense(6, "relu", name="a")(inputs))
    model = keras.Model(inputs, L.Dense(2, name="c")(mixing()(x)))
    readers = np.array([[True], [False], [False], [False]])
    # Each unit of `a` is read by one of `b`.
    pruned = masked(randomized(model), b=np.eye(4)[[0, 1, 2, 3, 0, 1]], c=readers)
    small = kpi.shrink(pruned)
    assert small.get_layer("a").layer.units == 6
    assert_same(pruned, small, data(model)[0])


def test_rows_that_are_joined_are_not_channels():
    inputs = keras.Input((3, 4))
    rows = [L.Dense(4, name=name)(inputs) for name in "ab"]
    model = keras.Model(inputs, L.Dense(2)(L.Concatenate(axis=1)(rows)))
    pruned = masked(randomized(model), a=np.array([True, False, True, True]))
    assert_same(pruned, kpi.shrink(pruned), data(model)[0])


def test_a_network_without_any_path_keeps_a_channel_of_each_layer():
    model = randomized(kpi.models.cnn((8, 8, 3), 5, depth=2, width=4))
    x = data(model)[0]
    kernels = [v.name for v in model.layers if hasattr(v, "kernel")]
    pruned = masked(model, **{kernels[1]: np.array(False)})
    small = kpi.shrink(pruned)
    assert_same(pruned, small, x)
    assert np.ptp(np.asarray(small(x)), axis=0).max() < 1e-12


def test_the_given_model_stays_and_the_small_one_is_a_model_like_others(
    tmp_path, eagerly
):
    model = NETWORKS["squeezed"]()
    x, y = data(model)
    model.compile("adam", LOSS, metrics=["accuracy"])
    method = kpi.methods.SynFlow(iterations=3)
    pruned = kpi.prune_at_init(model, (x, y), method, sparsity=0.95, verbose=0)
    before = [v.numpy() for v in pruned.variables]
    small = kpi.shrink(pruned)
    for old, v in zip(before, pruned.variables, strict=True):
        np.testing.assert_array_equal(old, v.numpy())
    before = small.get_weights()
    assert set(small.fit(x, y, verbose=0).history) == {"accuracy", "loss"}
    assert any((a != b).any() for a, b in zip(before, small.get_weights(), strict=True))
    untrained = np.asarray(pruned(x))
    pruned.fit(x, y, verbose=0)
    trained = kpi.shrink(pruned)
    assert_same(pruned, trained, x)
    assert np.abs(np.asarray(trained(x)) - untrained).max() > 1e-4
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert_same(small, loaded, x)
    assert_same(small, kpi.strip(small), x)


def test_a_report_with_times_changes_no_statistics_and_seeds():
    layers = [L.Conv2D(3, 3), L.BatchNormalization(), L.Dropout(0.5)]
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
    before = [v.numpy() for v in model.variables]
    kpi.shrink_report(model, model, data(model)[0] + 3)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_plain_models_with_zeros_are_left_alone_and_others_refused():
    model = NETWORKS["cnn"]()
    assert kpi.cost(kpi.shrink(model)).weights == kpi.cost(model).weights
    with pytest.raises(ValueError, match="Sequential and Functional models"):
        kpi.shrink(subclassed())


def test_report_says_what_changed_and_what_stays():
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(3, 3, activation="tanh", name="a")(inputs)
    model = keras.Model(inputs, L.Conv2D(2, 3, padding="same", name="b")(x))
    pruned = masked(randomized(model), a=np.array([True, False, True]))
    x = data(model)[0]
    found = kpi.shrink_report(pruned, kpi.shrink(pruned), x)
    assert found.weights[0] == found.weights[1] == kpi.cost(pruned).weights
    assert min(found.seconds) > 0 and list(found.stays.values()) == [1]
    assert "1 channels stay: `b` reads a constant that is not 0" in str(found)
    masks = {"a": np.array([True, False, True]), "b": np.zeros((3, 1), bool)}
    valid = keras.Model(inputs, L.Conv2D(2, 3, name="b")(model.layers[1].output))
    pruned = masked(valid, a=masks["a"])
    found = kpi.shrink_report(pruned, kpi.shrink(pruned))
    assert found.macs == (16 * 9 * (2 * 3) + 4 * 9 * 6, 16 * 9 * (2 * 2) + 4 * 9 * 4)
    assert found.seconds is None and not found.stays
    assert "multiply-adds 1,080 to 720 (0.67)" in str(found)


@pytest.mark.parametrize("repeats", [1, 4])
def test_as_many_passes_are_timed_as_were_asked_for(repeats, monkeypatch):
    model = keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)])
    pruned = masked(model)
    timed, seconds = [], shrink_report._seconds

    def counted(run):
        timed.append(run)
        return seconds(run)

    monkeypatch.setattr(shrink_report, "_seconds", counted)
    found = kpi.shrink_report(pruned, pruned, data(model)[0], repeats=repeats)
    # Two rounds come first; the models take turns.
    assert len(timed) == 2 * (repeats + 2) and timed[::2] == [timed[0]] * (repeats + 2)
    assert len(found.seconds) == 2 and min(found.seconds) > 0
    with pytest.raises(ValueError, match="`repeats`.*Received: repeats=0"):
        kpi.shrink_report(pruned, pruned, data(model)[0], repeats=0)


def channels_first():
    options = {"data_format": "channels_first"}
    inputs = keras.Input((3, 9, 9))
    x = L.Conv2D(6, 3, activation="relu", **options, name="first")(inputs)
    x = L.Conv2D(8, 1, **options)(L.BatchNormalization(1)(x))
    x = L.DepthwiseConv2D(3, depth_multiplier=2, **options)(x)
    y = L.Conv2D(16, 1, activation="relu", **options)(x)
    x = L.Concatenate(1)([L.Add()([x, y]), L.Conv2D(4, 1, **options, name="end")(x)])
    x = L.Flatten(**options)(L.MaxPooling2D(**options)(x))
    return keras.Model(inputs, L.Dense(5)(x))


def test_images_with_channels_first_shrink_too():
    keras.config.set_dtype_policy("float32")  # the only one that a CPU runs them in
    model = randomized(channels_first())
    x, y = data(model)
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.3, verbose=0)
    for name in ("first", "end"):
        layer = pruned.get_layer(name)
        mask = layer.kept_mask("kernel")
        mask[..., 1:3] = False
        layer.install("kernel", mask, layer.kernel_value("kernel"))
    small = kpi.shrink(pruned)
    widths = [v.layer.kernel.shape[-1] for v in small.layers if hasattr(v, "masks")]
    assert widths == [4, 8, 2, 16, 2, 5]
    np.testing.assert_allclose(pruned(x), small(x), atol=1e-5)
    fewer = kpi.prune_at_init(
        model, (x, y), "snip", sparsity=0.4, what="channels", verbose=0
    )
    assert fewer.count_params() < model.count_params()
    assert fewer(x).shape == (16, 5)
