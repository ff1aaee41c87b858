"""Quantization-aware training that keeps zeros, and its int8 files."""

import keras
import keras2_models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from keras2_models import BOTH

import keras_prune_init as kpi
from keras_prune_init.export import flatbuffer, sparse

EACH = pytest.mark.parametrize("version", BOTH)


def classes(count=256, size=8, seed=0):
    """Images whose brightest fifth says the class, so that training has something."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, count)
    x = rng.normal(size=(count, size, size, 3)).astype("float32")
    x += 1.5 * np.cos(y[:, None, None, None] + np.arange(size)[:, None, None])
    return x.astype("float32"), y


def pruned(version, make=keras2_models.cnn, epochs=4, sparsity=0.8):
    k = BOTH[version]
    model = keras2_models.compiled(make(k), k, 1e-2)
    prune = kpi.prune_at_init if k is keras else kpi.tfmot.prune_at_init
    model = prune(model, classes(), "snip", sparsity=sparsity)
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    model.fit(
        *classes(), epochs=epochs, verbose=0, callbacks=[callback] * (k is tf_keras)
    )
    return model


def kernels(model):
    """The kernels of a plain or quantized model; not masks and statistics."""
    for layer in model.layers:
        layer = getattr(layer, "layer", layer)
        for weight in layer.weights:
            name = weight.name.split(":")[0]
            if len(weight.shape) > 1 and name.split("/")[-1].endswith("kernel"):
                yield np.asarray(weight)


def stripped(model):
    if isinstance(model, keras.Model):
        return kpi.strip(model)
    return tfmot.sparsity.keras.strip_pruning(model)


def removed(arrays):
    return [a == 0 for a in arrays]


@EACH
def test_zeros_stay_from_the_masks_to_the_file(version, tmp_path):
    model = pruned(version, epochs=12, sparsity=0.6)
    x, y = classes(seed=1)
    zeros = removed(kernels(stripped(model)))
    before = model.evaluate(x, y, verbose=0)[1]
    assert before > 0.7
    quantized = kpi.tfmot.quantize_aware(model)
    start = removed(_kernels_of_quantized(quantized))
    assert all(map(np.array_equal, zeros, start))
    quantized.fit(*classes(), epochs=4, verbose=0)
    assert all(map(np.array_equal, zeros, removed(_kernels_of_quantized(quantized))))
    report = kpi.tfmot.export_int8(
        quantized, tmp_path / "m.tflite", representative_data=x
    )
    assert report.precision == "int8" and report.comparison.agreement > 0.97
    in_file = sum(round((1 - k.density) * k.values) for k in report.kernels)
    # Rounding to int8 makes some more.
    assert in_file >= sum(z.sum() for z in zeros)
    _check_places((tmp_path / "m.tflite").read_bytes(), quantized, zeros)
    assert _accuracy(tmp_path / "m.tflite", x, y) > before - 0.05


def _kernels_of_quantized(model):
    return [
        w.numpy() for v in model.layers for w, _, _ in getattr(v, "_weight_vars", ())
    ]


def _check_places(content, model, zeros):
    """Compare the zeros of each kernel in a file with those of the masks."""
    file = flatbuffer.read(content)
    graph = file.subgraphs[0]
    found = [
        flatbuffer.data(file, graph.tensors[i]) for i in sparse._kernels(file, graph)
    ]
    assert len(found) == len(zeros) and all(a is not None for a in found)
    for values, mask in zip(found, zeros, strict=True):
        if mask.ndim == 2:
            mask = mask.T
        elif mask.shape[-1] == 1:  # depthwise
            mask = mask.transpose(3, 0, 1, 2)
        else:
            mask = mask.transpose(3, 0, 1, 2)
        assert values.dtype == np.int8 and not np.any(values[mask])


def _accuracy(path, x, y):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(path)).get_signature_runner()
    [name] = run.get_input_details()
    found = [next(iter(run(**{name: v[None]}).values())).argmax() for v in x]
    return np.mean(np.array(found) == y)


def test_the_file_is_sparse_where_it_pays_and_only_if_wanted(tmp_path):
    def wide(k):
        L = k.layers
        h = [L.Conv2D(64, 3), L.ReLU(), L.Conv2D(256, 1), L.ReLU()]
        h += [L.GlobalAveragePooling2D(), L.Dense(5)]
        return k.Sequential([k.Input((8, 8, 3)), *h])

    quantized = kpi.tfmot.quantize_aware(pruned("Keras 3", wide, 1, 0.95))
    quantized.fit(*classes(), epochs=1, verbose=0)
    x, _ = classes(32)
    reports = {
        how: kpi.tfmot.export_int8(
            quantized, tmp_path / "m.tflite", sparse=how, representative_data=x
        )
        for how in ("auto", True, False)
    }
    assert reports["auto"].is_sparse and not reports[False].is_sparse
    assert reports["auto"].size.plain < 0.9 * reports[False].size.plain
    assert {k.layer for k in reports["auto"].kernels if k.encoded}
    names = {layer.name.removeprefix("quant_") for layer in quantized.layers}
    assert {k.layer for k in reports["auto"].kernels} <= names


def separable(k):
    L = k.layers
    layers = [L.SeparableConv2D(8, 3), L.BatchNormalization(), L.ReLU()]
    layers += [L.Conv2D(8, 3, padding="same"), L.BatchNormalization(), L.ReLU()]
    return k.Sequential([k.Input((8, 8, 3)), *layers, L.Flatten(), L.Dense(5)])


def not_known(k):
    """Layers that tfmot cannot quantize."""
    L = k.layers
    x = k.Input((8, 8, 3))
    h = L.BatchNormalization()(x)
    h = L.Reshape((8, 24))(L.PReLU()(L.LayerNormalization()(h)))
    h = L.Bidirectional(L.GRU(4, return_sequences=True))(L.Conv1D(8, 3)(h))
    h = L.MultiHeadAttention(2, 4)(h, h)
    return k.Model(x, L.Dense(5)(L.GlobalAveragePooling1D()(h)))


@pytest.mark.parametrize(
    ("version", "make"),
    [
        ("Keras 2", keras2_models.nested),
        ("Keras 3", keras2_models.nested),
        ("Keras 2", separable),
        ("Keras 3", separable),
        ("Keras 3", not_known),
    ],
)
def test_zeros_stay_in_all_kinds_of_layers(version, make, tmp_path, caplog):
    model = pruned(version, make, epochs=1)
    zeros = sum(int(z.sum()) for z in removed(map(np.asarray, stripped(model).weights)))
    quantized = kpi.tfmot.quantize_aware(model)
    started = removed(_kernels_of_quantized(quantized))
    quantized.fit(*classes(), epochs=2, verbose=0)
    assert all(map(np.array_equal, started, removed(_kernels_of_quantized(quantized))))
    ours = [w for w in stripped(model).trainable_weights if len(w.shape) > 1]
    assert sum(z.sum() for z in started) == sum(
        (np.asarray(w) == 0).sum() for w in ours
    )
    assert zeros
    path = tmp_path / "m.tflite"
    report = kpi.tfmot.export_int8(
        quantized, path, representative_data=classes(32)[0], batch_size=1
    )
    assert report.comparison.agreement > 0.9
    if make is not_known:
        assert "tfmot cannot quantize batch_normalization" in caplog.text


def test_relu6_as_an_activation_is_merged_and_ranges_are_learnt_in_one_step():
    L = keras.layers
    layers = [L.Conv2D(4, 3), L.BatchNormalization(), L.Activation("relu6")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, L.Flatten(), L.Dense(5)])
    quantized = kpi.tfmot.quantize_aware(keras2_models.compiled(model, keras))
    names = [w.name for w in quantized.weights]
    # Between convolution and ReLU nothing is rounded, as in the file.
    assert not any("batch_normalization/output" in name for name in names)
    x, y = classes(32)
    quantized.fit(100 * x, y, batch_size=32, verbose=0)
    after = {w.name.split(":")[0]: w.numpy() for w in quantized.weights}
    [low] = [v for k, v in after.items() if k.endswith("activation/output_min")]
    [high] = [v for k, v in after.items() if k.endswith("activation/output_max")]
    assert low == 0 and 0 < high <= 6
    [logits] = [v for k, v in after.items() if k.endswith("dense/post_activation_max")]
    assert abs(logits - 6) > 0.1  # which tfmot begins with


@pytest.mark.parametrize("how", ["weights", "m.h5", "checkpoint"])
def test_masks_are_kept_in_files(how, tmp_path):
    model = pruned("Keras 3", epochs=1)
    quantized = kpi.tfmot.quantize_aware(model)
    quantized.fit(*classes(), epochs=1, verbose=0)
    zeros = removed(_kernels_of_quantized(quantized))
    if how == "m.h5":
        quantized.save(tmp_path / how)
        with kpi.tfmot.quantize_scope():
            other = tf_keras.models.load_model(tmp_path / how)
    else:
        fresh = keras2_models.compiled(keras2_models.cnn(keras), keras)
        other = kpi.tfmot.quantize_aware(fresh)
        if how == "weights":
            quantized.save_weights(tmp_path / "w")
            other.load_weights(tmp_path / "w")
        else:
            saved = tf.train.Checkpoint(model=quantized).save(tmp_path / "c")
            tf.train.Checkpoint(model=other).restore(saved).expect_partial()
    pairs = zip(quantized.get_weights(), other.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    other.fit(*classes(), epochs=1, verbose=0)
    assert all(map(np.array_equal, zeros, removed(_kernels_of_quantized(other))))


def test_the_model_is_compiled_alike_and_the_original_is_not_changed():
    model = pruned("Keras 2", epochs=1)
    before = model.get_weights()
    quantized = kpi.tfmot.quantize_aware(model)
    assert quantized.optimizer.get_config() == model.optimizer.get_config()
    assert quantized.optimizer is not model.optimizer
    quantized.fit(*classes(), epochs=1, verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_weights_that_the_last_step_moved_are_zero_again():
    model = pruned("Keras 2", epochs=1)
    wrapper = model.layers[0]
    wrapper.layer.kernel.assign_add(tf.ones_like(wrapper.layer.kernel))
    [(_, mask, _)] = wrapper.pruning_vars
    quantized = kpi.tfmot.quantize_aware(model)
    kernel = _kernels_of_quantized(quantized)[0]
    assert not np.any(kernel[mask.numpy() == 0])


@EACH
def test_frozen_layers_stay_frozen(version):
    k = BOTH[version]
    part = k.Sequential([k.Input((4,)), k.layers.Dense(5), k.layers.Dense(5)])
    part.trainable = False
    x = k.Input((4,))
    model = k.Model(x, k.layers.Dense(3)(k.layers.Dense(4, trainable=False)(part(x))))
    keras2_models.compiled(model, k)
    quantized = kpi.tfmot.quantize_aware(model)
    assert len(quantized.trainable_weights) == len(model.trainable_weights) == 2
    before = _kernels_of_quantized(quantized)
    quantized.fit(np.random.rand(16, 4), np.arange(16) % 3, verbose=0)
    after = _kernels_of_quantized(quantized)
    assert all(map(np.array_equal, before[:3], after[:3]))
    assert not np.array_equal(before[3], after[3])


def test_a_model_that_was_not_trained_is_not_exported(tmp_path):
    quantized = kpi.tfmot.quantize_aware(keras2_models.cnn(tf_keras))
    with pytest.raises(ValueError, match="learnt in training.*Call `fit` first"):
        kpi.tfmot.export_int8(quantized, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_other_dtypes_become_float32():
    L = tf_keras.layers
    layers = [L.Dense(3, dtype="float64"), L.Dense(2, dtype="mixed_float16")]
    model = tf_keras.Sequential([tf_keras.Input((4,)), *layers])
    quantized = kpi.tfmot.quantize_aware(model)
    assert {layer.compute_dtype for layer in quantized.layers} == {"float32"}


def test_activations_that_tfmot_does_not_know_stay_floats(caplog):
    L = tf_keras.layers
    layers = [L.Dense(8, activation="elu", name="e"), L.Dense(3, activation="swish")]
    model = tf_keras.Sequential([tf_keras.Input((4,)), *layers])
    quantized = kpi.tfmot.quantize_aware(model)
    assert "tfmot cannot quantize e, which stay float32" in caplog.text
    assert {"e", "quant_dense"} <= {layer.name for layer in quantized.layers}
    with pytest.raises(ValueError, match="made quantization-aware once"):
        kpi.tfmot.quantize_aware(quantized)


def test_what_is_not_quantized_is_refused(tmp_path):
    model = keras2_models.cnn(tf_keras)
    export = kpi.tfmot.export_int8
    with pytest.raises(TypeError, match="one that `quantize_aware` returned"):
        export(model, tmp_path / "m.tflite")
    with pytest.raises(TypeError, match="Received: keras.*Sequential"):
        export(keras2_models.cnn(keras), tmp_path / "m.tflite")
    with pytest.raises(TypeError, match="keras.Model"):
        kpi.tfmot.quantize_aware("model")
    quantized = kpi.tfmot.quantize_aware(keras2_models.compiled(model, tf_keras))
    recurrent = keras2_models.compiled(keras2_models.recurrent(tf_keras), tf_keras)
    recurrent = kpi.tfmot.quantize_aware(recurrent)
    quantized.fit(*classes(8), verbose=0)
    recurrent.fit(np.zeros((4, 5, 3)), np.zeros(4), verbose=0)
    with pytest.raises(ValueError, match="file in a folder that exists"):
        export(quantized, tmp_path / "none" / "m.tflite")
    with pytest.raises(ValueError, match="`sparse` must be 'auto'"):
        export(quantized, tmp_path / "m.tflite", sparse="yes")
    with pytest.raises(ValueError, match="keeps the state of an LSTM"):
        export(recurrent, tmp_path / "m.tflite")
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="at least one layer with weights"):
        kpi.tfmot.quantize_aware(keras.Model(x, keras.layers.ReLU()(x)))
    assert not list(tmp_path.iterdir())
