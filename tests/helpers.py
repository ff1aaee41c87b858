"""Models and checks that several test files use."""

import keras
import numpy as np

import keras_prune_init as kpi

L = keras.layers


def mlp(units=(8, 6), inputs=5, classes=3, **kwargs):
    layers = [L.Dense(n, "relu", **kwargs) for n in units]
    return keras.Sequential(
        [keras.Input((inputs,)), *layers, L.Dense(classes, **kwargs)]
    )


def batch(model, size=8, seed=0):
    """Random inputs and class labels that fit a model with one output."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, model.output_shape[-1], size)


def masked_list(model):
    return [v for v in model._flatten_layers() if isinstance(v, kpi.MaskedLayer)]


@keras.saving.register_keras_serializable("tests")
class Block(L.Layer):
    """A user-written layer that makes its sublayers in the constructor."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.norm = L.LayerNormalization()
        self.attention = L.MultiHeadAttention(2, units // 2)
        self.feed_forward = [L.Dense(2 * units, "relu"), L.Dense(units)]

    def build(self, input_shape):
        self.norm.build(input_shape)
        self.attention.build(input_shape, input_shape)
        self.feed_forward[0].build(input_shape)
        self.feed_forward[1].build((*input_shape[:-1], 2 * self.units))

    def call(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y)
        for layer in self.feed_forward:
            y = layer(y)
        return x + y

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """Layers in attributes, a list, a dict, a tuple, a nested model and a block."""

    def __init__(self, units=6, **kwargs):
        super().__init__(**kwargs)
        self.first = L.Dense(units, "relu")
        self.many = [L.Dense(units, "relu"), {"deep": L.Dense(units, "relu")}]
        self.named = {"a": L.Dense(units), "b": L.Dense(units)}
        self.pair = (L.Dense(units, "relu"), L.BatchNormalization())
        self.nested = keras.Sequential([L.Dense(units, "relu"), L.Dense(units)])
        self.shared = self.first_again = L.Dense(units, "relu")
        self.last = L.Dense(3)

    def call(self, x, training=None):
        x = self.first(x)
        x = self.many[1]["deep"](self.many[0](x))
        x = self.named["a"](x) + self.named["b"](x)
        x = self.pair[1](self.pair[0](x), training=training)
        x = self.shared(self.first_again(x))
        return self.last(self.nested(x))


def transformer(vocabulary=20, length=7, units=8, classes=3):
    tokens = keras.Input((length,), dtype="int32")
    x = L.Embedding(vocabulary, units)(tokens)
    x = Block(units)(x)
    y = L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    x = L.LayerNormalization()(x + y)
    x = L.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, L.Dense(classes)(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 5), "float32"))
    return model


def two_inputs_two_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    shared = L.Dense(5, "relu", name="shared")
    inner_in = keras.Input((5,))
    deepest = keras.Sequential([keras.Input((5,)), L.Dense(5, "relu", name="deep")])
    inner = keras.Model(
        inner_in, L.Dense(5, name="shared")(deepest(inner_in)), name="inner"
    )
    x, y = shared(a), shared(L.Dense(4, name="adapt")(b))
    z = inner(L.Concatenate()([x, y])[:, 3:8] + keras.ops.relu(x))
    return keras.Model(
        {"a": a, "b": b}, [L.Dense(3, name="c")(z), L.Dense(1, name="d")(z)]
    )
