"""From datasets of every shape to the batches that are scored."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp

import keras_prune_init as kpi
from keras_prune_init.scoring import batches


def take(dataset, *args, **options):
    return batches.take(dataset, lambda first: 3, *args, **options)


def numbers(count):
    return np.arange(2.0 * count).reshape(count, 2), np.arange(count)


def as_dataset(*parts, size=4):
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)


class Endless(keras.utils.PyDataset):
    def __getitem__(self, index):
        return numbers(4)

    @property
    def num_batches(self):
        return None


class Short(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return [index + np.zeros((4, 2))]


@pytest.mark.parametrize(
    "dataset, parts",
    [
        (numbers(5), 2),
        ((numbers(5)[0],), 1),
        ((numbers(5)[0], None), 1),
        ((*numbers(5), None), 2),
        ((*numbers(5), np.ones(5)), 3),
        (as_dataset(*numbers(5)), 2),
        (as_dataset(*numbers(5), np.ones(5)), 3),
        (tf.data.Dataset.from_tensors(numbers(4)[0]), 1),
        (tf.data.Dataset.from_tensors(numbers(4)[:1]), 1),
        (Short(1), 1),
        (Endless(1), 2),
    ],
)
def test_parts_that_are_missing_are_none(dataset, parts):
    [found] = take(dataset)
    assert [v is not None for v in found] == [i < parts for i in range(3)]
    assert all(tf.is_tensor(v) for v in found[:parts])


def test_structures_stay_as_they_are():
    x, y = numbers(300)
    data = {"b": x, "a": [x, y]}, (y, None), {"w": np.ones(300)}
    found = take(data, None)
    assert [len(v[0]["b"]) for v in found] == [128, 128, 44]
    (inputs, labels, weights), structure = found[1], keras.tree.assert_same_structure
    structure(inputs, data[0])
    structure(labels, data[1])
    structure(weights, data[2])
    np.testing.assert_array_equal(inputs["a"][1], y[128:256])


@pytest.mark.parametrize("kind", [np.asarray, tf.constant, np.ndarray.tolist])
def test_arrays_of_floats_become_those_of_the_network(kind):
    x, y = numbers(4)
    x = kind(x) if kind is not np.ndarray.tolist else x.astype("float16")
    [(single, labels, _)] = take((x, y))
    [(double, *_)] = take((x, y), dtype="float64")
    assert (single.dtype, double.dtype, labels.dtype) == (
        tf.float32,
        tf.float64,
        tf.int64,
    )


@pytest.mark.parametrize("count", [np.int64(2), np.int32(2), np.uint8(2), 2])
def test_numbers_may_be_those_of_numpy(count):
    assert len(take(as_dataset(*numbers(12)), count)) == 2
    labels = np.arange(12) % 3
    [(_, y, _)] = take((numbers(12)[0], labels), samples_per_class=count)
    np.testing.assert_array_equal(y, [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("value", [True, 2.0, "2", 0, np.int64(-1)])
def test_other_numbers_are_refused(value):
    for name in ("batches", "samples_per_class"):
        with pytest.raises(ValueError, match=f"`{name}` must be a whole number"):
            take(numbers(4), **{name: value})


@pytest.mark.parametrize(
    "dataset",
    [
        as_dataset(*numbers(8)).repeat(),
        as_dataset(*numbers(8)).repeat().map(lambda x, y: (x, y)).prefetch(1),
        Endless(1),
    ],
)
def test_all_of_an_endless_dataset_is_refused_at_once(dataset):
    with pytest.raises(ValueError, match="batches=None, and a .* forever"):
        kpi.prune_at_init(mlp(), dataset, batches=None)
    assert len(take(dataset, 3)) == 3


@pytest.mark.parametrize(
    "dataset, message",
    [
        ((np.ones((4, 2)), np.ones(3)), "arrays of \\[3, 4\\] samples"),
        ((np.ones((4, 2)), [0, 1, 2, 0]), "Received: a single number"),
        (tf.data.Dataset.from_tensors((1, 2, 3, 4)), "an element of 4 parts"),
    ],
)
def test_other_data_is_refused(dataset, message):
    with pytest.raises(ValueError, match=message):
        take(dataset)


# --- samples_per_class ---


def classifier(units, activation=None, shape=(5,)):
    model = keras.Sequential([keras.Input(shape), L.Dense(4, "tanh")])
    model.add(L.Dense(units, activation))
    return model


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_unit_has_two_classes(activation, column):
    model = classifier(1, activation)
    x, _ = batch(model, 40)
    y = np.arange(40) // 25
    rows = [*range(4), *range(25, 29)]
    labels = y[:, None] if column else y
    found = kpi.score(model, (x, labels), samples_per_class=4, verbose=0)
    expected = kpi.score(model, (x[rows], labels[rows]), verbose=0)
    for path in found:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_rows_of_one_hot_labels_have_their_class(smoothing):
    model = classifier(3, "softmax")
    x, y = batch(model, 40)
    rows = np.sort(np.concatenate([np.flatnonzero(y == c)[:4] for c in range(3)]))
    y = np.eye(3)[y] * (1 - smoothing) + smoothing / 3
    found = kpi.score(model, (x, y), samples_per_class=4, verbose=0)
    expected = kpi.score(model, (x[rows], y[rows]), verbose=0)
    for path in found:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-4, atol=1e-8)


def two_outputs():
    x = keras.Input((5,))
    h = L.Dense(4)(x)
    return keras.Model(x, [L.Dense(3)(h), L.Dense(3)(h)])


X = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
Y = np.arange(12) % 3
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


ONE = "one class label a sample"
SEQUENCES = np.ones((12, 7, 5)), np.ones((12, 7), int)


@pytest.mark.parametrize(
    "make, data, loss, message",
    [
        (lambda: classifier(3, shape=(7, 5)), SEQUENCES, SPARSE, f"{ONE}. .*12, 7, 3"),
        (lambda: classifier(2, "sigmoid"), (X, np.ones((12, 2))), None, ONE),
        (two_outputs, (X, [Y, Y]), SPARSE, ONE),
        (lambda: classifier(1), (X, X[:, :1]), "mse", "class indices from 0 to 1"),
        (lambda: classifier(3), (X, np.arange(12) % 2), SPARSE, "class 2 has only 0"),
        (lambda: classifier(3), (X, Y), SPARSE, "samples_per_class=5; class 0 .* 4"),
        (lambda: classifier(1), (X, 2 * (Y % 2) - 1), "hinge", "0 to 1 .*from -1 to 1"),
    ],
)
def test_data_without_so_many_of_each_class_is_refused(make, data, loss, message):
    with pytest.raises(ValueError, match=message):
        kpi.prune_at_init(make(), data, loss=loss, samples_per_class=5)


@pytest.mark.parametrize("odd", [9, -1])
def test_labels_of_no_class_are_refused_in_every_batch(odd):
    y = np.where(np.arange(12) == 0, odd, Y)
    with pytest.raises(ValueError, match="from 0 to 2, .* labels from"):
        kpi.prune_at_init(classifier(3), (X, y), loss=SPARSE, samples_per_class=4)
    dataset = as_dataset(X, np.where(np.arange(12) == 11, odd, Y))
    with pytest.raises(ValueError, match="needs class indices from 0 to 2"):
        kpi.prune_at_init(classifier(3), dataset, loss=SPARSE, samples_per_class=4)


def test_weights_and_inputs_by_name_are_drawn_along():
    inputs = {n: keras.Input((5,), name=n) for n in "ab"}
    model = keras.Model(inputs, L.Dense(3)(L.Add()(list(inputs.values()))))
    rows = [0, 1, 2, 3, 4, 5]
    weights = np.linspace(0, 1, 12)
    data = {"b": X, "a": 2 * X}, Y, weights
    found = kpi.score(model, data, samples_per_class=2, verbose=0)
    first = keras.tree.map_structure(lambda v: v[rows], data)
    expected = kpi.score(model, first, verbose=0)
    for path in found:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-5, atol=1e-8)


def test_a_generator_is_used_up_batch_by_batch():
    source = (numbers(4) for _ in range(5))
    assert len(take(source, 3)) == 3
    assert len(list(source)) == 2


def test_arrays_are_cut_to_the_batch_that_a_model_is_made_for():
    model = keras.Sequential(
        [keras.Input((2, 3), batch_size=8), L.SimpleRNN(4, stateful=True), L.Dense(2)]
    )
    x = np.random.default_rng(0).normal(size=(24, 2, 3)).astype("float32")
    data, loss = (
        (x, np.arange(24) % 2),
        keras.losses.SparseCategoricalCrossentropy(True),
    )
    found = kpi.score(model, data, "snip", loss=loss, batches=3)
    parts = tf.data.Dataset.from_tensor_slices(data).batch(8)
    expected = kpi.score(model, parts, "snip", loss=loss, batches=3)
    for one, other in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_data_that_lacks_a_class(missing):
    """Is refused where each must be there, and is as good as any elsewhere."""
    x = np.random.default_rng(0).normal(size=(30, *X.shape[1:])).astype("float32")
    y = np.array([c for c in range(3) if c != missing] * 15)
    message = f"samples_per_class=2; class {missing} has only 0. Lower it"
    with pytest.raises(ValueError, match=message):
        kpi.prune_at_init(classifier(3), (x, y), loss=SPARSE, samples_per_class=2)
    model = classifier(3)
    model.compile("sgd", SPARSE)
    found = kpi.score(model, (x, y), verbose=0)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x))
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    slopes = tape.gradient(loss, [k.value for k in kernels])
    for s, k, g in zip(found.values(), kernels, slopes, strict=True):
        np.testing.assert_allclose(s, np.abs(k * g), rtol=1e-4, atol=1e-6)
