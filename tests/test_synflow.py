"""SynFlow on networks whose flow, inputs or layers are out of the ordinary."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L

import keras_prune_init as kpi
from keras_prune_init.graph.inputs import ones_input


def flow(model):
    return kpi.score(model, None, kpi.methods.SynFlow(iterations=1), verbose=0)


def in_float64(build):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float64")
    try:
        return build()
    finally:
        keras.config.set_dtype_policy("float32")


def assert_proportional(scores, expected, dtype):
    """Equal but for one factor, a power of two."""
    pairs = list(zip(scores.values(), expected.values(), strict=True))
    factors = [np.median(s[t != 0] / t[t != 0]) for s, t in pairs if t.any()]
    assert np.log2(factors[0]) == pytest.approx(round(np.log2(factors[0])), abs=1e-3)
    for s, t in pairs:
        assert s.dtype == dtype
        np.testing.assert_allclose(s, t * factors[0], rtol=1e-3)


def with_offsets(gain=1.0, depth=7):
    x = inputs = keras.Input((5,))
    x = L.Normalization(mean=0.25, variance=0.5)(x)
    for _ in range(depth):
        x = L.Dense(6, "relu", bias_initializer="random_normal")(x)
        x = L.Rescaling(gain, offset=0.25)(L.BatchNormalization()(x))
    return keras.Model(inputs, L.Dense(3, "softmax")(keras.ops.relu(x) + x))


def test_offsets_are_scaled_with_the_inputs(gain=1e8):
    keras.utils.set_random_seed(1)
    model, wide = with_offsets(gain), in_float64(lambda: with_offsets(gain))
    wide.set_weights(model.get_weights())
    for one in (model, wide):
        for i, layer in enumerate(one.layers):
            if isinstance(layer, L.BatchNormalization):
                layer.moving_mean.assign(np.full(6, 0.1 * i))
                layer.beta.assign(np.full(6, 0.3))
    assert_proportional(flow(model), flow(wide), np.float32)


def embedded(gain=1.0):
    tokens, x = keras.Input((4,)), keras.Input((6,))
    y = L.GlobalAveragePooling1D()(L.Embedding(9, 6)(tokens))
    y = L.Add()([x, y])
    for _ in range(7):
        kernels = keras.initializers.Constant(gain / 6)
        y = L.Dense(6, "relu", kernel_initializer=kernels)(y)
    return keras.Model([tokens, x], y)


@pytest.mark.parametrize("gain", [1e8, 1e-8])
def test_tokens_stay_and_their_table_is_scaled(gain):
    keras.utils.set_random_seed(1)
    model, wide = embedded(gain), in_float64(lambda: embedded(gain))
    wide.set_weights(model.get_weights())
    scores = flow(model)
    assert_proportional(scores, flow(wide), np.float32)
    table = next(iter(scores.values()))
    assert np.flatnonzero(table.any(1)).tolist() == [1]


class Narrow(L.Layer):
    """Computes in float32 whatever its dtype is, and has numbers called as weights."""

    def __init__(self, beta=0.5, bias=0.25, **kwargs):
        super().__init__(**kwargs)
        self.beta, self.bias = beta, bias

    def call(self, x):
        return tf.cast(x, "float32") * self.beta + self.bias

    def get_config(self):
        return {**super().get_config(), "beta": self.beta, "bias": self.bias}


def test_layers_that_compute_in_float32_run():
    x = inputs = keras.Input((5,))
    for _ in range(3):
        x = Narrow()(L.Dense(6, "relu")(x))
    model = keras.Model(inputs, L.Dense(2, dtype="float32")(x))
    scores = flow(model)
    assert all(s.dtype == np.float32 and s.any() for s in scores.values())


def test_a_sum_that_overflows_is_divided_and_float32_stays():
    model = keras.Sequential([keras.Input((4,)), L.Dense(50, "gelu"), L.Dense(999)])
    expected = flow(model)
    huge = model.layers[-1].kernel
    huge.assign(huge * 2.0**123)
    scores = flow(model)
    assert_proportional(scores, expected, np.float32)


def test_a_model_that_cannot_leave_float32_is_refused_where_it_must():
    class Stubborn(L.Layer):
        def call(self, x):
            return tf.nn.gelu(tf.ensure_shape(x, (None, 5)) * tf.constant(1e30))

    inputs = keras.Input((5,))
    x = Stubborn()(Stubborn()(L.Dense(5)(inputs)))
    with pytest.raises(ValueError, match="leaves the range of float32. Received: .*sc"):
        flow(keras.Model(inputs, x, name="scarce"))


class Positions(L.Layer):
    """Adds a table of positions, which is short."""

    def __init__(self, length, **kwargs):
        super().__init__(**kwargs)
        self.length = length
        self.table = L.Embedding(length, 6)

    def build(self, input_shape):
        self.table.build((self.length,))

    def call(self, x):
        return x + self.table(tf.range(tf.shape(x)[1]))

    def get_config(self):
        return {**super().get_config(), "length": self.length}


@pytest.mark.parametrize("length, size", [(40, 32), (20, 16), (5, 4), (1, 1)])
def test_open_lengths_are_those_that_the_model_takes(length, size):
    inputs = keras.Input((None, 6))
    x = L.Dense(3)(L.GlobalAveragePooling1D()(Positions(length)(inputs)))
    model = keras.Model(inputs, x)
    assert ones_input(model).shape == (1, size, 6)
    assert all(s.any() for s in flow(model).values())


def test_open_images_may_have_to_be_large():
    inputs = keras.Input((None, None, 3))
    x = inputs
    for _ in range(4):
        x = L.MaxPooling2D(3)(x)
    model = keras.Model(inputs, L.Conv2D(2, 1)(x))
    assert ones_input(model).shape == (1, 128, 128, 3)


def test_an_input_that_no_size_fits_is_refused():
    class Never(L.Layer):
        def call(self, x):
            if not tf.is_symbolic_tensor(x):
                raise RuntimeError("not today")
            return x

    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, L.Dense(2)(Never()(inputs)), name="moody")
    with pytest.raises(ValueError, match="moody, which runs with no(?s:.)*not today"):
        ones_input(model)


class Decoded(keras.Model):
    """A subclassed model, whose sigmoid is in a model within it."""

    def __init__(self):
        super().__init__()
        self.decoder = keras.Sequential([L.Dense(40, "relu"), L.Dense(9, "sigmoid")])
        self.shape_of_images = L.Reshape((3, 3))

    def call(self, x):
        return self.shape_of_images(self.decoder(100 * x))


def built(model, shape):
    model(np.ones(shape, "float32"))
    return model


def words():
    inputs = keras.Input((2,), dtype="string")
    numbers = keras.Input((2,), dtype="int32")
    options = {"num_oov_indices": 0, "mask_token": None}
    x = L.StringLookup(vocabulary=["a", "b"], **options)(inputs)
    y = L.IntegerLookup(vocabulary=[7, 9], **options)(numbers)
    x = L.Concatenate()([L.Embedding(2, 4)(x), L.Embedding(2, 4)(y)])
    return keras.Model([inputs, numbers], L.Dense(2)(L.Flatten()(x)))


ENDS = {
    "tanh": lambda: keras.Sequential(
        [keras.Input((60,)), L.Dense(60, "relu"), L.Dense(3, "tanh")]
    ),
    "softmax over time": lambda: keras.Sequential(
        [keras.Input((4, 6)), L.TimeDistributed(L.Dense(3, "softmax"))]
    ),
    "within a subclassed model": lambda: built(Decoded(), (1, 6)),
    "inputs that normalization makes negative": lambda: keras.Sequential(
        [
            *(keras.Input((6, 6, 3)), L.Rescaling(1 / 255)),
            *(L.Normalization(mean=[0.5] * 3, variance=[0.1] * 3), L.ReLU()),
            *(L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(3)),
        ]
    ),
    "vocabularies that know no other words": words,
}


@pytest.mark.parametrize("name", ENDS)
def test_what_is_at_the_ends_of_a_network_does_not_stop_the_flow(name):
    keras.utils.set_random_seed(0)
    model = ENDS[name]()
    before = [v.numpy() for v in model.variables]
    for path, scores in flow(model).items():
        rows = scores if "embeddings" not in path else scores[-1:]  # of the last word
        assert rows.all(), path
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


def test_a_factor_within_a_network_is_part_of_it():
    def branched(factor):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((5,))
        x = L.Dense(5, name="a")(inputs)
        x = L.Add()([x, L.Rescaling(factor)(L.Dense(5, name="b")(x))])
        return flow(keras.Model(inputs, L.Dense(2, name="c")(x)))

    one, half = branched(1.0), branched(0.5)
    b = next(path for path in one if path.startswith("b/"))
    np.testing.assert_allclose(half[b], 0.5 * one[b], rtol=1e-5)


def test_a_network_without_any_path_is_refused_in_float64_too():
    """Every factor of the range is tried, of which float32 has not all."""
    keras.config.set_dtype_policy("float64")
    try:
        layers = [L.Dense(4, "relu"), L.Dense(4, "relu"), L.Dense(3)]
        model = keras.Sequential([keras.Input((5,)), *layers])
    finally:
        keras.config.set_dtype_policy("float32")
    layers[1].kernel.assign(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="At least one score must differ from 0"):
        kpi.score(model, None, kpi.methods.SynFlow(iterations=1))
