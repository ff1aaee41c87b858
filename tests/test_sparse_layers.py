"""Layers that compute with their kept weights only: as the masked ones do."""

import builtins
import gc
import logging
import os
import select
import sys
import weakref

import keras
import numba
import numpy as np
import pytest
import tensorflow as tf
from helpers import LAYERS, L, batch, masked_list, masks, mlp, transformer
from runs import mirrored
from test_compact import OPTIMIZERS, losses_of

import keras_prune_init as kpi
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.sparse import conditions, estimate, products
from keras_prune_init.train.data.loading import load_images

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# More than `LAYERS` has of what computes sparsely: layer, and shape of a sample.
MORE = {
    "rows": (lambda: L.Dense(4, use_bias=False), (3, 5)),
    "conv 1x1": (lambda: L.Conv2D(4, 1, strides=2, activation="relu"), (5, 6, 3)),
    "conv 1": (lambda: L.Conv1D(4, 1, strides=2), (7, 3)),
    "conv 1x1x1": (lambda: L.Conv3D(4, 1), (2, 3, 4, 3)),
    "strides": (lambda: L.Conv2D(4, 3, strides=2, padding="same"), (7, 6, 3)),
    "dilated": (lambda: L.Conv2D(4, 3, dilation_rate=2, activation="relu"), (9, 9, 3)),
    "causal": (lambda: L.Conv1D(4, 3, dilation_rate=2, padding="causal"), (9, 3)),
    "output axes first": (lambda: L.EinsumDense("...a,ba->...b", 4), (3, 5)),
    "a vector": (lambda: L.EinsumDense("abc,c->ab", (3,)), (3, 5)),
    "summed axes": (
        lambda: L.EinsumDense("abcd,dce->aeb", (6, 3), bias_axes="e"),
        (3, 4, 5),
    ),
}
SPARSE = ("Dense", "Conv1D", "Conv2D", "EinsumDense", "Embedding", *MORE)


@pytest.fixture(autouse=True)
def _sparse_is_faster(monkeypatch):
    """Convolutions compute sparsely too, small as they are here."""
    monkeypatch.setattr(estimate, "seconds", lambda kernel, positions, kept: (0.0, 1.0))


@pytest.fixture
def products_made(monkeypatch):
    """The products that are computed sparsely."""
    made, plain = [], products.SparseOperation.lines

    def noted(self, *args):
        made.append(self)
        return plain(self, *args)

    monkeypatch.setattr(products.SparseOperation, "lines", noted)
    return made


def layer_and_input(name):
    rng = np.random.default_rng(0)
    if name == "Embedding":
        return (lambda: L.Embedding(7, 4)), rng.integers(0, 7, (2, 5))
    make, shape = {**LAYERS, **MORE}[name]
    return make, rng.normal(size=(3, *shape)).astype("float32")


def alike(make, x):
    """A masked layer and one that computes sparsely, with the same random kernels."""
    rng = np.random.default_rng(1)
    masked = kpi.MaskedLayer(make())
    masked(x)
    other = kpi.CompactLayer(make(), computes="sparse")
    other.build(x.shape)
    for kernel, mask in masked.masks.items():
        kept, values = rng.random(mask.shape) < 0.5, rng.normal(size=mask.shape)
        factors = rng.uniform(0.5, 2, masked.scales[kernel].shape)
        for layer in (masked, other):
            layer.install(kernel, kept, values.astype("float32"))
            layer.scales[kernel].assign(factors)
    by_path = {v.path.split("/", 1)[1]: v for v in other.layer.variables}
    for v in masked.layer.variables:
        if v.path.split("/", 1)[1] in by_path:
            by_path[v.path.split("/", 1)[1]].assign(v.value)
    return masked, other


@pytest.mark.parametrize("name", [*LAYERS, "Embedding", *MORE])
def test_outputs_and_gradients_are_those_of_the_masked_layer(name, products_made):
    make, x = layer_and_input(name)
    masked, sparse = alike(make, x)
    found = []
    for layer in (masked, sparse):
        with tf.GradientTape() as tape:
            x = tf.constant(x)
            if x.dtype.is_floating:
                tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.sin(y))
        if layer is masked:
            kernels = [get_kernel(layer.layer, n).value for n in layer.kernels]
        else:
            kernels = [layer.kept[n].values.value for n in layer.kernels]
        slopes = tape.gradient(loss, [*kernels, x])
        slopes = [
            None if g is None else tf.convert_to_tensor(g).numpy() for g in slopes
        ]
        if layer is masked:
            kept = [layer.kept_mask(n) for n in layer.kernels]
            slopes = [g[m] for g, m in zip(slopes, kept, strict=False)] + slopes[-1:]
        found.append([y, *slopes])
    for one, other in zip(*found, strict=True):
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert bool(products_made) == bool(sparse.sparse_kernels) == (name in SPARSE)


