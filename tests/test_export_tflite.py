"""Files that `export_tflite` writes, in the runtime for phones."""

import functools
import json
import os

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import keras_prune_init as kpi
from keras_prune_init.export import convert, samples, tflite

L = keras.layers


def two_in_two_out():
    left, right = keras.Input((6,), name="left"), keras.Input((40,), name="right")
    x = L.Concatenate()([L.Dense(64, "relu")(left), L.Dense(64, "relu")(right)])
    x = L.Dense(64, "relu")(x)
    return keras.Model([left, right], [L.Dense(3, name="a")(x), L.Dense(2)(x)])


def transformer():
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    x = L.Embedding(50, 32)(tokens)
    x = L.Add()([x, L.MultiHeadAttention(4, 8)(x, x)])
    x = L.LayerNormalization()(x)
    x = L.Add()([x, L.Dense(32)(L.Dense(128, "gelu")(x))])
    return keras.Model(tokens, L.Dense(4)(L.GlobalAveragePooling1D()(x)))


def residual():
    inputs = keras.Input((16, 16, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(32, 3, use_bias=False)(inputs)))
    y = L.Conv2D(64, 3, 2, padding="same", activation="relu")(x)
    y = L.BatchNormalization()(L.Conv2D(64, 1)(y))
    x = L.ReLU()(L.Add()([L.Conv2D(64, 1, 2, use_bias=False)(x), y]))
    return keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D()(x)))


MODELS = {
    "mlp": lambda: kpi.models.mlp((28, 28, 1), depth=3, width=100),
    "residual": residual,
    "cnn": lambda: kpi.models.cnn((16, 16, 3), depth=2),
    "two_in_two_out": two_in_two_out,
    "transformer": transformer,
}


def pruned(model, sparsity=0.95):
    return kpi.prune_at_init(
        model, method="magnitude", sparsity=sparsity, allocation="uniform", verbose=0
    )


@functools.cache
def ready(name):
    """One of `MODELS`, pruned; export does not change it."""
    return pruned(MODELS[name]())


def inputs_for(model, count=20):
    rng = np.random.default_rng(0)
    made = [
        rng.integers(0, 50, (count, *t.shape[1:])).astype(t.dtype)
        if "int" in t.dtype
        else rng.normal(size=(count, *t.shape[1:])).astype(t.dtype)
        for t in model.inputs
    ]
    return made if len(made) > 1 else made[0]


# Every model, every precision, and those together that are stored in other ways: only
# convolutions of int8 are sparse, and float16 has a DEQUANTIZE for each kernel.
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("mlp", "float16"),
        ("residual", "float32"),
        ("cnn", "int8"),
        ("two_in_two_out", "int8"),
        ("transformer", "float16"),
    ],
)
def test_sparse_file_loads_and_agrees_with_keras(name, precision, tmp_path):
    model = ready(name)
    model.compile("sgd", "mse")
    before = [np.array(w) for w in model.get_weights()]
    path = tmp_path / "m.tflite"
    data = inputs_for(model)
    report = kpi.export_tflite(
        model, path, precision=precision, representative_data=data
    )
    found = report.comparison
    assert found.difference <= tflite.TOLERANCES[precision] * found.largest
    assert report.size.plain == path.stat().st_size
    assert report.mobile == kpi.mobile_check(path)
    if name == "two_in_two_out":  # dense layers of int8 are never sparse
        assert report.size == report.dense
    else:
        assert report.size.plain < 0.7 * report.dense.plain
    # The model is left as it was.
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.compiled


def test_dense_file_loads_and_agrees_with_keras(tmp_path):
    model = ready("mlp")
    data = inputs_for(model)
    options = {"precision": "int8", "representative_data": data}
    report = kpi.export_tflite(model, tmp_path / "m.tflite", sparse=False, **options)
    found = report.comparison
    assert found.difference <= tflite.TOLERANCES["int8"] * found.largest
    assert report.sparse is None and not report.is_sparse
    assert report.size.plain == (tmp_path / "m.tflite").stat().st_size


