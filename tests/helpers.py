"""Models and checks that several test files use."""

import keras
import numpy as np
import pytest

import keras_prune_init as kpi

L = keras.layers

# Every method: name, options that make it quick, whether it reads data
METHODS = [
    ("random", {}, False),
    ("magnitude", {}, False),
    ("snip", {}, True),
    ("sbp", {}, True),
    ("grasp", {}, True),
    ("hbp", {}, True),
    ("synflow", {"iterations": 5}, False),
    ("sbp_sr", {}, True),
    ("grasp_sr", {}, True),
    ("robust", {}, True),
    ("obd", {"probes": 2}, True),
    ("obs", {}, True),
    ("lobs", {}, True),
    ("skeleton", {}, True),
]
# Names that two methods have, and those that most others go by.
ALIASES = {"sbp": "snip", "hbp": "grasp"}
EACH = pytest.mark.parametrize(
    "name, options, needs_data", [row for row in METHODS if row[0] not in ALIASES]
)


def net():
    """With a residual block, which some methods need."""
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 3, use_bias=False)(inputs)
    x = L.ReLU()(L.BatchNormalization()(x))
    x = L.Add()([x, L.Conv2D(4, 3, padding="same", activation="relu")(x)])
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))
    return model, batch(model, 12)


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


def masks(model):
    """The masks of all kernels, in the order of the layers, whatever the layout."""
    return [v.kept_mask(name) for v in masked_list(model) for name in v.kernels]


def deep_tanh(sigma_w=None, depth=30, width=100):
    """A tanh network on the edge of chaos, or at another sigma_w."""
    keras.utils.set_random_seed(0)
    start = kpi.initializers.EdgeOfChaos("tanh", 0.2)
    if sigma_w:
        start = kpi.initializers.ScaledNormal(sigma_w, 0.2)
    options = {"kernel_initializer": start, "bias_initializer": start}
    layers = [L.Dense(width, "tanh", **options) for _ in range(depth - 1)]
    return keras.Sequential([keras.Input((50,)), *layers, L.Dense(10, **options)])


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


# sigma_w, sigma_b of tanh networks in the three phases
ORDERED, EDGE, CHAOTIC = (0.6, 0.2), (1.3041, 0.2), (3.0, 0.2)


def deep(phase, depth=30, width=100, activation="tanh"):
    sigma_w, sigma_b = phase

    def dense(seed, units, activation=None):
        normal = keras.initializers.VarianceScaling(
            sigma_w**2, "fan_in", "untruncated_normal", seed
        )
        bias = keras.initializers.RandomNormal(stddev=sigma_b, seed=seed + 1000)
        return L.Dense(
            units, activation, kernel_initializer=normal, bias_initializer=bias
        )

    layers = [dense(i, width, activation) for i in range(depth)]
    return keras.Sequential([keras.Input((width,)), *layers, dense(depth, 10)])


def column(report, field):
    return np.array([getattr(row, field) for row in report.rows])


# One of each type: how to make it, and the shape of a sample.
LAYERS = {
    "Dense": (lambda: L.Dense(4, "relu"), (5,)),
    "Conv1D": (lambda: L.Conv1D(4, 3), (9, 2)),
    "Conv2D": (lambda: L.Conv2D(4, 3, groups=2), (6, 6, 2)),
    "Conv3D": (lambda: L.Conv3D(2, 2), (4, 4, 4, 2)),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(3, 3), (5, 2)),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(3, 3), (5, 5, 2)),
    "Conv3DTranspose": (lambda: L.Conv3DTranspose(2, 2), (3, 3, 3, 2)),
    "DepthwiseConv1D": (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), (6, 2)),
    "DepthwiseConv2D": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 2)),
    "SeparableConv1D": (lambda: L.SeparableConv1D(4, 3), (6, 2)),
    "SeparableConv2D": (lambda: L.SeparableConv2D(4, 3), (6, 6, 2)),
    "EinsumDense": (
        lambda: L.EinsumDense("abc,cde->abde", (None, 3, 2), bias_axes="de"),
        (4, 5),
    ),
    "SimpleRNN": (lambda: L.SimpleRNN(3), (4, 5)),
    "LSTM": (lambda: L.LSTM(3, return_sequences=True), (4, 5)),
    "GRU": (lambda: L.GRU(3), (4, 5)),
    "Bidirectional": (lambda: L.Bidirectional(L.LSTM(3)), (4, 5)),
    "TimeDistributed": (lambda: L.TimeDistributed(L.Dense(3)), (4, 5)),
    "ConvLSTM1D": (lambda: L.ConvLSTM1D(3, 2), (2, 5, 2)),
    "ConvLSTM2D": (lambda: L.ConvLSTM2D(3, 2, return_sequences=True), (2, 4, 4, 2)),
    "ConvLSTM3D": (lambda: L.ConvLSTM3D(2, 2), (2, 3, 3, 3, 2)),
    "RNN": (lambda: L.RNN(L.LSTMCell(3)), (4, 5)),
    "StackedRNNCells": (
        lambda: L.RNN(L.StackedRNNCells([L.GRUCell(3), L.SimpleRNNCell(2)])),
        (4, 5),
    ),
    "SpectralNormalization": (lambda: L.SpectralNormalization(L.Dense(3)), (5,)),
}