def test_subclasses_with_a_call_of_their_own_compute_as_compact(products_made):
    class Twice(L.Dense):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs)

    x = np.ones((2, 5), "float32")
    masked, sparse = alike(lambda: Twice(4), x)
    np.testing.assert_array_equal(masked(x), sparse(x))
    assert not sparse.sparse_kernels and not products_made


def test_a_call_that_is_set_on_a_layer_stays():
    model, (x, y) = small()
    plain = model.layers[0].call
    model.layers[0].call = lambda x, training=None: plain(x) * (3 if training else 1)
    masked = pruned(model, (x, y), "masked")
    sparse = kpi.to_layout(masked, "sparse")
    for found in (sparse, kpi.to_layout(sparse, "masked")):
        for training in (False, True):
            np.testing.assert_allclose(
                found(x, training=training), masked(x, training=training), atol=1e-5
            )


def test_ragged_inputs_compute_as_compact(products_made):
    masked, sparse = alike(*layer_and_input("Dense"))
    x = tf.RaggedTensor.from_tensor(tf.ones((3, 5)))
    np.testing.assert_allclose(sparse(x), masked(x), atol=1e-6)
    assert not products_made


def test_sparse_inputs_are_multiplied(products_made):
    masked, sparse = alike(*layer_and_input("Dense"))
    x = np.eye(3, 5, dtype="float32")
    np.testing.assert_allclose(sparse(tf.sparse.from_dense(x)), masked(x), atol=1e-6)
    assert products_made


# --- models ---------------------------------------------------------------------------