def test_file_computes_what_keras_does_after_loading_by_hand(tmp_path):
    model = ready("two_in_two_out")
    kpi.export_tflite(model, tmp_path / "m.tflite")
    run = Interpreter(model_path=str(tmp_path / "m.tflite")).get_signature_runner()
    left, right = inputs_for(model, 5)
    found = run(left=left, right=right)
    for i, wanted in enumerate(model([left, right])):
        np.testing.assert_allclose(found[f"output_{i}"], wanted, atol=1e-5)


def test_dict_keys_are_the_names_of_outputs(tmp_path):
    x = keras.Input((4,), name="x")
    model = keras.Model(x, {"score": L.Dense(2)(x), "age": L.Dense(1)(x)})
    kpi.export_tflite(model, tmp_path / "m.tflite")
    run = Interpreter(model_path=str(tmp_path / "m.tflite")).get_signature_runner()
    assert set(run.get_output_details()) == {"score", "age"}
    # Batches may have any size if none is asked for.
    assert list(run.get_input_details()["x"]["shape_signature"]) == [-1, 4]


def test_batch_size_is_fixed_on_demand(tmp_path):
    model = helpers.mlp()
    kpi.export_tflite(model, tmp_path / "m.tflite", batch_size=3)
    details = Interpreter(model_path=str(tmp_path / "m.tflite")).get_input_details()
    assert list(details[0]["shape_signature"]) == [3, 5]


def test_batch_size_of_the_model_is_kept(tmp_path):
    model = keras.Sequential([keras.Input((5,), batch_size=4), L.Dense(3)])
    report = kpi.export_tflite(model, tmp_path / "m.tflite")
    details = Interpreter(model_path=str(tmp_path / "m.tflite")).get_input_details()
    assert list(details[0]["shape"]) == [4, 5]
    assert report.comparison.samples == 8


def kinds_of_data(x):
    dataset = tf.data.Dataset.from_tensor_slices
    return {
        "array": x,
        "tuple": (x, np.zeros(len(x))),
        "dataset": dataset(x).batch(7),
        "endless dataset with labels": dataset((x, x[:, 0])).batch(7).repeat(),
    }


@pytest.mark.parametrize("kind", kinds_of_data(np.zeros((1, 5))))
def test_data_of_all_kinds(kind):
    x = np.random.default_rng(0).normal(size=(30, 5)).astype("float32")
    data = kinds_of_data(x)[kind]
    model = helpers.mlp()
    found = samples.Samples(convert.specs(model.inputs), data, None)
    assert found.real and found.count == (200 if "endless" in kind else 30)
    taken = np.concatenate([v for given in found for v in given.values()])
    np.testing.assert_array_equal(taken, np.resize(x, taken.shape))
    np.testing.assert_array_equal(samples.first(data), x[: len(samples.first(data))])


def test_endless_data_sets_the_ranges_of_int8(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 5)).astype("float32")
    report = kpi.export_tflite(
        helpers.mlp(),
        tmp_path / "m.tflite",
        precision="int8",
        representative_data=kinds_of_data(x)["endless dataset with labels"],
    )
    assert report.comparison.real and report.comparison.samples == 200


def test_subclassed_model_with_data(tmp_path):
    model = helpers.Subclassed()
    x = np.random.default_rng(0).normal(size=(9, 6)).astype("float32")
    model(x)
    model = pruned(model, 0.5)
    report = kpi.export_tflite(model, tmp_path / "m.tflite", representative_data=x)
    assert report.comparison.difference < 1e-5
    with pytest.raises(ValueError, match="subclassed model does not say.*Subclassed"):
        kpi.export_tflite(model, tmp_path / "other.tflite")
    assert os.listdir(tmp_path) == ["m.tflite"]


