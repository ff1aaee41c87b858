"""Layers, models and compiled objects are copied as they are, whatever their config."""

import collections
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L

import keras_prune_init as kpi
from keras_prune_init.graph import nodes
from keras_prune_init.surgery import copier
from keras_prune_init.surgery.copier import Copier

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6)).astype("float32")
SEQUENCE = RNG.normal(size=(4, 5, 6)).astype("float32")


def soft_step(slope):
    def step(x):
        return tf.tanh(slope * x)

    return step


class BuiltByTheFirstCall(L.Layer):
    def __init__(self, units):
        super().__init__()
        self.first = L.Dense(units, activation=soft_step(0.5))
        self.blocks = [L.Dense(units), {"norm": L.LayerNormalization()}]
        self.pair = (L.Dense(units), L.Dropout(0.5))
        self.attention = L.MultiHeadAttention(2, 3)

    def call(self, x, training=False):
        x = self.blocks[1]["norm"](self.blocks[0](self.first(x)))
        x = self.pair[1](self.pair[0](x), training=training)
        return self.attention(x, x)


class ForgetsAnArgument(L.Layer):
    def __init__(self, units, power=1.0, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.power = L.Dense(units), power

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) ** self.power

    def get_config(self):
        return {**super().get_config(), "units": self.dense.units}


class HoldsArrays(L.Layer):
    """State that is no variable, and a function that closes over the layer."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(6)
        self.keep = np.array([1, 0, 1, 0, 1, 1], "float32")
        self.log = collections.deque(maxlen=3)
        self.names = {"a": [1]}
        self.run = lambda x: self.dense(x) * self.keep
        self.half = functools.partial(self.scaled, factor=0.5)

    def scaled(self, x, factor):
        return factor * self.dense(x)

    def call(self, x):
        return self.run(x) + self.half(x)


class NamesAsKerasDoes(L.Layer):
    """Attributes that only Keras's models and layers keep in such a way."""

    class Helper:
        def __init__(self, dense):
            self.build, self._losses, self._nodes = dense, [2.0], (dense,)

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(6)
        self._inputs, self._operations = 0.5, [self.dense]
        self.helper = self.Helper(self.dense)

    def call(self, x):
        first, [second] = self.helper.build, self.helper._nodes
        x = self._inputs * self._operations[0](x) + self.helper._losses[0] * first(x)
        return x + second(x)


class RunsAFunction(L.Layer):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(6)
        self.compiled = tf.function(lambda x: self.dense(x))

    def call(self, x):
        return self.compiled(x)


def adapted(layer, data):
    layer.adapt(data)
    return layer


