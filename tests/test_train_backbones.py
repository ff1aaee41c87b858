"""Models that the training binary knows by name."""

import keras
import numpy as np
import pytest

import keras_prune_init as kpi
from keras_prune_init.train import networks


def own(input_shape, classes, units=4):
    """For `module:function`."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(units, "relu")]
    return keras.Sequential(
        [keras.Input(input_shape), *layers, keras.layers.Dense(classes)]
    )


def no_model(input_shape, classes):
    return None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mlp", {"depth": 2, "width": None}),
        ("keras_applications:MobileNetV2", {"alpha": 0.35}),
        (
            "keras_cv:ResNetV2Backbone",
            {
                "stackwise_filters": [16, 32],
                "stackwise_blocks": [2, 2],
                "stackwise_strides": [1, 2],
            },
        ),
        ("test_train_backbones:own", {"units": 6}),
    ],
)
def test_named_models_give_logits_and_can_be_pruned(name, arguments):
    model = networks.make(name, (32, 32, 3), 5, **arguments)
    assert model.output_shape == (None, 5)
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    outputs = np.asarray(model(x))
    assert not np.allclose(outputs.sum(1), 1)  # no softmax
    report = kpi.report(kpi.prune_at_init(model, None, "magnitude", sparsity=0.9))
    assert report.kept == report.total - int(0.9 * report.total)


@pytest.mark.parametrize("family", networks.FAMILIES)
def test_families_of_keras_cv_need_a_download(family, monkeypatch):
    """What cannot run here: their configurations come from Kaggle."""
    import keras_cv

    name = networks.FAMILIES[family]
    preset = getattr(keras_cv.models, name)

    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(preset.__mro__[1], "from_preset", offline)
    with pytest.raises(RuntimeError, match="Use a class without a size"):
        networks.make(f"keras_cv:{family}", (32, 32, 3), 5)


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_weights_are_loaded_where_they_fit(ending, tmp_path, caplog):
    model = own((8, 8, 1), 5)
    path = str(tmp_path / f"model{ending}")
    model.save_weights(path) if ending == ".weights.h5" else model.save(path)
    name = "test_train_backbones:own"
    same = networks.make(name, (8, 8, 1), 5, weights=path)
    for a, b in zip(model.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other = networks.make(name, (8, 8, 1), 3, weights=path)
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])
    assert other.output_shape == (None, 3)
    assert "dense" in caplog.text  # what does not fit is named


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet21", {}, "must be one of .*resnet21"),
        ("keras_applications:resnet50", {}, "such as ResNet50"),
        ("keras_cv:resnet_v9", {}, "must name one of resnet, .*resnet_v9"),
        ("keras_cv:losses", {}, "such as ResNet18V2Backbone"),
        ("no_such_module:make", {}, "No module named 'no_such_module'"),
        ("test_train_backbones:missing", {}, "Is the module on PYTHONPATH"),
        ("test_train_backbones:no_model", {}, "returned NoneType"),
        ("mlp", {"alpha": 2}, "must be those of the model.*alpha"),
    ],
)
def test_unknown_models_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        networks.make(name, (8, 8, 3), 5, **arguments)


def test_wrong_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        networks.make("mlp", (8, 8, 1), 5, weights=str(tmp_path / "none.weights.h5"))
    path = str(tmp_path / "other.weights.h5")
    own((4, 4, 1), 2, units=3).save_weights(path)
    with pytest.raises(ValueError, match="of another architecture"):
        networks.make("test_train_backbones:own", (8, 8, 1), 5, weights=path)
