"""Every kind of model goes through surgery and comes back from every kind of file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    L,
    mlp,
    subclassed,
    transformer,
    two_inputs_two_outputs,
)

import keras_prune_init as kpi
from keras_prune_init.layers.kernels import find_kernels


def convolutional():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(6, 3, padding="same", use_bias=False),
            L.BatchNormalization(),
            L.ReLU(),
            L.SeparableConv2D(8, 3),
            L.DepthwiseConv2D(3),
            L.Conv2DTranspose(4, 3),
            L.Dropout(0.5),
            L.GlobalAveragePooling2D(),
            L.Dense(3),
        ]
    )


def recurrent():
    tokens = keras.Input((7,), dtype="int32")
    x = L.Embedding(20, 6, mask_zero=True)(tokens)
    x = L.Bidirectional(L.LSTM(5, return_sequences=True, dropout=0.2))(x)
    x = L.TimeDistributed(L.Dense(6))(x)
    x = L.GRU(4, return_sequences=True)(x)
    return keras.Model(tokens, L.Dense(3)(L.SimpleRNN(4)(x)))


RNG = np.random.default_rng(1)


def floats(*shape):
    return RNG.normal(size=(4, *shape)).astype("float32")


def tokens():
    return RNG.integers(0, 20, (4, 7)).astype("int32")


MODELS = {
    "mlp": lambda: (mlp(), floats(5)),
    "convolutional": lambda: (convolutional(), floats(8, 8, 3)),
    "recurrent": lambda: (recurrent(), tokens()),
    "transformer": lambda: (transformer(), tokens()),
    "subclassed": lambda: (subclassed(), floats(5)),
    "two inputs, two outputs": lambda: (
        two_inputs_two_outputs(),
        {"a": floats(4), "b": floats(6)},
    ),
}


def outputs_of(model, x):
    return [np.asarray(v) for v in keras.tree.flatten(model(x, training=False))]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(
    params=[
        *((name, "masked") for name in MODELS),
        *((name, "compact") for name in ("convolutional", "recurrent", "subclassed")),
    ],
    ids=" ".join,
    scope="module",
)
def case(request):
    """A pruned model, the one it was made from, and inputs for them."""
    name, layout = request.param
    keras.utils.set_random_seed(1)
    model, x = MODELS[name]()
    outputs = outputs_of(model, x)
    before = [v.numpy() for v in model.variables]
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.7, layout=layout)
    assert_same([v.numpy() for v in model.variables], before)
    assert_same(outputs_of(model, x), outputs)
    assert not {id(v) for v in pruned.variables} & {id(v) for v in model.variables}
    return pruned, model, x


def test_outputs_are_those_of_the_given_model_with_zeroed_kernels(case):
    pruned, model, x = case
    chosen = kpi.select(kpi.score(model, None, "random"), 0.7)
    kernels = {k.path: k.variable for k in find_kernels(model)}
    assert kernels.keys() == chosen.keys()
    whole, before = outputs_of(model, x), [v.numpy() for v in model.variables]
    for path, mask in chosen.items():
        kernels[path].assign(kernels[path] * mask)
    zeroed = outputs_of(model, x)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    for a, b in zip(outputs_of(pruned, x), zeroed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(whole[0], zeroed[0])


def test_the_count_is_exact(case):
    pruned, model, x = case
    report = kpi.report(pruned)
    assert report.total == sum(
        s.size for s in kpi.score(model, None, "magnitude").values()
    )
    assert report.kept == report.total - int(0.7 * report.total + 1e-6)


def test_strip_gives_ordinary_layers_and_the_same_outputs(case):
    pruned, model, x = case
    plain = kpi.strip(pruned)
    for a, b in zip(outputs_of(plain, x), outputs_of(pruned, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert type(plain) is type(model)
    assert len(plain.weights) == len(model.weights)
    assert [tuple(w.shape) for w in plain.weights] == [
        tuple(w.shape) for w in model.weights
    ]


def test_keras_file(case, tmp_path):
    pruned, model, x = case
    pruned.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert_same(outputs_of(loaded, x), outputs_of(pruned, x))
    assert kpi.report(loaded).digest == kpi.report(pruned).digest


def test_a_clone_takes_weights_from_a_file_a_checkpoint_and_a_list(case, tmp_path):
    pruned, model, x = case
    clone = keras.models.clone_model(pruned)
    expected, zeros = (
        outputs_of(pruned, x),
        [np.zeros_like(w) for w in clone.get_weights()],
    )
    pruned.save_weights(tmp_path / "m.weights.h5")
    clone.load_weights(tmp_path / "m.weights.h5")
    assert_same(outputs_of(clone, x), expected)
    clone.set_weights(zeros)
    assert not np.array_equal(outputs_of(clone, x)[0], expected[0])
    path = tf.train.Checkpoint(model=pruned).save(str(tmp_path / "ckpt"))
    tf.train.Checkpoint(model=clone).restore(path).assert_consumed()
    assert_same(outputs_of(clone, x), expected)
    clone.set_weights(zeros)
    clone.set_weights(pruned.get_weights())
    assert_same(outputs_of(clone, x), expected)


@pytest.mark.parametrize(
    "name, layout",
    [("convolutional", "masked"), ("subclassed", "compact"), ("recurrent", "masked")],
)
def test_saved_model_export(name, layout, tmp_path):
    model, x = MODELS[name]()
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.7, layout=layout)
    expected = outputs_of(pruned, x)
    pruned.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    for a, b in zip(keras.tree.flatten(loaded.serve(x)), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