LAYERS = {
    "built by the first call": (lambda: BuiltByTheFirstCall(6), SEQUENCE),
    "forgets an argument": (lambda: ForgetsAnArgument(6, 2.0), X),
    "arrays and closures": (HoldsArrays, X),
    "names as Keras does": (NamesAsKerasDoes, X),
    "tf.function": (RunsAFunction, X),
    "lambda": (lambda: L.Lambda(lambda x: 3 * x), X),
    "lambda activation": (lambda: L.Dense(4, activation=lambda x: x * x), X),
    "bidirectional": (lambda: L.Bidirectional(L.GRU(3)), SEQUENCE),
    "time distributed": (lambda: L.TimeDistributed(L.Dense(3)), SEQUENCE),
    "normalization": (lambda: adapted(L.Normalization(), X), X),
    "discretization": (lambda: adapted(L.Discretization(num_bins=3), X), X),
    "strings": (
        lambda: adapted(L.StringLookup(), np.array(["a", "b"])),
        np.array(["b", "c"]),
    ),
    "vectorization": (
        lambda: adapted(L.TextVectorization(), np.array(["a b", "b"])),
        np.array(["b a", "c"]),
    ),
    "batch normalization": (L.BatchNormalization, X),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_copied_layer_computes_the_same_and_shares_nothing(name):
    make, x = LAYERS[name]
    layer = make()
    expected = np.asarray(layer(x))
    new = Copier(layer)(layer)
    np.testing.assert_array_equal(np.asarray(new(x)), expected)
    assert type(new) is type(layer)
    assert [v.path for v in new.weights] == [v.path for v in layer.weights]
    assert not {id(v) for v in new.variables} & {id(v) for v in layer.variables}
    for v in new.trainable_variables:
        v.assign(v + 1.0)
    np.testing.assert_array_equal(np.asarray(layer(x)), expected)
    if new.trainable_variables:
        assert not np.array_equal(np.asarray(new(x)), expected)


def test_python_state_is_the_copy_s_own():
    layer = HoldsArrays()
    layer(X)
    new = Copier(layer)(layer)
    new.keep[:] = 0
    new.log.append(1)
    new.names["a"].append(2)
    assert layer.keep.any() and not layer.log and layer.names["a"] == [1]
    assert new.log.maxlen == 3 and new.names["a"] == [1, 2]


def test_shared_layers_stay_shared():
    shared, x = L.Dense(6), keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), shared, L.ReLU()])
    model = keras.Model(x, shared(inner(shared(x))))
    new = Copier(model)(model)
    assert len(new.weights) == 2
    assert new.layers[1] is new.layers[2].layers[0]
    np.testing.assert_array_equal(new(X), model(X))


def test_a_layer_that_two_models_use_keeps_its_calls_in_the_copied_one():
    shared, x, y = L.Dense(4), keras.Input((6,)), keras.Input((6,))
    keras.Model(x, L.Dense(2)(shared(x)))
    model = keras.Model(y, L.Dense(3)(shared(y)))
    new = Copier(model)(model)
    np.testing.assert_array_equal(new(X), model(X))
    again = keras.Model.from_config(new.get_config())
    assert again.output_shape == (None, 3)


def test_a_model_inside_an_attribute_uses_the_copied_layers():
    x = keras.Input((6,))
    h = L.Dense(5, activation="relu", name="hidden")(x)

    class Task(keras.Model):
        def __init__(self):
            super().__init__(x, L.Dense(3)(h))
            self.features = keras.Model(x, h)

    model = Task()
    new = Copier(model)(model)
    assert type(new) is Task
    assert new.features.layers[1] is new.get_layer("hidden")
    assert new.features.layers[1] is not model.get_layer("hidden")
    np.testing.assert_array_equal(new.features(X), model.features(X))


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, peak):
        self.peak = peak

    def __call__(self, step):
        return self.peak / (1 + tf.cast(step, "float32"))


class OwnLoss(keras.losses.Loss):
    def __init__(self, factor):
        super().__init__(name="loss")
        self.factor = factor

    def call(self, y, outputs):
        return self.factor * tf.abs(y - outputs)


def plain_metric(y, outputs):
    return keras.ops.mean(keras.ops.abs(y - outputs))


COMPILED = {
    "functions": dict(
        optimizer="adam", loss=lambda y, p: (y - p) ** 2, metrics=[plain_metric]
    ),
    "own objects": dict(
        optimizer=keras.optimizers.SGD(OwnSchedule(0.1)),
        loss=OwnLoss(3.0),
        weighted_metrics=[plain_metric, "mae"],
    ),
    "averaged weights": dict(
        optimizer=keras.optimizers.Adam(use_ema=True, gradient_accumulation_steps=2),
        loss="mse",
        steps_per_execution=2,
        jit_compile=False,
    ),
    "loss scale": dict(
        optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
        loss="huber",
        run_eagerly=True,
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_was_compiled_is_copied(name, request):
    if name != "functions":  # one is traced
        request.getfixturevalue("eagerly")
    y = RNG.normal(size=(4, 2)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), L.Dense(4), L.Dense(2)])
    arguments = Copier(None)(COMPILED[name])
    model.compile(**arguments)
    before = model.evaluate(X, y, verbose=0, return_dict=True)
    model.fit(X, y, epochs=2, verbose=0)
    trained = model.evaluate(X, y, verbose=0, return_dict=True)
    new = Copier(model)(model)
    assert new.evaluate(X, y, verbose=0, return_dict=True) == trained
    assert new.optimizer is not model.optimizer and not new.optimizer.built
    assert int(new.optimizer.iterations) == 0 < int(model.optimizer.iterations)
    assert new.steps_per_execution == model.steps_per_execution
    assert new.run_eagerly == model.run_eagerly
    new.fit(X, y, epochs=2, verbose=0)
    assert new.evaluate(X, y, verbose=0, return_dict=True) != trained
    assert model.evaluate(X, y, verbose=0, return_dict=True) == trained != before


