"""Models by name: the package's own, those of Keras and KerasCV, and the user's."""

import functools
import importlib
import warnings
from collections.abc import Callable

import keras
import numpy as np
from absl import logging

from keras_prune_init import models
from keras_prune_init._files import regular

# Families of KerasCV and what is meant without a size.
FAMILIES = {
    "resnet": "ResNet50Backbone",
    "resnet_v2": "ResNet50V2Backbone",
    "mobilenet_v3": "MobileNetV3SmallBackbone",
    "efficientnet_v2": "EfficientNetV2B0Backbone",
    "densenet": "DenseNet121Backbone",
}


def make(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    weights: str | None = None,
    **arguments,
) -> keras.Model:
    """Make a model with logits as outputs; it is not compiled.

    Args:
        name: A function of `keras_prune_init.models`; `"keras_applications:NAME"` with
            a NAME such as `ResNet50`; `"keras_cv:NAME"` with a NAME such as `resnet_v2`
            or `ResNet18V2Backbone`, to which global pooling and a dense layer are
            added; or `"module:function"`.
        input_shape: Shape of one image.
        classes: Number of classes.
        weights: A file with weights to start from. Layers that do not fit, such as a
            classifier of other classes, keep their initial weights.
        **arguments: Other arguments of the function; `None` means its default.

    Raises:
        ValueError: If there is no such model, or the weights fit no layer.
        FileNotFoundError: If the file of weights does not exist.
        RuntimeError: If KerasCV must download something and cannot.
    """
    build = _function(name)
    if weights and not regular(weights).exists():
        raise FileNotFoundError(
            "`model.weights` is a file. Received: model.weights="
            f"{weights!r}, which does not exist. Check the path."
        )
    given = {k: v for k, v in arguments.items() if v is not None}
    try:
        model = build(input_shape=input_shape, classes=classes, **given)
    except TypeError as e:
        raise ValueError(
            "The arguments in `model` must be those of the model. Received: "
            f"model.name={name!r} with {given}, and Python says: {e}. Leave out what "
            "it does not take."
        ) from e
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model.name` must name a function that returns a keras.Model. Received: "
            f"model.name={name!r}, which returned {type(model).__name__}. "
            "Let it return one."
        )
    if weights:
        _load(model, weights)
    return model


def _function(name) -> Callable[..., keras.Model]:
    source, _, what = name.rpartition(":")
    if not source and what in models.__all__:
        return getattr(models, what)
    if source == "keras_applications":
        found = getattr(keras.applications, what, None) if what[:1].isupper() else None
        if found:
            return functools.partial(found, weights=None, classifier_activation=None)
    elif source == "keras_cv":
        return _keras_cv(name, what)
    elif source:
        try:
            return getattr(importlib.import_module(source), what)
        except (ImportError, AttributeError) as e:
            raise ValueError(
                "`model.name` module:function must be what Python can import. "
                f"Received: model.name={name!r}: {e}. Is the module on PYTHONPATH?"
            ) from e
    raise ValueError(
        f"`model.name` must be one of {', '.join(models.__all__)}, "
        "keras_applications:NAME with a NAME such as ResNet50, keras_cv:NAME, or "
        f"module:function. Received: model.name={name!r}. Choose one of them."
    )


def _keras_cv(name, what):
    try:
        import keras_cv
    except ImportError as e:
        raise ValueError(
            f"KerasCV is not installed. Received: model.name={name!r}. "
            "Run `pip install keras-cv`."
        ) from e
    except AttributeError as e:  # of `tf.keras`, which tfmot made Keras 2
        raise ValueError(
            "KerasCV, or this package, must be imported before "
            f"tensorflow_model_optimization. Received: model.name={name!r}, and Python "
            f"says: {e}. Import it first."
        ) from e
    cls = getattr(keras_cv.models, FAMILIES.get(what, what), None)
    if cls is None or not what.endswith("Backbone") and what not in FAMILIES:
        raise ValueError(
            f"`model.name` keras_cv:NAME must name one of {', '.join(FAMILIES)}, or a "
            f"class such as ResNet18V2Backbone. Received: model.name={name!r}. Choose "
            "one of them."
        )

    def with_classifier(input_shape, classes, **arguments):
        # The images are normalised already.
        arguments = {"include_rescaling": False, **arguments}
        try:
            backbone = cls(input_shape=input_shape, **arguments)
        except OSError as e:
            raise RuntimeError(
                "KerasCV downloads what its sized backbones consist of. Received: "
                f"model.name={name!r}, and no connection ({e}). Use a class without a "
                "size, such as keras_cv:ResNetV2Backbone, with its arguments."
            ) from e
        x = keras.layers.GlobalAveragePooling2D()(backbone.output)
        outputs = keras.layers.Dense(classes, name="logits")(x)
        return keras.Model(backbone.input, outputs, name=what.lower())

    return with_classifier


def _load(model, path):
    before = model.get_weights()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            model.load_weights(path, skip_mismatch=True)
        except Exception as e:  # whatever Keras and h5py meet in another kind of file
            raise ValueError(
                "`model.weights` must be a file .weights.h5, .keras or .h5 that Keras "
                f"wrote. Received: model.weights={path!r}, and Keras says: {e}. Save "
                "it again."
            ) from e
    for warning in told:
        logging.warning("%s: %s", path, warning.message)
    pairs = zip(before, model.get_weights(), strict=True)
    if all(np.array_equal(a, b) for a, b in pairs):
        raise ValueError(
            "`model.weights` must fit a layer of the model at least. Received: "
            f"model.weights={path!r} for {model.name}. Is it of another architecture?"
        )
    logging.info("Starting from the weights in %s", path)
