"""The compact layout: what the masked one computes, in memory for what is kept."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import LAYERS, L, batch, masked_list, mlp

import keras_prune_init as kpi
from keras_prune_init.layers.compact import CompactLayer
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.train.data.loading import load_images

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-2),
    "adam": lambda: keras.optimizers.Adam(1e-3, amsgrad=True),
    "ema": lambda: keras.optimizers.AdamW(1e-3, use_ema=True, clipnorm=1.0),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Lion(1e-3)),
}


def both(model, *args, **kwargs):
    """The model pruned in the same way, masked and compact."""
    return [
        kpi.prune_at_init(model, *args, layout=layout, verbose=0, **kwargs)
        for layout in ("masked", "compact")
    ]


def losses_of(model, dataset, steps):
    found = []
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: found.append(float(logs["loss"]))
    )
    model.fit(
        dataset, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[seen]
    )
    return np.array(found)


def network():
    """With batch normalization, on images of the package."""
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(8, 3, strides=3), L.BatchNormalization(), L.ReLU()]
    layers += [L.Flatten(), L.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


@pytest.fixture(scope="module")
def images():
    return load_images().train(32, epochs=2)


# --- the layer ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LAYERS, "Embedding"])
def test_outputs_and_gradients_are_those_of_the_masked_layer(name):
    rng = np.random.default_rng(0)
    if name == "Embedding":
        make, x = lambda: L.Embedding(7, 4), rng.integers(0, 7, (2, 5))
    else:
        make, shape = LAYERS[name]
        x = rng.normal(size=(3, *shape)).astype("float32")
    masked = kpi.MaskedLayer(make())
    masked(x)
    compact = CompactLayer(make())
    compact.build(x.shape)
    for kernel, mask in masked.masks.items():
        kept = rng.random(mask.shape) < 0.5
        values = rng.normal(size=mask.shape).astype("float32")
        for layer in (masked, compact):
            layer.install(kernel, kept, values)
        scale = masked.scales[kernel]
        factors = rng.uniform(0.5, 2, scale.shape)
        for layer in (masked, compact):
            layer.scales[kernel].assign(factors)
    for one, other in zip(
        masked.layer.variables, compact.layer.variables, strict=False
    ):
        if one.name == other.name and one.shape == other.shape:
            other.assign(one.value)
    found = []
    for layer, of in ((masked, "layer"), (compact, "kept")):
        with tf.GradientTape() as tape:
            y = layer(x)
            loss = tf.reduce_sum(tf.sin(y))
        if of == "layer":
            kernels = [get_kernel(layer.layer, n) for n in layer.kernels]
            slopes = tape.gradient(loss, [k.value for k in kernels])
            slopes = [
                tf.convert_to_tensor(g).numpy()[layer.kept_mask(n)]
                for g, n in zip(slopes, layer.kernels, strict=True)
            ]
        else:
            kernels = [layer.kept[n].values.value for n in layer.kernels]
            slopes = tape.gradient(loss, kernels)
        found.append((y, slopes))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_positions_are_rising_and_say_what_the_mask_was():
    layer = CompactLayer(L.Dense(3))
    layer.build((None, 4))
    mask = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]], bool)
    layer.install("kernel", mask, np.arange(12.0).reshape(4, 3))
    kept = layer.kept["kernel"]
    assert kept.index.numpy().tolist() == [0, 4, 5, 9, 11]
    assert kept.values.numpy().tolist() == [0, 4, 5, 9, 11]
    np.testing.assert_array_equal(layer.kept_mask("kernel"), mask)
    assert kept.values.path == f"{layer.path}/kernel/values"
    assert [tuple(v.shape) for v in layer.trainable_variables] == [(3,), (5,)]
    with pytest.raises(AttributeError, match="no variables for its masks"):
        layer.masks  # noqa: B018


def test_another_number_of_weights_is_refused():
    layer = CompactLayer(L.Dense(3), counts={"kernel": 2})
    layer.build((None, 2))
    with pytest.raises(ValueError, match="keeps 6 in place of 2"):
        layer.install("kernel", np.ones((2, 3), bool), np.ones((2, 3)))
    assert layer.counts == {"kernel": 2}


def test_empty_kernels_are_zeros(tmp_path, eagerly):
    model = mlp()
    pruned = kpi.prune_at_init(
        model, None, "magnitude", sparsity=0.99, layout="compact"
    )
    assert len(kpi.report(pruned).collapsed) == 2
    pruned.compile("adam", LOSS)
    pruned.fit(*batch(model), verbose=0)
    pruned.save(tmp_path / "m.keras")
    x = batch(model)[0]
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(x), pruned(x))


def test_a_file_holds_short_gaps_and_no_groups_for_parts(tmp_path):
    mask = np.zeros((400, 300), bool)
    mask[[0, 0, 1, 300, 399], [1, 2, 0, 0, 299]] = True  # gaps of 1 to 89,700
    models = []
    for kept in (mask, np.zeros_like(mask)):
        layer = CompactLayer(L.Dense(300), counts={"kernel": 5}, name="wide")
        models.append(keras.Sequential([keras.Input((400,)), layer]))
        if kept.any():
            layer.install("kernel", kept, np.where(kept, 3.0, 0))
    path = tmp_path / "m.weights.h5"
    models[0].save_weights(path)
    with h5py.File(path) as file:
        group = file["layers/compact_layer"]
        assert list(group) == ["vars"]
        stored = sorted(str(v.dtype) for v in group["vars"].values())
        assert stored == ["float32", "float32", "float32", "uint32"]
    models[1].load_weights(path)
    np.testing.assert_array_equal(models[1].layers[0].kept_mask("kernel"), mask)
    np.testing.assert_array_equal(models[1].layers[0].kernel_value("kernel"), mask * 3)
    first = np.arange(120_000).reshape(400, 300) < 5
    models[0].layers[0].install("kernel", first, first * 1.0)
    models[0].save_weights(path)
    with h5py.File(path) as file:
        kinds = {str(v.dtype) for v in file["layers/compact_layer/vars"].values()}
        assert kinds == {"float32", "uint8"}
    with pytest.raises(ValueError, match="Received: 1 for wide, which has 4"):
        layer.load_own_variables({"0": np.zeros(5)})


def test_more_weights_than_positions_are_refused():
    layer = CompactLayer(L.Dense(50_000), counts={"kernel": 1})
    with pytest.raises(ValueError, match=r"less than 2\*\*31.*\(50000, 50000\)"):
        layer.build((None, 50_000))


def test_no_kernel_ever_exists_as_a_variable(tmp_path):
    model = mlp((40, 40), inputs=30)
    made = []

    def note(next_creator, **kwargs):
        variable = next_creator(**kwargs)
        made.append(int(np.prod(variable.shape)))
        return variable

    with tf.variable_creator_scope(note):
        pruned = kpi.prune_at_init(
            model, None, "random", sparsity=0.95, layout="compact"
        )
        pruned.compile("adam", LOSS)
        pruned.fit(*batch(model), verbose=0)
        pruned.save(tmp_path / "m.keras")
        keras.models.load_model(tmp_path / "m.keras")
        kpi.to_layout(pruned, "compact")
    kept = kpi.report(pruned).kept
    assert len(made) > 60 and max(made) < kept < 160


# --- the model ------------------------------------------------------------------------


def test_training_is_that_of_the_masked_layout(images, eagerly):
    model = network()
    model.compile(OPTIMIZERS["adam"](), LOSS, jit_compile=False)
    masked, compact = both(model, images, "snip", sparsity=0.9)
    assert kpi.report(masked).digest == kpi.report(compact).digest
    one, other = (losses_of(m, images, 3) for m in (masked, compact))
    assert one[-1] < one[0]
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("momentum", "masked"),
        ("adam", "compact"),
        ("ema", "compact"),
        ("scaled", "compact"),
    ],
)
def test_converted_models_go_on_training(name, to, images, eagerly):
    model = network()
    model.compile(OPTIMIZERS[name](), LOSS, jit_compile=False)
    layout = "masked" if to == "compact" else "compact"
    pruned = kpi.prune_at_init(
        model, None, "magnitude", sparsity=0.8, layout=layout, verbose=0
    )
    losses_of(pruned, images, 2)
    before = [v.numpy() for v in pruned.variables]
    other = kpi.to_layout(pruned, to)
    for old, v in zip(before, pruned.variables, strict=True):
        np.testing.assert_array_equal(old, v.numpy())
    x = next(iter(images))[0]
    np.testing.assert_array_equal(other(x), pruned(x))
    assert int(other.optimizer.iterations) == 2
    one, other = (losses_of(m, images, 2) for m in (pruned, other))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_regularizers_and_constraints_see_whole_kernels(eagerly):
    orthogonal = keras.regularizers.OrthogonalRegularizer(0.1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(8, "relu", kernel_regularizer=orthogonal),
            L.Dense(6, kernel_regularizer=keras.regularizers.L1L2(0.1, 0.1)),
            L.Dense(3, kernel_constraint=keras.constraints.MaxNorm(0.3, axis=0)),
        ]
    )
    model.compile("sgd", LOSS)
    x, y = batch(model)
    masked, compact = both(model, (x, y), sparsity=0.5)
    for model in (masked, compact):
        model.fit(x, y, epochs=3, verbose=0)
    values = [[float(v) for v in m.losses] for m in (masked, compact)]
    assert len(values[0]) == 2 and min(values[0]) > 0
    np.testing.assert_allclose(sorted(values[0]), sorted(values[1]), rtol=1e-5)
    kernels = [masked_list(m)[-1].kernel_value("kernel") for m in (masked, compact)]
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-5)
    assert np.linalg.norm(kernels[0], axis=0).max() < 0.3001


def test_analysis_and_theory_give_what_they_give_masked():
    keras.utils.set_random_seed(0)
    model = kpi.models.mlp((20,), 10, depth=3, width=30, activation="tanh", init="eoc")
    x, y = batch(model, 32)
    pruned = both(model, (x, y), sparsity=0.8, rescale=True)
    scales = [
        [s.numpy() for v in masked_list(m) for s in v.scales.values()] for m in pruned
    ]
    for one, other in zip(*scales, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.ptp(np.concatenate([s.ravel() for s in scales[0]])) > 0.1
    assert str(kpi.report(pruned[0])) == str(kpi.report(pruned[1]))
    signals = [str(kpi.signal_report(m, (x, y))) for m in pruned]
    assert signals[0] == signals[1]
    for m in pruned:
        kpi.initializers.reinitialize(m, "orthogonal")
    np.testing.assert_array_equal(pruned[0](x), pruned[1](x))
    for m in pruned:
        kpi.approximate_isometry(m, steps=3)
    np.testing.assert_allclose(pruned[0](x), pruned[1](x), rtol=1e-5, atol=1e-6)


def test_mixed_precision_and_xla():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = mlp((16,))
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(OPTIMIZERS["momentum"](), LOSS, jit_compile=True)
    x, y = batch(model, 16)
    # The masked layout under XLA is in test_training.py.
    m = kpi.prune_at_init(model, (x, y), sparsity=0.6, layout="compact", verbose=0)
    before = [v.numpy() for v in m.trainable_variables]
    assert np.isfinite(m.fit(x, y, verbose=0).history["loss"]).all()
    assert masked_list(m)[0].compute_dtype == "bfloat16"
    assert m.trainable_variables[0].dtype == "float32"
    for old, v in zip(before, m.trainable_variables, strict=True):
        assert np.isfinite(v).all() and (old != v.numpy()).any()


def test_an_unknown_layout_is_refused_before_any_work():
    with pytest.raises(ValueError, match="Received: layout='dense'"):
        kpi.prune_at_init(mlp(), None, "random", layout="dense")
    with pytest.raises(ValueError, match="takes a pruned model"):
        kpi.to_layout(mlp(), "compact")


def test_frozen_kernels_stay_frozen(eagerly):
    model = keras.Sequential(
        [
            keras.Input((2, 4)),
            L.Dense(6, trainable=False, name="frozen"),
            L.Bidirectional(L.SimpleRNN(3)),
            L.Dense(3),
        ]
    )
    model.layers[1].backward_layer.trainable = False
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = batch(model)
    count = len(model.trainable_variables)
    compact = kpi.prune_at_init(model, data, "snip", sparsity=0.5, layout="compact")
    for pruned in (compact, kpi.to_layout(kpi.to_layout(compact, "masked"), "compact")):
        assert len(pruned.trainable_variables) == count
        before = pruned.get_layer("frozen").kernel_value("kernel")
        pruned.fit(*data, verbose=0)
        after = pruned.get_layer("frozen").kernel_value("kernel")
        np.testing.assert_array_equal(after, before)
        plain = kpi.strip(pruned)
        assert len(plain.trainable_variables) == count