def test_a_copy_starts_with_the_learning_rate_that_was_set():
    model = keras.Sequential([keras.Input((6,)), L.Dense(2)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.optimizer.learning_rate = 0.25
    assert float(Copier(model)(model).optimizer.learning_rate) == 0.25


def test_a_copy_in_another_dtype_computes_in_it():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((6,)), L.Dense(4, "relu"), L.Dense(2)])
    finally:
        keras.config.set_dtype_policy("float32")
    new = Copier(model, dtype="float64")(model)
    assert new(X).dtype == tf.float64
    assert {v.dtype for v in new.weights} == {"float64"}
    np.testing.assert_allclose(new(X), model(X), rtol=1e-2, atol=1e-3)


def test_keras_still_keeps_its_objects_as_the_copies_rely_on():
    x = keras.Input((3,))
    layer = L.Dense(2)
    model = keras.Model(x, layer(x))
    model.compile(keras.optimizers.Adam(), "mse")
    for name in copier.GRAPH:
        assert name in vars(model), name
    for name in ("_inbound_nodes", "_outbound_nodes", "_losses", "_loss_ids"):
        assert name in vars(layer), name
    for name in ("train_function", "test_function", "predict_function"):
        assert name in vars(model), name
    assert {"build", "quantize"} <= set(vars(layer))
    assert set(layer._tracker.config) >= {
        "trainable_variables",
        "non_trainable_variables",
    }
    assert layer._trainable_variables == [layer.kernel, layer.bias]
    assert "_value" in vars(layer.kernel)
    optimizer = model.optimizer
    assert optimizer._variables == [optimizer._iterations, optimizer._learning_rate]
    [call] = [n for n in nodes.in_order(model) if n.operation is layer]
    assert call.arguments.keras_tensors == [x] and not call.is_input
    layer._track_trackable(x := tf.Variable(1.0), "name", overwrite=True)
    assert layer._trackable_children()["name"] is x


# --- what users see of it -------------------------------------------------------------