def everything():
    """A model with a layer of each kind that computes sparsely, and its data."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(11, 8)(tokens)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x))
    x = x + L.GroupQueryAttention(4, 2, 1)(x, x)
    x = L.EinsumDense("abc,cd->abd", (None, 12), bias_axes="d", activation="relu")(x)
    x = L.Conv1D(8, 1)(L.Conv1D(8, 3, padding="same", activation="relu")(x))
    x = L.Reshape((3, 2, 8))(x)
    x = L.Conv2D(6, 3, padding="same", activation="relu")(x)
    model = keras.Model(tokens, L.Dense(3)(L.Dense(10, "tanh")(L.Flatten()(x))))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 11, (40, 6))
    return model, (x, x[:, 0] % 3)


def little():
    """A smaller one, with images."""
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(4, 3, activation="relu"), L.Conv2D(6, 1), L.Flatten()]
    model = keras.Sequential([keras.Input((7, 7, 2)), *layers, L.Dense(3)])
    return model, batch(model, 40)


def pruned(model, data, layout, **options):
    given = {"sparsity": 0.7, "verbose": 0, **options}
    return kpi.prune_at_init(model, data, "snip", layout=layout, **given)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_fifty_steps_are_those_of_the_masked_layout(optimizer, products_made):
    model, data = everything()
    model.compile(OPTIMIZERS[optimizer](), LOSS, jit_compile=False)
    dataset = tf.data.Dataset.from_tensor_slices(data).repeat().batch(7)
    losses = [
        losses_of(pruned(model, data, layout), dataset, 50)
        for layout in ("masked", "sparse")
    ]
    assert losses[0][-1] < losses[0][0] - 0.03
    assert len({id(v.kernel) for v in products_made}) >= 10
    np.testing.assert_allclose(*losses, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_multiplies_in_float32(policy, products_made):
    keras.config.set_dtype_policy(policy)
    try:
        model, data = little()
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("adam", LOSS, jit_compile=False)
    sparse, compact = (pruned(model, data, layout) for layout in ("sparse", "compact"))
    x = data[0]
    assert sparse(x).dtype == compact(x).dtype == policy.removeprefix("mixed_")
    assert products_made
    for one, other in zip(sparse.predict(x), compact.predict(x), strict=True):
        np.testing.assert_allclose(one, other, atol=0.05)
    history = sparse.fit(*data, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()


def test_float64_computes_as_compact(products_made):
    model, data = mlp(dtype="float64"), None
    sparse = kpi.prune_at_init(model, data, "magnitude", layout="sparse")
    assert sparse(batch(model)[0]).dtype == "float64" and not products_made


def test_converted_models_go_on_training():
    model, data = everything()
    model.compile(OPTIMIZERS["adam"](), LOSS, jit_compile=False)
    dataset = tf.data.Dataset.from_tensor_slices(data).repeat().batch(8)
    sparse = pruned(model, data, "sparse")
    losses_of(sparse, dataset, 3)
    masked = kpi.to_layout(sparse, "masked")
    auto = kpi.to_layout(masked, "auto")
    assert int(auto.optimizer.iterations) == 3
    losses = [losses_of(m, dataset, 5) for m in (sparse, masked, auto)]
    for found in losses[1:]:
        np.testing.assert_allclose(found, losses[0], atol=1e-5)


def test_files_are_those_of_the_compact_layout(tmp_path):
    model, data = everything()
    model.compile("adam", LOSS, jit_compile=False)
    sparse, compact = (pruned(model, data, layout) for layout in ("sparse", "compact"))
    sparse.fit(*data, verbose=0)
    sparse.save_weights(tmp_path / "w.weights.h5")
    compact.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_allclose(compact(data[0]), sparse(data[0]), atol=1e-5)
    checkpoint = tf.train.Checkpoint(sparse).save(str(tmp_path / "ck"))
    other = pruned(model, data, "compact")
    tf.train.Checkpoint(other).restore(checkpoint).expect_partial()
    np.testing.assert_array_equal(other(data[0]), compact(data[0]))
    sparse.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert {v.computes for v in masked_list(loaded)} == {"sparse"}
    np.testing.assert_array_equal(loaded(data[0]), sparse(data[0]))
    one, other = (m.fit(*data, verbose=0, shuffle=False) for m in (sparse, loaded))
    assert one.history == other.history


def test_a_plain_model_comes_out():
    model, data = everything()
    sparse = pruned(model, data, "sparse")
    plain = kpi.strip(sparse)
    assert not masked_list(plain)
    np.testing.assert_allclose(plain(data[0]), sparse(data[0]), atol=1e-5)
    for layer in plain._flatten_layers():
        assert "SparseCall" not in repr(vars(layer).get("call"))
    # Masks can be made again, by second derivatives, from what is left.
    again = kpi.prune_at_init(sparse, data, "grasp", sparsity=0.8, layout="sparse")
    assert kpi.report(again).sparsity == pytest.approx(0.8, abs=1e-3)
    assert all((a <= b).all() for a, b in zip(masks(again), masks(sparse), strict=True))


def test_gradients_of_gradients_are_those_of_the_masked_layout():
    model, (x, y) = everything()
    found = []
    for layout in ("masked", "sparse"):
        m = kpi.to_layout(pruned(model, (x, y), "masked"), layout)
        biases = [v for v in m.trainable_variables if v.path.endswith("bias")]
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = LOSS(y, m(x))
            slopes = inner.gradient(loss, [v.value for v in biases])
            total = sum(tf.reduce_sum(g * g) for g in slopes if g is not None)
        found.append(outer.gradient(total, [v.value for v in biases]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_masks_move():
    model = mlp((20,), inputs=12)
    model.compile("adam", LOSS, jit_compile=False)
    data = batch(model, 64)
    found = []
    for layout in ("masked", "sparse"):
        keras.utils.set_random_seed(0)
        m = kpi.prune_at_init(model, data, "random", sparsity=0.8, layout=layout)
        before = masks(m)
        rule = kpi.callbacks.RigL(0.5, every=2, end=10)
        m.fit(*data, 8, epochs=2, verbose=0, shuffle=False, callbacks=[rule])
        assert any((a != b).any() for a, b in zip(before, masks(m), strict=True))
        found.append((masks(m), m.predict(data[0], verbose=0)))
    for one, other in zip(*(m for m, _ in found), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)


def test_replicas_train_as_one_device(products_made):
    losses = []
    for strategy in (tf.distribute.get_strategy(), mirrored(2)):
        with strategy.scope():
            model, data = little()
            model.compile(OPTIMIZERS["momentum"](), LOSS, jit_compile=False)
        dataset = tf.data.Dataset.from_tensor_slices(data).repeat().batch(8)
        new = pruned(model, data, "sparse")
        found = []
        seen = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda _, logs, found=found: found.append(logs["loss"])
        )
        new.fit(dataset, steps_per_epoch=8, verbose=0, callbacks=[seen])
        losses.append(found)
    assert products_made
    np.testing.assert_allclose(*losses, atol=1e-4)


def test_equal_runs_give_equal_weights():
    model, data = little()
    model.compile("adam", LOSS, jit_compile=False)
    found = []
    for _ in range(2):
        new = pruned(model, data, "sparse")
        new.fit(*data, 8, epochs=3, verbose=0, shuffle=False)
        found.append(new.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_transformer_of_a_users_own_layers_trains(products_made):
    model = transformer()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (16, *model.input_shape[1:]))
    y = rng.integers(0, model.output_shape[-1], 16)
    model.compile("adam", LOSS, jit_compile=False)
    one, other = (
        pruned(model, (x, y), layout).fit(x, y, verbose=0, shuffle=False).history
        for layout in ("masked", "sparse")
    )
    assert products_made
    np.testing.assert_allclose(one["loss"], other["loss"], atol=1e-4)


def test_models_that_are_gone_leave_no_weights_behind(monkeypatch):
    lines, plain = [], products.SparseOperation.lines

    def noted(self, *args):
        found = plain(self, *args)
        lines.extend(weakref.ref(v) for v in found)
        return found

    monkeypatch.setattr(products.SparseOperation, "lines", noted)
    model, data = small()
    sparse = pruned(model, data, "sparse")
    sparse.fit(*data, verbose=0)
    sparse.predict(data[0], verbose=0)
    assert lines and any(v() for v in lines)
    del sparse
    keras.backend.clear_session()
    gc.collect()
    assert not any(v() for v in lines)


def test_regularizers_are_those_of_the_masked_layout():
    model = mlp(kernel_regularizer="l2")
    model.compile("sgd", LOSS, jit_compile=False)
    data = batch(model)
    one, other = (
        pruned(model, data, layout).fit(*data, verbose=0, epochs=3).history["loss"]
        for layout in ("masked", "sparse")
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_gradients_are_those_at_the_weights_of_the_forward_pass():
    model, data = small()
    found = []
    for layout in ("compact", "sparse"):
        m = pruned(model, data, layout)
        variables = m.trainable_variables
        with tf.GradientTape() as tape:
            loss = LOSS(data[1], m(data[0]))
        for v in variables:
            v.assign(3 * v)
        for layer in masked_list(m):  # other positions, as many
            mask = layer.kept_mask("kernel")
            layer.install("kernel", mask[::-1], np.ones(mask.shape))
        found.append(tape.gradient(loss, [v.value for v in variables]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@keras.saving.register_keras_serializable("sparse")
class Repeated(L.Layer):
    """A layer in a loop."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(16, "tanh")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return keras.ops.fori_loop(0, 3, lambda i, h: self.dense(h), x)


