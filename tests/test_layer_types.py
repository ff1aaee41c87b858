"""Every kind of layer in the table, from pruning to the loaded file."""

import keras
import numpy as np
import pytest
from helpers import L, masked_list, masks

import keras_prune_init as kpi
from keras_prune_init.layers import roles, types
from keras_prune_init.layers.kernels import find_kernels

METHODS = (kpi.methods.SynFlow(iterations=2), "snip")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable("kinds")
class Mixing(L.Layer):
    """A cell of the user's own, with a loop's arguments and weights in a list."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        sizes = [(shape[-1], self.units), (self.units, self.units)]
        self.ways = [self.add_weight(shape=size, name="way") for size in sizes]

    def call(self, inputs, states):
        y = keras.ops.tanh(inputs @ self.ways[0] + states[0] @ self.ways[1])
        return y, [y]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


kpi.register_layer(Mixing, kernels=("ways.0", "ways.1"))


def two_deep():
    inner = L.StackedRNNCells([L.GRUCell(4), L.SimpleRNNCell(5)])
    return L.RNN(L.StackedRNNCells([L.LSTMCell(3), inner]))


def patches():
    return keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(3, 3), L.Flatten()])


# Layer, shape of a sample, multiply-adds of it by hand.
LAYERS = {
    "conv lstm 1d": (
        lambda: L.ConvLSTM1D(3, 2, return_sequences=True),
        (2, 6, 2),
        2 * 5 * 2 * (2 + 3) * 12,
    ),
    "conv lstm 2d": (
        lambda: L.ConvLSTM2D(3, 3, strides=2, padding="same"),
        (2, 6, 8, 2),
        2 * 3 * 4 * 9 * (2 + 3) * 12,
    ),
    "conv lstm 3d": (
        lambda: L.ConvLSTM3D(2, 2),
        (2, 3, 3, 4, 1),
        2 * 2 * 2 * 3 * 8 * (1 + 2) * 8,
    ),
    "lstm cell": (lambda: L.RNN(L.LSTMCell(3)), (2, 5), 2 * (5 + 3) * 12),
    "gru cell": (
        lambda: L.RNN(L.GRUCell(3), return_sequences=True, go_backwards=True),
        (2, 5),
        2 * (5 + 3) * 9,
    ),
    "stacked cells": (
        two_deep,
        (2, 6),
        2 * ((6 + 3) * 12 + (3 + 4) * 12 + (4 + 5) * 5),
    ),
    "both ways": (
        lambda: L.Bidirectional(L.RNN(L.SimpleRNNCell(3))),
        (2, 5),
        2 * 2 * (5 + 3) * 3,
    ),
    "own cell": (lambda: L.RNN(Mixing(4)), (2, 5), 2 * (5 + 4) * 4),
    "spectral dense": (
        lambda: L.SpectralNormalization(L.Dense(6, "relu"), power_iterations=2),
        (5,),
        5 * 6,
    ),
    "spectral conv": (
        lambda: L.SpectralNormalization(L.Conv2D(4, 3)),
        (6, 6, 2),
        16 * 9 * 2 * 4,
    ),
    "a model each step": (
        lambda: L.TimeDistributed(patches()),
        (2, 6, 6, 2),
        2 * 16 * 9 * 2 * 3,
    ),
}


def grouped(gate):
    x = keras.Input((4, 6))
    layer = L.GroupQueryAttention(3, 4, 2, use_gate=gate)
    y = L.GlobalAveragePooling1D()(x + layer(x, x, use_causal_mask=True))
    macs = 4 * 6 * 3 * (4 + 2 + 2 + 4 + (4 if gate else 0))
    return keras.Model(x, L.Dense(3)(y)), macs + 6 * 3


def reversible(tied):
    tokens = keras.Input((4,), dtype="int32")
    layer = L.ReversibleEmbedding(7, 5, tie_weights=tied)
    y = layer(L.Dense(5, "relu")(layer(tokens)), reverse=True)
    model = keras.Model(tokens, L.GlobalAveragePooling1D()(y))
    return model, 4 * 5 * 5 + 4 * 5 * 7


def plain(name):
    make, shape, macs = LAYERS[name]
    layers = [keras.Input(shape), make(), L.Flatten()]
    model = keras.Sequential([*layers, L.Dense(3)])
    return model, macs + 3 * model.layers[-1].kernel.shape[0]


MODELS = {
    **{name: lambda name=name: plain(name) for name in LAYERS},
    "grouped attention": lambda: grouped(False),
    "gated attention": lambda: grouped(True),
    "tied embedding": lambda: reversible(True),
    "embedding and back": lambda: reversible(False),
}


def data(model):
    rng = np.random.default_rng(0)
    shape, classes = model.input_shape[1:], model.output_shape[-1]
    x = rng.normal(size=(8, *shape)).astype("float32")
    if "int" in model.inputs[0].dtype:
        x = rng.integers(0, 7, (8, *shape))
    return x, rng.integers(0, classes, 8)


def removed(model):
    """What kernels are where they were removed."""
    for layer in masked_list(model):
        for name in layer.kernels:
            yield np.asarray(layer.masked_kernel(name))[~layer.kept_mask(name)]


# Each in one layout, in turn, and in both what no other is like; that each layer
# computes the same in both is in test_compact.py.
IN_BOTH = ("own cell", "tied embedding")
CASES = [
    (name, layout)
    for i, name in enumerate(MODELS)
    for j, layout in enumerate(("masked", "compact"))
    if i % 2 == j or name in IN_BOTH
]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_from_pruning_to_the_file(name, layout, tmp_path):
    model, macs = MODELS[name]()
    x, y = data(model)
    total = sum(np.prod(k.variable.shape) for k in find_kernels(model))
    whole = kpi.report(kpi.prune_at_init(model, None, "random", sparsity=0))
    assert whole.effective == whole.total == total
    options = {"loss": LOSS, "layout": layout}
    options["allocation"] = kpi.Allocation("global", min_per_layer=3)
    method = METHODS[list(MODELS).index(name) // 2 % 2]
    pruned = kpi.prune_at_init(model, (x, y), method, sparsity=0.6, **options)
    kept = sum(m.sum() for m in masks(pruned))
    assert kept == total - int(0.6 * total + 1e-6)
    report = kpi.report(pruned)
    assert report.total == total
    assert 0 < report.effective <= report.kept
    assert report.cost.macs == macs
    assert report.cost.others == kpi.cost(model).others
    signals = kpi.signal_report(pruned, (x, y), loss=LOSS)
    assert not signals.missing and len(signals.rows) > 1
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    pruned.compile(optimizer, LOSS, run_eagerly="spectral" not in name)
    pruned.fit(x, y, verbose=0)
    for values in removed(pruned):
        assert (values == 0).all()
    outputs = pruned(x).numpy()
    np.testing.assert_allclose(kpi.strip(pruned)(x), outputs, rtol=1e-5, atol=1e-6)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    np.testing.assert_allclose(loaded(x), outputs, rtol=1e-5, atol=1e-6)
    for one, other in zip(masks(pruned), masks(loaded), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_row_of_the_table_says_something():
    for cls, row in types.TYPES.items():
        assert issubclass(cls, L.Layer) and (row.kernels or row.traits)
        assert types.Trait.LINEAR not in row.traits or row.kernels


def spectral(**options):
    layer = L.SpectralNormalization(L.Dense(6, use_bias=False), **options)
    return keras.Sequential([keras.Input((5,)), layer, L.Dense(3)])


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_spectral_normalization_trains_as_in_keras(layout, eagerly):
    keras.utils.set_random_seed(0)
    model = spectral()
    x, y = data(model)
    model.compile(keras.optimizers.SGD(0.5), LOSS)
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0, layout=layout)
    for used in (model, pruned):
        used.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(pruned(x), model(x), rtol=1e-5, atol=1e-6)
    vectors = model.layers[0].vector_u, pruned.layers[0].layer.vector_u
    np.testing.assert_allclose(*vectors, rtol=1e-5)


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_spectral_normalization_is_of_the_kernel_that_runs(layout):
    model = spectral(power_iterations=25)
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.5, layout=layout)
    layer = pruned.layers[0]
    layer.scales["layer.kernel"].assign([[1.0, 2, 0.5, 1, 3, 1]])
    direction = np.asarray(layer.masked_kernel("layer.kernel"))
    for _ in range(2):  # of 25 power iterations, whose vector stays
        pruned(np.ones((2, 5), "float32"), training=True)
    kernel = np.asarray(layer.masked_kernel("layer.kernel"))
    assert np.linalg.norm(kernel, 2) == pytest.approx(1, rel=1e-4)
    largest = np.linalg.norm(direction, 2)
    np.testing.assert_allclose(kernel, direction / largest, rtol=1e-3, atol=1e-6)


def test_a_cell_in_an_attribute_of_its_own_is_pruned_once():
    class Reader(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.cell = L.GRUCell(4)
            self.loop = L.RNN(self.cell)

        def call(self, x):
            return self.loop(x)

    model = keras.Sequential([keras.Input((3, 5)), Reader(), L.Dense(2)])
    names = [(k.address, k.name) for k in find_kernels(model)]
    assert names == [
        (("0", "loop"), "cell.kernel"),
        (("0", "loop"), "cell.recurrent_kernel"),
        (("1",), "kernel"),
    ]


def test_two_channels_first_pixels_count_as_pixels():
    layer = L.ConvLSTM2D(3, 2, data_format="channels_first", return_sequences=True)
    assert roles.CELL.uses(layer, (2, 2, 5, 12), (1, 5, 6, 7), (1, 3, 5, 6)) == 30


def test_attributes_may_be_named_as_those_of_tensorflow_begin():
    class Encoder(L.Layer):
        def build(self, shape):
            self._self_attention_layer = L.MultiHeadAttention(2, 3)
            self._layers_of_it = [L.Dense(4)]
            self._self_attention_layer.build(shape, shape)
            self._layers_of_it[0].build(shape)

        def call(self, x):
            return self._layers_of_it[0](self._self_attention_layer(x, x))

    model = keras.Sequential([keras.Input((3, 4)), Encoder()])
    assert len(find_kernels(model)) == 5
