"""MaskedLayer around every supported layer type, in every way layers are run."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import LAYERS, L

from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.layers.masked import MaskedLayer

RNG = np.random.default_rng(0)


def random_mask(layer, density=0.5):
    """Random masks, the kernels underneath left as they are."""
    for mask in layer.masks.values():
        mask.assign(RNG.random(mask.shape) < density)
    return layer


def folded(layer):
    """The inner layer, its kernels multiplied for real."""
    config = layer.layer.get_config()
    plain = type(layer.layer).from_config(config)
    plain.build_from_config(layer.layer.get_build_config())
    plain.set_weights(layer.layer.get_weights())
    for name in layer.kernels:
        kernel = get_kernel(plain, name)
        kernel.assign(kernel * layer.masks[name] * layer.scales[name])
    return plain


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_those_of_the_folded_layer(name):
    make, shape = LAYERS[name]
    layer = MaskedLayer(make())
    x = RNG.normal(size=(3, *shape)).astype("float32")
    layer(x)
    random_mask(layer)
    for scale in layer.scales.values():
        scale.assign(RNG.uniform(0.5, 2, scale.shape))
    expected = folded(layer)(x)
    for run in (layer, tf.function(layer)):
        np.testing.assert_allclose(run(x), expected, rtol=1e-5, atol=1e-6)


def test_embedding_and_its_mask():
    layer = MaskedLayer(L.Embedding(7, 4, mask_zero=True))
    tokens = np.array([[1, 2, 0]])
    layer(tokens)
    random_mask(layer)
    y = layer(tf.constant(tokens))
    np.testing.assert_array_equal(y, folded(layer)(tokens))
    np.testing.assert_array_equal(y._keras_mask, [[True, True, False]])


@pytest.mark.parametrize(
    "make, prefix",
    [
        (lambda: L.MultiHeadAttention(2, 3), ""),
        (lambda: L.GroupQueryAttention(3, 4, 2), "_"),
    ],
)
def test_attention_takes_all_its_arguments(make, prefix):
    layer = MaskedLayer(make())
    q, v = RNG.normal(size=(2, 4, 5)), RNG.normal(size=(2, 6, 5))
    allowed = np.tril(np.ones((2, 4, 6), bool))
    arguments = {"value": v, "attention_mask": allowed, "return_attention_scores": True}
    layer(query=q, **arguments)
    random_mask(layer)
    for a, b in zip(layer(q, **arguments), folded(layer)(q, **arguments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert set(layer.masks) == {
        f"{prefix}{p}_dense.kernel" for p in ("query", "key", "value", "output")
    }


def test_initial_state_and_sequence_mask_reach_the_layer():
    layer = MaskedLayer(L.GRU(3))
    x = RNG.normal(size=(2, 4, 5)).astype("float32")
    state, steps = tf.ones((2, 3)), tf.constant([[1, 1, 0, 0], [1, 1, 1, 1]]) > 0
    layer(x)
    random_mask(layer)
    y = layer(x, initial_state=state, mask=steps)
    np.testing.assert_allclose(
        y, folded(layer)(x, initial_state=state, mask=steps), rtol=1e-5
    )
    assert np.abs(y - layer(x)).max() > 1e-3


def test_removed_weights_get_no_gradient():
    layer = MaskedLayer(L.Dense(4))
    layer.build((None, 5))
    random_mask(layer)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(tf.square(layer(tf.ones((2, 5)))))
    gradient = tape.gradient(y, layer.layer.kernel).numpy()
    removed = layer.mask.numpy() == 0
    assert (gradient[removed] == 0).all() and (gradient[~removed] != 0).any()


def test_scale_has_one_factor_an_output_unit():
    shapes = {
        "Dense": (1, 4),
        "Conv2D": (3, 3, 1, 4),
        "Conv2DTranspose": (3, 3, 3, 1),
        "DepthwiseConv2D": (3, 3, 2, 2),
        "EinsumDense": (1, 3, 2),
    }
    for name, expected in shapes.items():
        make, shape = LAYERS[name]
        layer = MaskedLayer(make())
        layer(np.zeros((1, *shape), "float32"))
        assert tuple(layer.scale.shape) == expected, name


def test_activity_regularizer_counts_once():
    layer = MaskedLayer(L.Dense(3, activity_regularizer=keras.regularizers.L2(0.1)))
    x = tf.ones((2, 4))
    layer(x)
    random_mask(layer)
    y = layer(x)
    plain = folded(layer)
    plain(x)
    assert len(layer.losses) == 1
    np.testing.assert_allclose(layer.losses[0], plain.losses[0], rtol=1e-6)
    variables = layer.trainable_variables, layer.non_trainable_variables
    outputs, _, losses = layer.stateless_call(*variables, x, return_losses=True)
    np.testing.assert_array_equal(outputs, y)
    assert len(losses) == 1
    np.testing.assert_allclose(losses[0], plain.losses[0], rtol=1e-6)


def test_kernel_regularizer_sees_the_masked_kernel():
    layer = MaskedLayer(L.Dense(3, kernel_regularizer=keras.regularizers.L1(0.5)))
    layer.build((None, 4))
    random_mask(layer)
    kept = np.abs(layer.layer.kernel.numpy() * layer.mask.numpy())
    np.testing.assert_allclose(layer.losses[0], 0.5 * kept.sum(), rtol=1e-6)
    loaded = MaskedLayer.from_config(layer.get_config())
    loaded.build((None, 4))
    loaded.set_weights(layer.get_weights())
    np.testing.assert_allclose(loaded.losses[0], 0.5 * kept.sum(), rtol=1e-6)


def test_an_outer_stateless_scope_is_obeyed():
    layer = MaskedLayer(L.Dense(2))
    layer.build((None, 3))
    ones = [(v, tf.ones(v.shape)) for v in layer.variables]
    with keras.StatelessScope(ones):
        y = layer(tf.ones((1, 3)))
    np.testing.assert_array_equal(y, [[4.0, 4.0]])


def test_a_dropout_seed_advances():
    layer = MaskedLayer(L.LSTM(4, dropout=0.5, recurrent_dropout=0.5))
    x = tf.ones((2, 1, 4))
    first, second = layer(x, training=True), layer(x, training=True)
    assert np.abs(first - second).max() > 1e-4
    step = tf.function(lambda: layer(x, training=True))
    assert np.abs(step() - step()).max() > 1e-4


def test_mixed_precision():
    layer = MaskedLayer(L.Dense(3, dtype="mixed_float16"))
    x = RNG.normal(size=(2, 4)).astype("float32")
    assert layer(x).dtype == tf.float16
    assert (
        layer.mask.dtype == layer.scale.dtype == layer.layer.kernel.dtype == "float32"
    )
    random_mask(layer)
    np.testing.assert_array_equal(layer(x), folded(layer)(x))


def test_xla_gives_the_same():
    layer = MaskedLayer(L.Dense(3))
    x = RNG.normal(size=(2, 4)).astype("float32")
    layer(x)
    random_mask(layer)
    compiled = tf.function(layer, jit_compile=True)
    np.testing.assert_allclose(compiled(x), layer(x), rtol=1e-5)


def test_config_round_trip():
    layer = MaskedLayer(
        L.LSTM(3), kernels=["cell.kernel"], name="recurrent", trainable=False
    )
    layer.build((None, 4, 5))
    copy = MaskedLayer.from_config(layer.get_config())
    copy.build_from_config(layer.get_build_config())
    assert copy.get_config() == layer.get_config()
    assert list(copy.masks) == ["cell.kernel"] and copy.name == "recurrent"
    assert not copy.trainable_variables


def test_a_layer_without_a_kernel_is_refused():
    with pytest.raises(
        ValueError, match="needs a layer with a kernel. Received: layer=<ReLU"
    ):
        MaskedLayer(L.ReLU())


def test_mask_of_a_layer_with_several_kernels_is_refused():
    layer = MaskedLayer(L.SeparableConv2D(4, 3))
    layer.build((None, 6, 6, 2))
    with pytest.raises(AttributeError, match="Use `masks\\[name\\]`"):
        _ = layer.mask