def test_layers_in_loops_train():
    model = keras.Sequential([keras.Input((16,)), Repeated(), L.Dense(3)])
    model.compile("sgd", LOSS, jit_compile=False)
    data = batch(model, 16)
    one, other = (
        pruned(model, data, layout).fit(*data, epochs=3, verbose=0).history["loss"]
        for layout in ("masked", "sparse")
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_last_dimension_may_be_open():
    for layer, rank in ((L.Dense(8), 2), (L.Dense(8), 3), (L.Conv2D(8, 1), 4)):
        shape = (*(3,) * (rank - 2), 6)
        model = keras.Sequential([keras.Input(shape), layer])
        sparse = kpi.prune_at_init(model, method="magnitude", layout="sparse")
        open_shape = tf.TensorSpec((None,) * rank)
        x = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
        found = tf.function(sparse, input_signature=[open_shape])(x)
        np.testing.assert_allclose(found, sparse(x), atol=1e-6)


def test_muon_is_converted_with_a_warning(said, caplog):
    model, data = small()
    model.compile(keras.optimizers.Muon(0.01), LOSS, jit_compile=False)
    masked = pruned(model, data, "masked")
    masked.fit(*data, verbose=0)
    sparse = kpi.to_layout(masked, "sparse")
    assert any("optimizer begins anew" in r.message for r in caplog.records)
    sparse.fit(*data, verbose=0)
    kpi.to_layout(sparse, "masked").fit(*data, verbose=0)


# --- where it cannot compute sparsely -------------------------------------------------


@pytest.fixture
def said(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, logger="absl")
    conditions._say.cache_clear()
    yield lambda: [r.message for r in caplog.records if "layout 'sparse'" in r.message]
    conditions._say.cache_clear()


def small():
    model = mlp((16,))
    data = batch(model, 16)
    model.compile("sgd", LOSS, jit_compile=False)
    return model, data


def test_xla_computes_as_compact(said, products_made):
    model, data = small()
    sparse = pruned(model, data, "sparse")
    products_made.clear()
    sparse.compile("sgd", LOSS, jit_compile=True)
    sparse.fit(*data, verbose=0)
    sparse.fit(*data, verbose=0)
    assert not products_made
    [text] = said()
    assert "compute as 'compact': XLA cannot call them" in text


def test_exported_models_compute_as_compact(said, tmp_path):
    model, data = small()
    sparse = pruned(model, data, "sparse")
    sparse.predict(data[0], verbose=0)  # has been traced before
    sparse.export(tmp_path / "exported", verbose=False)
    assert ["written into a file" in text for text in said()] == [True]
    sparse.serve = tf.function(
        lambda x: sparse(x), input_signature=[tf.TensorSpec((None, 5))]
    )
    tf.saved_model.save(sparse, str(tmp_path / "saved"), signatures=sparse.serve)
    for folder in ("exported", "saved"):
        loaded = tf.saved_model.load(str(tmp_path / folder))
        functions = loaded.signatures.values()
        graphs = [f.graph.as_graph_def(add_shapes=False) for f in functions]
        names = {
            node.op
            for graph in graphs
            for part in (graph, *graph.library.function)
            for node in getattr(part, "node", getattr(part, "node_def", ()))
        }
        assert names and not any("PyFunc" in name for name in names)
        y = next(
            iter(loaded.signatures["serving_default"](tf.constant(data[0])).values())
        )
        np.testing.assert_allclose(y, sparse(data[0]), atol=1e-5)


def test_phones_get_what_they_get_from_the_masked_layout(tmp_path):
    model, data = small()
    for layout in ("masked", "sparse"):  # the export compares outputs
        kpi.export_tflite(pruned(model, data, layout), tmp_path / layout)
    sizes = [(tmp_path / layout).stat().st_size for layout in ("masked", "sparse")]
    assert sizes[0] == sizes[1]


def test_forks_compute_as_compact(said, products_made):
    model, data = small()
    sparse = pruned(model, data, "sparse")
    expected = sparse(data[0]).numpy()
    read, write = os.pipe()
    if not os.fork():
        products_made.clear()
        y = sparse(data[0]).numpy()
        os.write(
            write, bytes([not products_made and np.allclose(y, expected, atol=1e-5)])
        )
        os._exit(0)
    ready, _, _ = select.select([read], [], [], 60)
    assert ready and os.read(read, 1) == b"\x01"
    os.wait()


def test_reports_of_kernels_without_expected_times_are_printed():
    model = keras.Sequential([keras.Input((7,)), L.Embedding(20, 8)])
    auto = kpi.prune_at_init(model, method="magnitude", sparsity=0.5, layout="auto")
    assert "unknown" in str(kpi.report(auto))


def test_accelerators_and_other_processes_compute_as_compact(
    said, monkeypatch, products_made
):
    model, data = small()
    sparse = pruned(model, data, "sparse")
    products_made.clear()
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    devices = tf.config.get_visible_devices()
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda: [*devices, gpu])
    sparse(data[0])
    monkeypatch.undo()
    strategy = type("TPUStrategyV2", (), {})
    monkeypatch.setattr(tf.distribute, "get_strategy", strategy)
    assert not conditions.can_run()
    texts = said()
    assert "TensorFlow uses a GPU" in texts[0] and "TPUStrategyV2 does not" in texts[1]
    assert not products_made


