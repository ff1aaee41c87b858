"""Files of other formats, which Keras itself or coremltools writes."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import keras_prune_init as kpi
from keras_prune_init.export import flatbuffer

L = keras.layers
# Exporters take a pruned model as well as a stripped one.
EACH = pytest.mark.parametrize("which", ["stripped", "pruned"])


@functools.cache
def ready():
    """A trained model whose kernels all have different sizes."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = L.ReLU(6.0)(L.BatchNormalization(momentum=0)(x))
    x = L.Conv2D(12, 1, use_bias=False)(x)
    x = L.ReLU(6.0)(L.BatchNormalization(momentum=0)(x))
    x = L.DepthwiseConv2D(3, 2, "same", use_bias=False)(x)
    x = L.ReLU()(L.BatchNormalization(momentum=0)(x))
    x = L.GlobalAveragePooling2D()(L.Conv2D(10, 1, activation="relu")(x))
    model = keras.Model(inputs, L.Dense(4)(x))
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
    pruned = kpi.prune_at_init(
        model, method="magnitude", sparsity=0.75, allocation="uniform", verbose=0
    )
    images = rng.normal(size=(6, 8, 8, 3)).astype("float32")
    pruned.compile("sgd", "mse", run_eagerly=True)
    pruned.fit(images, rng.normal(size=(6, 4)), verbose=0)
    plain = kpi.strip(pruned)
    assert np.std(plain(images), axis=0).min() > 0.01  # it depends on them
    return {"stripped": plain, "pruned": pruned}, images


def given(which):
    models, images = ready()
    return models[which], images


def check_outputs(found):
    plain, images = given("stripped")
    np.testing.assert_allclose(found, plain(images), rtol=1e-5, atol=1e-5)


def check_zeros(tensors):
    """A file has all zeros of the kernels, whose axes it may order otherwise."""
    weights = given("stripped")[0].trainable_weights
    wanted = zeros(w for w in weights if len(w.shape) > 1)
    assert list(wanted) == [216, 96, 108, 120, 40] and sum(wanted.values()) == 435
    found = zeros(tensors)
    assert {size: found.get(size) for size in wanted} == wanted


def zeros(tensors):
    """How many zeros the tensors of each size have."""
    arrays = [np.asarray(v) for v in tensors]
    return {v.size: np.count_nonzero(v == 0) for v in arrays}


@EACH
def test_a_saved_model_computes_the_same_and_keeps_the_zeros(which, tmp_path):
    model, images = given(which)
    model.export(tmp_path, verbose=False)
    loaded = tf.saved_model.load(tmp_path)
    check_outputs(loaded.serve(images))
    layer = keras.layers.TFSMLayer(tmp_path, call_endpoint="serve")
    check_outputs(layer(images))
    reader = tf.train.load_checkpoint(tmp_path / "variables" / "variables")
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith("variables")]
    check_zeros(map(reader.get_tensor, names))


@EACH
@pytest.mark.parametrize("sparse", [False, True])
def test_a_litert_file_computes_the_same_and_keeps_the_zeros(which, sparse, tmp_path):
    model, images = given(which)
    path = tmp_path / "m.tflite"
    options = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if sparse else []
    model.export(path, format="litert", verbose=False, optimizations=options)
    run = Interpreter(model_path=str(path)).get_signature_runner()
    [found] = run(image=images).values()
    check_outputs(found)
    content = flatbuffer.read(path.read_bytes())
    [graph] = content.subgraphs
    assert sum(t.sparsity is not None for t in graph.tensors) == 5 * sparse
    check_zeros(litert_values(content, t) for t in graph.tensors)


def litert_values(content, tensor):
    """The values of a constant; if stored sparsely, not each at its place."""
    if tensor.sparsity is None:
        values = flatbuffer.data(content, tensor)
        return () if values is None else values
    stored = np.asarray(content.buffers[tensor.buffer].data, "uint8").view("float32")
    values = np.zeros(np.prod(tensor.shape))
    values[: len(stored)] = stored
    return values


def test_an_onnx_file_computes_the_same_and_keeps_the_zeros(tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    model, images = given("stripped")
    path = tmp_path / "m.onnx"
    model.export(path, format="onnx", verbose=False)
    [found] = onnxruntime.InferenceSession(path).run(None, {"image": images})
    check_outputs(found)
    check_zeros(map(onnx.numpy_helper.to_array, onnx.load(path).graph.initializer))


def test_an_openvino_file_computes_the_same_and_keeps_the_zeros(tmp_path):
    openvino = pytest.importorskip("openvino")
    model, images = given("stripped")
    path = str(tmp_path / "m.xml")
    model.export(path, format="openvino", verbose=False)
    # Processors that can compute in bfloat16 do so if not told otherwise.
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(path, "CPU", precision)
    check_outputs(compiled(images)[0])
    nodes = openvino.Core().read_model(path).get_ops()
    check_zeros(v.get_data() for v in nodes if v.get_type_name() == "Constant")


@functools.cache
def core_ml():
    ct = pytest.importorskip("coremltools")
    model, images = given("stripped")
    return ct.convert(
        model,
        source="tensorflow",
        inputs=[ct.TensorType("image", images.shape)],
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
    )


# Core ML runs on Apple's devices only. So its numbers are compared, not its outputs.
def test_a_core_ml_file_has_the_same_weights_and_keeps_the_zeros(tmp_path):
    path = str(tmp_path / "m.mlpackage")
    core_ml().save(path)
    import coremltools as ct

    loaded = ct.models.MLModel(path, skip_model_load=True)
    constants = ct.optimize.coreml.get_weights_metadata(loaded, weight_threshold=0)
    found = [v.val for v in constants.values() if v.val.dtype == "float32"]
    check_zeros(found)
    found, wanted = (
        np.sort(np.concatenate([np.ravel(v) for v in values]))
        for values in (found, folded(given("stripped")[0]))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_core_ml_stores_all_kernels_sparsely_on_demand():
    dense = core_ml()
    from coremltools.optimize import coreml

    config = coreml.OpThresholdPrunerConfig(threshold=1e-12, weight_threshold=0)
    sparse = coreml.prune_weights(dense, coreml.OptimizationConfig(config))
    [function] = sparse.get_spec().mlProgram.functions.values()
    [block] = function.block_specializations.values()
    kinds = [operation.type for operation in block.operations]
    assert kinds.count("constexpr_sparse_to_dense") == 5


def folded(model):
    """The weights of the network without batch normalization that does the same."""
    layers = iter([v for v in model.layers if v.weights])
    for layer in layers:
        kernel, *bias = layer.get_weights()
        if not bias:
            norm = next(layers)
            scale = norm.gamma / np.sqrt(norm.moving_variance + norm.epsilon)
            kernel *= scale[:, None] if isinstance(layer, L.DepthwiseConv2D) else scale
            bias = [norm.beta - norm.moving_mean * scale]
        yield from [kernel, *bias]
