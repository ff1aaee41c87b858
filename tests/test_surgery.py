"""Every kind of model goes through surgery and comes back from every kind of file."""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, subclassed, transformer, two_inputs_two_outputs

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
    tokens = keras.Input((2,), dtype="int32")
    x = L.Embedding(20, 6, mask_zero=True)(tokens)
    x = L.Bidirectional(L.LSTM(5, return_sequences=True, dropout=0.2))(x)
    x = L.TimeDistributed(L.Dense(6))(x)
    return keras.Model(tokens, L.Dense(3)(L.GRU(4)(x)))


RNG = np.random.default_rng(1)


def floats(*shape):
    return RNG.normal(size=(4, *shape)).astype("float32")


def tokens():
    return RNG.integers(0, 20, (4, 2)).astype("int32")


MODELS = {
    "convolutional": lambda: (convolutional(), floats(8, 8, 3)),
    "recurrent": lambda: (recurrent(), tokens()),
    "transformer": lambda: (transformer(length=2), tokens()),
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


class Case(NamedTuple):
    """A pruned model, the one it was made from, inputs for them, and what it gives."""

    pruned: keras.Model
    model: keras.Model
    x: Any
    outputs: list
    report: kpi.PruningReport


CASES = [
    ("convolutional", "masked"),
    ("convolutional", "compact"),
    ("recurrent", "masked"),
    ("recurrent", "compact"),
    ("transformer", "masked"),
    ("subclassed", "compact"),
    ("two inputs, two outputs", "masked"),
]


@functools.cache
def case_of(name, layout):
    keras.utils.set_random_seed(1)
    model, x = MODELS[name]()
    outputs = outputs_of(model, x)
    before = [v.numpy() for v in model.variables]
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.7, layout=layout)
    assert_same([v.numpy() for v in model.variables], before)
    assert_same(outputs_of(model, x), outputs)
    assert not {id(v) for v in pruned.variables} & {id(v) for v in model.variables}
    return Case(pruned, model, x, outputs_of(pruned, x), kpi.report(pruned))


@pytest.fixture(params=CASES, ids=" ".join)
def case(request):
    return case_of(*request.param)


def test_outputs_are_those_of_the_given_model_with_zeroed_kernels(case):
    model, x = case.model, case.x
    chosen = kpi.select(kpi.score(model, None, "random"), 0.7)
    kernels = {k.path: k.variable for k in find_kernels(model)}
    assert kernels.keys() == chosen.keys()
    whole, before = outputs_of(model, x), [v.numpy() for v in model.variables]
    for path, mask in chosen.items():
        kernels[path].assign(kernels[path] * mask)
    zeroed = outputs_of(model, x)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    for a, b in zip(case.outputs, zeroed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(whole[0], zeroed[0])


def test_the_count_is_exact(case):
    total = sum(v.size for v in kpi.score(case.model, None, "magnitude").values())
    assert case.report.total == total
    assert case.report.kept == total - int(0.7 * total + 1e-6)


def test_strip_gives_ordinary_layers_and_the_same_outputs(case):
    plain, model = kpi.strip(case.pruned), case.model
    for a, b in zip(outputs_of(plain, case.x), case.outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert type(plain) is type(model)
    assert len(plain.weights) == len(model.weights)
    assert [tuple(w.shape) for w in plain.weights] == [
        tuple(w.shape) for w in model.weights
    ]


def test_keras_file(case, tmp_path):
    case.pruned.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert_same(outputs_of(loaded, case.x), case.outputs)
    assert kpi.report(loaded).digest == case.report.digest


def test_a_clone_takes_weights_from_a_file_a_checkpoint_and_a_list(case, tmp_path):
    pruned, x, expected = case.pruned, case.x, case.outputs
    clone = keras.models.clone_model(pruned)
    zeros = [np.zeros_like(w) for w in clone.get_weights()]
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
    "name, layout", [("convolutional", "masked"), ("subclassed", "compact")]
)
def test_saved_model_export(name, layout, tmp_path):
    case = case_of(name, layout)
    case.pruned.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    outputs = keras.tree.flatten(loaded.serve(case.x))
    for a, b in zip(outputs, case.outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
