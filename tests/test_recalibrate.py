"""`recalibrate`: statistics of batch normalization are those of the data."""

import contextlib
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp, net, subclassed
from runs import mirrored

import keras_prune_init as kpi


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype("float32")


def dataset(x, size):
    return tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(size)


def norms(model):
    return [v for v in model._flatten_layers() if isinstance(v, L.BatchNormalization)]


def statistics(model):
    return [v.numpy() for n in norms(model) for v in (n.moving_mean, n.moving_variance)]


def two_norms(**options):
    layers = [L.BatchNormalization(**options), L.Dense(4, "relu"), L.Dropout(0.5)]
    return keras.Sequential(
        [keras.Input((3,)), *layers, L.BatchNormalization(**options), L.Dense(2)]
    )


def expected(model, batches):
    """The statistics of the two layers of `two_norms`, with numpy, in float64."""
    first, dense = model.layers[:2]
    kernel, bias = (v.numpy().astype("float64") for v in dense.weights)
    seen = [[], []]
    for x in batches:
        x = x.astype("float64")
        y = (x - x.mean(0)) / np.sqrt(x.var(0) + first.epsilon)
        seen[0].append(x)
        seen[1].append(np.maximum(y @ kernel + bias, 0))
    whole = [np.concatenate(v) for v in seen]
    return [s for v in whole for s in (v.mean(0), v.var(0))]


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_they_are_averages_over_batches_of_different_sizes(momentum):
    model, x = two_norms(momentum=momentum), numbers(21, 3)
    found = kpi.recalibrate(model, dataset(x, 8))
    assert found is model
    wanted = expected(model, [x[:8], x[8:16], x[16:]])
    for a, b in zip(statistics(model), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_nothing_of_earlier_statistics_is_left():
    model, x = two_norms(), numbers(12, 3)
    once = statistics(kpi.recalibrate(model, x))
    for norm in norms(model):
        norm.moving_variance.assign(np.full(norm.moving_variance.shape, np.inf))
        norm.moving_mean.assign(np.full(norm.moving_mean.shape, np.nan))
    for a, b in zip(statistics(kpi.recalibrate(model, x)), once, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_else_changes():
    model, x = two_norms(), numbers(12, 3)
    model.compile("adam", "mse")
    model.fit(x, np.zeros((12, 2)), verbose=0)
    own = {id(v) for n in norms(model) for v in n.non_trainable_variables}
    others = [v for v in model.variables if id(v) not in own]
    others += model.optimizer.variables
    before = [v.numpy() for v in others]
    attributes = [{k: v for k, v in vars(n).items()} for n in norms(model)]
    kpi.recalibrate(model, x)
    for a, b in zip(others, before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    for norm, kept in zip(norms(model), attributes, strict=True):
        assert vars(norm) == kept


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_a_pruned_model_gets_those_of_its_pruned_activations(layout):
    model = subclassed()
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.8, layout=layout)
    plain, x = kpi.strip(pruned), numbers(24, 5)
    y = plain.many[1]["deep"](plain.many[0](plain.first(x)))
    inputs = plain.pair[0](plain.named["a"](y) + plain.named["b"](y)).numpy()
    kpi.recalibrate(pruned, dataset(x, 6))
    mean, variance = statistics(pruned)
    np.testing.assert_allclose(mean, inputs.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, inputs.var(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("synchronized", [False, True])
def test_replicas_give_what_one_device_gives(count, synchronized):
    alone, x = two_norms(), numbers(21, 3)
    with mirrored(count).scope():
        model = two_norms(synchronized=synchronized)
        model.set_weights(alone.get_weights())
    wanted = statistics(kpi.recalibrate(alone, dataset(x, 8)))
    kpi.recalibrate(model, dataset(x, 8))
    for a, b in zip(statistics(model), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for part in norms(model)[1].moving_mean.value.values:  # each replica has its own
        np.testing.assert_allclose(part, wanted[2], rtol=1e-5, atol=1e-6)


def test_masked_steps_do_not_count():
    x = numbers(10, 4, 3)
    x[:3, 2:] = 0
    layers = [keras.Input((4, 3)), L.Masking(), L.BatchNormalization()]
    model = kpi.recalibrate(keras.Sequential(layers), dataset(x, 3))
    rows = x[(x != 0).any(-1)]
    np.testing.assert_allclose(statistics(model)[0], rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics(model)[1], rows.var(0), rtol=1e-5)


class Own(L.BatchNormalization):
    """A user's layer, whose arguments have other names."""

    def call(self, values, training=False):
        return super().call(values, training=training)


class Untraced(L.Layer):
    """A user's layer that needs numbers, so it cannot be traced."""

    def call(self, x):
        return x * float(x.numpy().shape[0] > 0)


class Caller(keras.Model):
    """Calls one layer twice, once as if it were not to be trained."""

    def __init__(self, *others):
        super().__init__()
        self.held = {"norms": [Own()]}
        self.others = others

    def call(self, x):
        norm = self.held["norms"][0]
        norm(x, training=False)
        for layer in self.others:
            x = layer(x)
        return norm(2 * x)


@pytest.mark.parametrize(
    ("others", "count"), [((), 1), ((Untraced,), 1), ((Untraced,), 2)]
)
def test_all_calls_of_a_layer_count_however_it_is_called(others, count):
    x = numbers(10, 3)
    with mirrored(count).scope() if count > 1 else contextlib.nullcontext():
        model = Caller(*(make() for make in others))
        model(x)
    kpi.recalibrate(model, dataset(x, 4))
    both = np.concatenate([x, 2 * x])
    np.testing.assert_allclose(statistics(model)[0], both.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics(model)[1], both.var(0), rtol=1e-5)


@pytest.mark.parametrize("length", [5, None])
def test_layers_in_wrappers_see_all_steps(length):
    x = numbers(6, 5, 3)
    layer = L.TimeDistributed(L.BatchNormalization())
    model = keras.Sequential([keras.Input((length, 3)), layer])
    kpi.recalibrate(model, dataset(x, 2))
    np.testing.assert_allclose(statistics(model)[0], x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(statistics(model)[1], x.var((0, 1)), rtol=1e-5)


def test_images_with_channels_first_in_half_precision():
    x = numbers(9, 2, 4, 4)
    layer = L.BatchNormalization(axis=1, dtype="mixed_float16")
    model = keras.Sequential([keras.Input((2, 4, 4)), layer])
    kpi.recalibrate(model, (x,))
    assert statistics(model)[0].dtype == np.float32
    np.testing.assert_allclose(statistics(model)[0], x.mean((0, 2, 3)), rtol=1e-3)
    np.testing.assert_allclose(statistics(model)[1], x.var((0, 2, 3)), rtol=1e-3)


def test_batch_renormalization_goes_on_from_the_same_numbers():
    x = numbers(16, 3)
    layer = L.BatchNormalization(renorm=True)
    kpi.recalibrate(keras.Sequential([keras.Input((3,)), layer]), x)
    deviation = np.sqrt(x.var(0) + layer.epsilon)
    for variable, value in [
        (layer.moving_mean, x.mean(0)),
        (layer.renorm_mean, x.mean(0)),
        (layer.moving_variance, x.var(0)),
        (layer.moving_stddev, deviation),
        (layer.renorm_stddev, deviation),
    ]:
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)


def test_frozen_layers_keep_theirs():
    model, x = two_norms(), numbers(8, 3)
    first, second = norms(model)
    first.trainable = False
    kpi.recalibrate(model, x)
    np.testing.assert_array_equal(first.moving_mean.numpy(), np.zeros(3))
    assert second.moving_mean.numpy().any()
    model.trainable = False
    with pytest.raises(ValueError, match="all 2 are frozen. Set trainable=True"):
        kpi.recalibrate(model, x)


def test_a_model_without_any_is_returned_as_it_is():
    model = mlp()
    before = model.get_weights()
    assert kpi.recalibrate(model, batch(model)) is model
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def endless():
    while True:
        yield numbers(4, 3)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.full((4, 3), np.nan, "float32"), {}, "must be finite"),
        (numbers(4, 3) * 1e30, {}, "must be finite"),
        (numbers(4, 3), {"batches": 2}, "batches=2, and a dataset of 1"),
        (numbers(4, 3), {"batches": 0}, "whole number"),
        (numbers(4, 2), {}, "shape \\(4, 2\\) for an input of shape \\(None, 3\\)"),
        (endless(), {}, "endless"),
        (numbers(1, 3), {}, "batches of one for"),
        (dataset(numbers(8, 3), 1), {}, "batches of one for"),
    ],
)
def test_bad_data_is_refused_and_changes_nothing(data, options, message):
    model = two_norms()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        kpi.recalibrate(model, data, **options)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_data_is_streamed():
    alive = set()
    most = 0

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 30

        def __getitem__(self, i):
            nonlocal most
            x = tf.constant(numbers(4, 3, seed=i))
            alive.add(i)
            weakref.finalize(x, alive.discard, i)
            most = max(most, len(alive))
            return x, None

    kpi.recalibrate(two_norms(), Data())
    assert most <= 4


def test_a_model_is_traced_and_not_run_layer_by_layer():
    calls = 0

    class Counted(L.Layer):
        def call(self, x):
            nonlocal calls
            calls += 1
            return x

    layers = [keras.Input((3,)), Counted(), L.BatchNormalization()]
    model = keras.Sequential(layers)
    calls = 0
    kpi.recalibrate(model, dataset(numbers(50, 3), 4))
    assert calls <= 3  # one trial, one trace for whole batches, one for any


def test_labels_and_weights_are_ignored():
    model, (x, y) = net()
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    kpi.recalibrate(model, (x, y, np.zeros(len(x))))
    kpi.recalibrate(other, x)
    for a, b in zip(statistics(model), statistics(other), strict=True):
        np.testing.assert_array_equal(a, b)