def test_a_pruned_layer_stands_in_for_the_layer_it_wraps():
    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = L.Embedding(9, 4)

        def call(self, tokens):
            x = tf.reduce_mean(self.embedding(tokens), 1)
            return tf.matmul(x, self.embedding.embeddings, transpose_b=True)

    tokens = RNG.integers(0, 9, (5, 3))
    model = Tied()
    model(tokens)
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.5)
    pruned.embedding.scale.assign(2 * np.ones(pruned.embedding.scale.shape))
    np.testing.assert_allclose(pruned(tokens), kpi.strip(pruned)(tokens), rtol=1e-6)
    assert pruned.embedding.output_dim == 4
    assert not hasattr(pruned.embedding, "units")
    dense = kpi.prune_at_init(
        keras.Sequential([keras.Input((6,)), L.Dense(3)]), None, "random", sparsity=0.5
    )
    dense.layers[0].activation = keras.activations.relu
    assert float(tf.reduce_min(dense(X))) == 0  # the layer itself has it


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_a_stateful_layer_keeps_its_state(layout, eagerly):
    model = keras.Sequential(
        [keras.Input((5, 6), batch_size=4), L.GRU(3, stateful=True), L.Dense(2)]
    )
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.5, layout=layout)
    first, second = (pruned.predict(SEQUENCE, verbose=0) for _ in range(2))
    assert not np.allclose(first, second)
    pruned.layers[0].reset_state()
    np.testing.assert_allclose(pruned.predict(SEQUENCE, verbose=0), first, rtol=1e-6)


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_quantization_is_refused_before_anything_changes(layout):
    model = keras.Sequential([keras.Input((6,)), L.Dense(8), L.Dense(3)])
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.5, layout=layout)
    before = pruned.get_weights()
    with pytest.raises(ValueError, match=r"Call keras_prune_init.strip\(model\) first"):
        pruned.quantize("int8")
    with pytest.raises(ValueError, match="LoRA"):
        pruned.layers[0].layer.enable_lora(2)
    for a, b in zip(pruned.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    plain = kpi.strip(pruned)
    zeros = plain.layers[0].kernel.numpy() == 0
    plain.quantize("int8")
    assert (plain.layers[0]._kernel.numpy()[zeros] == 0).all()
    plain.layers[1].enable_lora(2)
    assert plain.layers[1].lora_enabled


def test_users_may_assign_a_kernel_that_is_masked():
    class MaskedConvolution(L.Layer):
        """As in autoregressive models: in each call the kernel loses the same part."""

        def __init__(self):
            super().__init__()
            self.convolution = L.Conv1D(3, 3, padding="same")

        def build(self, shape):
            self.convolution.build(shape)
            self.past = np.ones(self.convolution.kernel.shape, "float32")
            self.past[2:] = 0

        def call(self, x):
            self.convolution.kernel.assign(self.convolution.kernel * self.past)
            return self.convolution(x)

    model = keras.Sequential([keras.Input((5, 6)), MaskedConvolution()])
    model(SEQUENCE)
    for layout in ("masked", "compact"):
        pruned = kpi.prune_at_init(model, None, "random", sparsity=0.5, layout=layout)
        wrapper = pruned.layers[0].convolution
        expected = model.layers[0].convolution.kernel * wrapper.kept_mask("kernel")
        pruned(SEQUENCE)
        np.testing.assert_array_equal(wrapper.kernel.numpy(), expected)
        wrapper.kernel.assign(np.ones(wrapper.kernel.shape))
        assert int(tf.reduce_sum(wrapper.kernel)) == wrapper.kept_mask("kernel").sum()


def test_a_copy_of_what_was_trained_with_a_scaled_loss_can_be_exported(
    tmp_path, eagerly
):
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    model.compile(optimizer, "mse")
    x, y = np.ones((4, 4), "float32"), np.ones((4, 2), "float32")
    model.fit(x, y, verbose=0)
    copied = Copier(model)(model)
    copied.export(tmp_path / "exported", verbose=False)
    copied.fit(x, y, verbose=0)  # its optimizer is as good as new
    assert int(copied.optimizer.iterations) == 1


CHANGED = {
    "stabilize": kpi.stabilize,
    "add_hinges": kpi.add_hinges,
    "merge_hinges": lambda model: kpi.merge_hinges(kpi.add_hinges(model), 0.3),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_graphs_with_other_layers_have_the_order_of_loaded_ones(change, tmp_path):
    """An optimizer that is loaded knows variables by their order only."""
    changed = change(kpi.models.resnet((8, 8, 3), classes=3, depth=8, width=4))
    changed.save(tmp_path / "changed.keras")
    loaded = keras.models.load_model(tmp_path / "changed.keras")
    for a, b in ((changed.layers, loaded.layers), (changed.weights, loaded.weights)):
        assert [getattr(v, "path", v.name) for v in a] == [
            getattr(v, "path", v.name) for v in b
        ]