def test_mixed_precision_model_is_exported_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = helpers.mlp()
    finally:
        keras.config.set_dtype_policy("float32")
    report = kpi.export_tflite(model, tmp_path / "m.tflite")
    assert report.comparison.difference < 1e-5


def test_report_is_a_table_and_json(tmp_path):
    report = kpi.export_tflite(ready("mlp"), tmp_path / "m.tflite")
    text = str(report)
    for kernel in report.kernels:  # a row of each, with its layer and its shape
        [row] = [v for v in text.splitlines() if v.split()[:1] == [kernel.layer]]
        assert "x".join(map(str, kernel.shape)) in row
    assert [k.layer for k in report.kernels] == ["dense1", "dense2", "logits"]
    assert f"{report.size.plain:,}" in text and "written" in text
    content = json.loads(report.to_json())
    assert content["sparse"]["plain"] == report.size.plain
    assert content["kernels"][0]["shape"] == list(report.kernels[0].shape)
    assert report.density == pytest.approx(0.05, abs=1e-3)


def test_int8_layers_that_are_always_0_are_named_and_load(tmp_path):
    def branch(x, layer, name):
        low = keras.initializers.Constant(-100.0)
        y = layer(activation="relu", bias_initializer=low, name=f"silent_{name}")(x)
        return L.Add()([layer()(x), layer(use_bias=False)(y)])

    vectors, images = keras.Input((30,)), keras.Input((8, 8, 3))
    outputs = [
        branch(vectors, functools.partial(L.Dense, 16), "dense"),
        branch(images, functools.partial(L.Conv2D, 16, 1), "convolution"),
    ]
    model = keras.Model([vectors, images], outputs)
    report = kpi.export_tflite(
        model,
        tmp_path / "m.tflite",
        precision="int8",
        representative_data=inputs_for(model),
    )
    [note] = report.notes
    start, names = note.split(": ")
    assert start == "always 0 in int8, as for all samples"
    assert set(names.split(", ")) == {"silent_dense", "silent_convolution"}
    assert report.comparison.difference < 0.05 * report.comparison.largest


def test_auto_falls_back_to_a_dense_file_that_works(tmp_path, monkeypatch):
    run = tflite._run
    monkeypatch.setattr(
        tflite,
        "_run",
        lambda content, inputs: (
            {k: v * np.nan for k, v in run(content, inputs).items()}
            if len(content) < 100_000
            else run(content, inputs)
        ),
    )
    report = kpi.export_tflite(ready("mlp"), tmp_path / "m.tflite")
    assert not report.is_sparse and not any(k.encoded for k in report.kernels)
    assert report.size == report.dense
    assert "stored densely, because of the sparse file" in str(report)


def test_what_does_nothing_in_inference_is_left_out(tmp_path):
    layers = [L.RandomFlip(), L.RandomBrightness(0.2), L.RandomContrast(0.2)]
    layers += [L.GaussianNoise(0.1), L.Conv2D(4, 3), L.SpatialDropout2D(0.2)]
    layers += [L.GlobalAveragePooling2D(), L.Dropout(0.2), L.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    calls = [vars(v).get("call") for v in layers]
    kpi.export_tflite(model, tmp_path / "whole.tflite")
    assert [vars(v).get("call") for v in layers] == calls
    bare = [v for v in layers if isinstance(v, (L.Conv2D, L.Dense))]
    bare.insert(1, L.GlobalAveragePooling2D())
    other = keras.Sequential([keras.Input((8, 8, 3)), *bare])
    kpi.export_tflite(other, tmp_path / "bare.tflite")
    operators = [
        [op["op_name"] for op in interpreter._get_ops_details()]
        for name in ("whole", "bare")
        for interpreter in [tf.lite.Interpreter(str(tmp_path / f"{name}.tflite"))]
    ]
    assert operators[0] == operators[1]


def test_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\x10\0\0\0TFL3" + bytes(40))
    with pytest.raises(ValueError, match="must be whole. Received: one of 48 bytes"):
        kpi.mobile_check(path)