def test_without_numba_the_layout_names_the_line_that_installs_it(
    said, monkeypatch, tmp_path, products_made
):
    model, data = small()
    sparse = pruned(model, data, "sparse")
    sparse.save(tmp_path / "m.keras")
    expected = sparse(data[0])
    products_made.clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    conditions.missing.cache_clear()
    try:
        for refused in (
            lambda: pruned(model, data, "sparse"),
            lambda: kpi.to_layout(sparse, "sparse"),
        ):
            with pytest.raises(
                ImportError, match=r"pip install 'keras_prune_init\[spar"
            ):
                refused()
        auto = pruned(model, data, "auto")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        for found in (auto, loaded):
            np.testing.assert_allclose(found(data[0]), expected, atol=1e-5)
        loaded.fit(*data, verbose=0)
    finally:
        conditions.missing.cache_clear()
    assert not products_made
    assert ["numba is not installed" in text for text in said()] == [True]


def test_an_import_of_numba_that_fails_is_told(monkeypatch):
    def fails(name, *args, plain=builtins.__import__):
        if name == "numba":
            raise ImportError("Numba needs another NumPy")
        return plain(name, *args)

    conditions.missing.cache_clear()
    monkeypatch.setattr(builtins, "__import__", fails)
    try:
        with pytest.raises(ImportError, match="cannot be imported: Numba needs anoth"):
            conditions.check_installed()
    finally:
        conditions.missing.cache_clear()


