"""Stable ResNet: which branches are scaled, by how much, and that nothing else is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp, subclassed
from keras.src.applications import efficientnet
from shrinking import NETWORKS

import keras_prune_init as kpi
from keras_prune_init.layers.walk import flatten


def scalings(model):
    return [
        layer
        for layer in flatten(model)
        if isinstance(layer, L.Rescaling) and "_stable" in layer.name
    ]


def keras_cv_backbone():
    import keras_cv

    backbone = keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[4],
        stackwise_blocks=[2],
        stackwise_strides=[1],
        input_shape=(32, 32, 3),
        include_rescaling=False,
    )
    layers = [backbone, L.GlobalAveragePooling2D(), L.Dense(3)]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers])


def efficientnet_start():
    """With the first blocks of EfficientNetB0."""
    return efficientnet.EfficientNet(
        **{"width_coefficient": 0.5, "depth_coefficient": 1, "default_size": 32},
        **{"blocks_args": efficientnet.DEFAULT_BLOCKS_ARGS[:3], "name": "start"},
        **{"weights": None, "input_shape": (32, 32, 3), "classes": 5},
    )


def by_operator():
    x = inputs = keras.Input((4,))
    for _ in range(3):
        x = x + L.Dense(4, "tanh")(x)
    return keras.Model(inputs, x)


def nested():
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, inner_in + L.Dense(4)(inner_in))
    x = inputs = keras.Input((4,))
    x = L.Add()([inner(x), L.Dense(4)(L.Dense(4)(x))])
    return keras.Model(inputs, x)


class Residual(keras.Model):
    """Functional, by a constructor of its own; its input has no name of its own."""

    def __init__(self):
        x = inputs = L.Rescaling(0.5)(keras.Input((4,)))
        for _ in range(2):
            x = L.Add()([x, L.Dense(4)(L.Dense(4)(x))])
        super().__init__(inputs, x)


def augmented():
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same")(L.RandomRotation(0.1)(L.RandomFlip()(x)))
    for _ in range(2):
        x = L.Add()([x, L.Conv2D(4, 3, padding="same", activation="relu")(x)])
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def channels_first():
    x = inputs = keras.Input((3, 8, 8))
    options = {"padding": "same", "data_format": "channels_first"}
    x = L.Conv2D(4, 3, **options)(x)
    for _ in range(2):
        x = L.Add()([x, L.BatchNormalization(1)(L.Conv2D(4, 3, **options)(x))])
    x = L.GlobalAveragePooling2D(data_format="channels_first")(x)
    return keras.Model(inputs, L.Dense(3)(x))


MODELS = {
    "resnet": (lambda: kpi.models.resnet((8, 8, 3), depth=8, width=4), 3),
    "inverted": (NETWORKS["inverted"], 1),
    "efficientnet": (efficientnet_start, 2),
    "keras_cv": (keras_cv_backbone, 2),
    "operators": (by_operator, 3),
    "nested": (nested, 2),
    "own_constructor": (Residual, 2),
    "augmented": (augmented, 2),
    "channels_first": (channels_first, 2),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_branch_is_scaled_and_nothing_else_changes(name):
    build, blocks = MODELS[name]
    model = build()
    before = model.get_weights()
    stable = kpi.stabilize(model)
    layers = scalings(stable)
    assert len(layers) == blocks
    np.testing.assert_allclose([v.scale for v in layers], blocks**-0.5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    x = batch(model, 2)[0]
    if name not in ("inverted", "efficientnet"):  # flat to float32 before training
        assert np.abs(model(x) - stable(x)).max() > 0
    for layer in layers:
        layer.scale = 1.0
    np.testing.assert_array_equal(model(x), stable(x))
    paths = {v.path for v in model.weights if "/" in v.path}
    assert {v.path.removeprefix(f"{model.name}/") for v in stable.weights} == {
        p.removeprefix(f"{model.name}/") for p in paths
    }


def test_the_numbers_of_a_net_computed_by_hand():
    x = inputs = keras.Input((1,))
    for _ in range(4):
        branch = L.Dense(1, use_bias=False, kernel_initializer="ones")(x)
        x = L.Add()([x, branch])
    model = keras.Model(inputs, x)
    one = np.ones((1, 1))
    assert model(one).numpy().item() == 2**4
    # x <- x + x / 2, four times
    assert kpi.stabilize(model)(one).numpy().item() == pytest.approx(1.5**4)
    decreasing = np.prod(
        [1 + 1 / np.sqrt(k * np.log(k + 1) ** 2) for k in (1, 2, 3, 4)]
    )
    found = kpi.stabilize(model, "decreasing")(one).numpy().item()
    assert found == pytest.approx(decreasing, rel=1e-6)


@pytest.mark.parametrize("name", ["keras_cv", "nested"])
def test_a_stable_model_saves_and_loads(name, tmp_path):
    stable = kpi.stabilize(MODELS[name][0]())
    stable.save(tmp_path / "stable.keras")
    loaded = keras.models.load_model(tmp_path / "stable.keras")
    x = batch(stable, 2)[0]
    np.testing.assert_array_equal(stable(x), loaded(x))


def test_a_stable_model_converts_to_tflite_and_computes_the_same(tmp_path):
    stable = kpi.stabilize(by_operator())
    stable.export(tmp_path / "saved", verbose=False)
    content = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "saved")
    ).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    x = batch(stable, 1)[0]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(output, stable(x), atol=1e-5)


def test_mixed_precision_and_compilation_are_kept():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = augmented()
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("sgd", "mse")
    stable = kpi.stabilize(model)
    assert stable.compiled
    assert {layer.compute_dtype for layer in scalings(stable)} == {"bfloat16"}


def test_synflow_of_a_deep_stable_model_stays_in_float32():
    deep = kpi.models.resnet((4, 4, 3), depth=32, width=16, stable=True)
    scores = kpi.score(deep, None, kpi.methods.SynFlow(iterations=1))
    assert {s.dtype for s in scores.values()} == {np.dtype("float32")}
    assert all(np.isfinite(s).all() for s in scores.values())


def test_a_pruned_model_can_be_stabilized_too():
    pruned = kpi.prune_at_init(by_operator(), None, "magnitude", sparsity=0.5)
    stable = kpi.stabilize(pruned)
    assert len(scalings(stable)) == 3
    assert kpi.report(stable).kept == kpi.report(pruned).kept


def test_what_cannot_be_stabilized_is_refused():
    with pytest.raises(ValueError, match="no residual additions. Use it on residual"):
        kpi.stabilize(mlp())
    with pytest.raises(ValueError, match="Sequential and Functional.*subclassed"):
        kpi.stabilize(subclassed())
    model = by_operator()
    with pytest.raises(ValueError, match="scaled once"):
        kpi.stabilize(kpi.stabilize(model))
    with pytest.raises(ValueError, match="'uniform', 'decreasing'.*Received: .*'both'"):
        kpi.stabilize(model, "both")
