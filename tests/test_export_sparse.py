"""Sparse tensors in .tflite files, against the runtime that reads them."""

import functools
import tempfile

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_prune_init.export import convert, flatbuffer, sparse

L = keras.layers


def thinned(model, density, seed=0):
    """All kernels with this fraction of non-zeros."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.trainable_variables:
            if len(variable.shape) > 1:
                variable.assign(variable * (rng.random(variable.shape) < density))
    return model


def network(density):
    return thinned(
        keras.Sequential(
            [
                keras.Input((8, 8, 3), name="image"),
                L.Conv2D(24, 3, name="spatial"),
                L.DepthwiseConv2D(3, name="depthwise"),
                L.Conv2DTranspose(40, 2, name="transposed"),
                L.Conv2D(300, 1, name="pointwise"),
                L.GlobalAveragePooling2D(),
                L.Dense(70, name="dense"),
            ]
        ),
        density,
    )


def converted(model, precisions=("float32",)):
    """The content of a dense file of each precision."""

    def samples():
        for batch in images():
            yield {"image": batch}

    with tempfile.TemporaryDirectory() as folder:
        convert.save(model, folder)
        return [convert.convert(folder, p, samples) for p in precisions]


@functools.cache
def dense_files(density):
    # At 0.97, nothing gets smaller in any precision.
    precisions = ("float32",) if density == 0.97 else convert.PRECISIONS
    files = converted(network(density), precisions)
    return dict(zip(precisions, files, strict=True))


def images():
    return np.random.default_rng(1).normal(size=(10, 1, 8, 8, 3)).astype("float32")


def outputs(content):
    run = Interpreter(model_content=content).get_signature_runner()
    return np.stack([run(image=batch)["output_0"] for batch in images()])


@pytest.mark.parametrize("precision", convert.PRECISIONS)
def test_sparse_file_computes_exactly_what_the_dense_one_does(precision):
    dense = dense_files(0.1)[precision]
    content, kernels = sparse.encode(dense)
    np.testing.assert_array_equal(outputs(content), outputs(dense))
    stored = {k.layer for k in kernels if k.encoded}
    broken = {"int8": {"dense"}, "float16": {"transposed"}}.get(precision, set())
    assert not stored & broken
    assert stored >= {"transposed", "pointwise", "dense"} - broken
    assert len(content) < len(dense)


def test_everything_with_a_zero_is_stored_sparsely_if_asked_for():
    dense = dense_files(0.97)["float32"]
    auto, _ = sparse.encode(dense)
    assert auto is dense
    content, kernels = sparse.encode(dense, True)
    assert all(k.encoded for k in kernels) and len(kernels) == 5
    assert len(content) > len(dense)
    np.testing.assert_array_equal(outputs(content), outputs(dense))


def test_nothing_is_stored_sparsely_if_asked_for():
    dense = dense_files(0.1)["float32"]
    content, kernels = sparse.encode(dense, False)
    assert content is dense and not any(k.encoded for k in kernels)


def test_sizes_are_those_counted_by_hand():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="d")])
    kernel = np.zeros((4, 3), "float32")
    kernel[0, 0] = kernel[3, 0] = kernel[1, 2] = 1
    model.layers[0].kernel.assign(kernel)
    [content] = converted(model)
    _, [found] = sparse.encode(content, True)
    # 3 values of 4 bytes, 3 places, and 4 beginnings and ends of rows.
    assert found == sparse.KernelTensor("d", (3, 4), 0.25, 48, 3 * 4 + 3 + 4, True)


def test_long_rows_take_wider_indices():
    inputs = [keras.Input((n,), name=f"of_{n}") for n in (256, 257, 65_537)]
    model = keras.Model(inputs, [L.Dense(2)(x) for x in inputs])
    thinned(model, 0.01)
    for layer in model.layers[3:]:
        kernel = layer.kernel.numpy()
        kernel[-1] = 1  # the largest place
        layer.kernel.assign(kernel)
    [dense] = converted(model)
    content, kernels = sparse.encode(dense)
    assert len(kernels) == 3 and all(k.encoded for k in kernels)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(1, *v.shape[1:])).astype("float32") for v in inputs]
    run = Interpreter(model_content=content).get_signature_runner()
    found = run(**{v.name: value for v, value in zip(inputs, x, strict=True)})
    for i, wanted in enumerate(model(x)):
        np.testing.assert_allclose(found[f"output_{i}"], wanted, rtol=1e-4, atol=1e-5)


def test_kernel_that_another_operator_reads_too_stays_dense():
    """A tied embedding, which GATHER reads as it is."""

    @keras.saving.register_keras_serializable("tests")
    class Tied(L.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(500, 16), name="table")

        def call(self, tokens):
            x = keras.ops.take(self.table, tokens, axis=0)
            return keras.ops.matmul(x[:, 0], keras.ops.transpose(self.table))

    tokens = keras.Input((4,), dtype="int32")
    model = keras.Model(tokens, Tied()(tokens))
    table = model.layers[-1].table
    table.assign(table * (np.random.default_rng(0).random((500, 16)) < 0.1))
    [content] = converted(model)
    encoded, _ = sparse.encode(content, True)
    x = np.arange(4, dtype="int32")[None]
    run = Interpreter(model_content=encoded).get_signature_runner()
    [found] = run(**{model.inputs[0].name: x}).values()
    np.testing.assert_allclose(found, model(x), rtol=1e-4, atol=1e-5)


def test_data_in_a_written_file_is_aligned():
    content, _ = sparse.encode(dense_files(0.1)["float32"])
    raw = flatbuffer.schema.Model.GetRootAs(content, 0)
    start = np.frombuffer(content, "uint8").ctypes.data
    data = [raw.Buffers(i) for i in range(raw.BuffersLength())]
    places = [b.DataAsNumpy().ctypes.data - start for b in data if b.DataLength()]
    assert len(places) > 8
    assert {place % flatbuffer.ALIGNMENT for place in places} == {0}


def test_a_file_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"`TFL3` as its bytes.*Received: b'TFL1'"):
        flatbuffer.read(b"0000TFL1" + bytes(100))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("net_1/relu_1/Relu;net_1/conv_1/convolution2", "conv"),
        ("net_1/inner_1/dense_3_1/MatMul", "dense_3"),
        ("net_1/dw_relu_1/Relu;net_1/dw_1/depthwise;", "dw"),
        ("StatefulPartitionedCall:0", "StatefulPartitionedCall:0"),
        ("model/conv/convolution", "conv"),
        ("net_1/wide_1/depthwise/SpaceToBatchND", "wide"),
    ],
)
def test_tensor_names_tell_the_layer(name, layer):
    assert flatbuffer.layer_name(name) == layer


@pytest.mark.parametrize("density", [0.97, 0.4, 0.1])
def test_auto_is_never_larger_than_dense(density):
    for dense in dense_files(density).values():
        content, _ = sparse.encode(dense)
        assert len(content) < len(dense) or content is dense