def test_numba_that_compiles_nothing_computes_as_compact(
    said, monkeypatch, products_made
):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    model, data = small()
    sparse = pruned(model, data, "sparse")
    sparse.fit(*data, verbose=0)
    assert not products_made
    assert ["NUMBA_DISABLE_JIT" in text for text in said()] == [True]


# --- what is faster -------------------------------------------------------------------


def test_auto_computes_in_the_faster_way(monkeypatch, products_made):
    model, data = everything()
    masked, auto = (pruned(model, data, layout) for layout in ("masked", "auto"))
    products_made.clear()

    def seconds(kernel, positions, kept):  # only one convolution pays
        return (0.0, 1.0) if len(kernel.shape) == 4 else (1.0, 0.5)

    monkeypatch.setattr(estimate, "seconds", seconds)
    np.testing.assert_allclose(auto(data[0]), masked(data[0]), atol=1e-5)
    # And an embedding, whose dense matrix would be written in each step.
    kinds = {type(v.kernel).__name__ + type(v).__name__ for v in products_made}
    assert kinds == {"WindowsConvolution", "MatrixLookup"}
    dense = auto.get_layer("dense")
    assert dense.expected("kernel", 1) == ("compact", 0.5, 0.5)
    sparse = kpi.to_layout(auto, "sparse").get_layer("dense")
    assert sparse.expected("kernel", 1) == ("sparse", 1.0, 0.5)


DENSE = ["dense/kernel", "sparse"]


def test_reports_say_how_each_kernel_computes(monkeypatch):
    model, data = everything()
    sparse = pruned(model, data, "sparse")
    monkeypatch.setattr(
        estimate, "seconds", lambda kernel, positions, kept: (2e-3, 1e-3)
    )
    report = kpi.report(sparse)
    found = {s.path: s[1:] for s in report.speeds}
    assert found["dense/kernel"] == ("sparse", 2e-3, 1e-3)
    assert found["conv2d/kernel"] == ("compact", 1e-3, 1e-3)
    assert found["embedding/embeddings"] == ("sparse", None, None)
    text = str(report)
    assert "in a training step of 128 samples" in text
    [line] = (t.split() for t in text.splitlines() if t.split()[:2] == DENSE)
    assert line == [*DENSE, "2.00", "1.00"]
    assert "speeds" in report.to_json()
    assert not kpi.report(kpi.to_layout(sparse, "compact")).speeds


def test_real_images_are_learned(products_made):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((28, 28, 1)), L.Flatten()])
    for units in (100, 50):
        model.add(L.Dense(units, "relu"))
    model.add(L.Dense(10))
    model.compile("adam", LOSS, metrics=["accuracy"], jit_compile=False)
    images = load_images().train(32, epochs=1)
    accuracy = [
        pruned(model, images, layout, sparsity=0.9)
        .fit(images, verbose=0, shuffle=False)
        .history["accuracy"][0]
        for layout in ("masked", "sparse")
    ]
    assert products_made and accuracy[0] > 0.3
    np.testing.assert_allclose(*accuracy, atol=0.01)
