"""Whatever public functions are given, they work, or say what is wrong.

With --hypothesis-profile=long there are more than twenty times as many examples.
"""

import inspect
import re
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_prune_init as kpi
from keras_prune_init import methods
from keras_prune_init.layers import types

pytestmark = pytest.mark.usefixtures("eagerly")
L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
Y = np.arange(64) % 3


def network():
    layers = [L.Dense(10, "relu", name="a"), L.Dense(3, name="b")]
    return keras.Sequential([keras.Input((8,)), *layers])


class Uncalled(keras.Model):
    """Without a `call`."""


class Mine(kpi.Method):
    needs_data = False

    def scores(self, network, weights):
        return weights


class MyLayer(L.Layer):
    """To be registered."""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Functions, and for each all of its arguments with values that work."""
    folder = tmp_path_factory.mktemp("files")
    model = network()
    pruned = kpi.prune_at_init(model, None, "magnitude", verbose=0)
    scores = kpi.score(model, None, "magnitude", verbose=0)
    file = folder / "model.tflite"
    kpi.export_tflite(pruned, file, check=False)
    field, initial = kpi.mean_field, kpi.initializers
    phase = {"activation": "tanh", "sigma_w": 1.3, "sigma_b": 0.2}
    image = {"input_shape": (32, 32, 3), "classes": 3}
    given = {
        kpi.prune_at_init: {"model": model, "dataset": (X, Y), "verbose": 0},
        kpi.score: {"model": model, "dataset": (X, Y), "verbose": 0},
        kpi.select: {"scores": scores, "sparsity": 0.5},
        kpi.critical_sparsity: {"scores": scores},
        **{
            function: {"model": pruned}
            for function in (
                *(kpi.cost, kpi.report, kpi.strip, kpi.shrink, kpi.rescale),
                *(kpi.enable_workers, kpi.singular_values, initial.reinitialize),
            )
        },
        kpi.stabilize: {"model": model},
        kpi.shrink_report: {"model": pruned, "small": pruned, "repeats": 1},
        kpi.to_layout: {"model": pruned, "layout": "compact"},
        kpi.signal_report: {"model": pruned, "batch": (X, Y)},
        kpi.approximate_isometry: {"pruned": pruned, "steps": 1, "verbose": 0},
        kpi.mobile_check: {"model": file},
        kpi.export_tflite: {"model": pruned, "path": folder / "a.tflite"},
        kpi.get_method: {"name": "snip"},
        kpi.register_method: {"name": "new", "cls": Mine},
        kpi.register_layer: {"cls": MyLayer, "kernels": ["kernel"]},
        kpi.MaskedLayer: {"layer": L.Dense(3)},
        kpi.CompactLayer: {"layer": L.Dense(3)},
        field.edge_of_chaos: {"activation": "tanh"},
        field.variance_map: {**phase, "q": 1.0},
        field.fixed_variance: phase,
        field.chi: phase,
        field.correlation_map: {**phase, "c": 0.5},
        field.depth_scales: phase,
        field.critical_sparsity_bound: {"chi": 0.5, "depth": 9, "width": 9},
        kpi.models.mlp: {**image, "depth": 3},
        kpi.models.cnn: image,
        kpi.models.vgg: {**image, "depth": 11, "width": 2},
        kpi.models.vcnn: {**image, "depth": 3, "width": 2},
        kpi.models.resnet: {**image, "depth": 8, "width": 2},
        kpi.models.wide_resnet: {**image, "depth": 10, "widening": 1},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where any text is a path that may be written to
        yield {f: all_arguments(f) | values for f, values in given.items()}


def all_arguments(function):
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {p.name: None if p.default is p.empty else p.default for p in named}


# Made for each call: some are used up, or built, by it.
THINGS = {
    "array": lambda: np.ones((3, 4)),
    "array of text": lambda: np.array(["a", "b"]),
    "array of one": lambda: np.float32(0.5),
    "integer of numpy": lambda: np.int64(2),
    "tensor": lambda: tf.constant(1.0),
    "model": network,
    "model without input": lambda: keras.Sequential([L.Dense(3)]),
    "model without call": Uncalled,
    "layer": lambda: L.Dense(3),
    "dataset": lambda: tf.data.Dataset.range(3),
    "empty iterator": lambda: iter(()),
    "function of nothing": lambda: lambda: 0,
    "function of anything": lambda: lambda *_, **__: None,
    "class": lambda: int,
    "object": object,
    "four arrays": lambda: (X, Y, Y, Y),
    "inputs in a dict": lambda: {"x": X},
}
JUNK = st.one_of(
    st.sampled_from(sorted(THINGS)).map(lambda name: (name, THINGS[name])),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 40),  # a network of a million layers is no error, and slow
        st.just(10**30),
        st.floats(),
        st.floats(-1, 2),
        st.complex_numbers(),
        st.binary(max_size=3),
        st.text(max_size=5).filter(lambda text: "/" not in text),
        st.sampled_from(["snip", "global", "channel", "2:4", "eoc", "[", ".*"]),
        st.lists(st.one_of(st.integers(-2, 40), st.text(max_size=3)), max_size=3),
        st.dictionaries(st.text(max_size=3), st.integers(-2, 40), max_size=2),
    ).map(lambda value: (repr(value), lambda: value)),
)
# The rule, what was received, and a sentence on how to mend it.
SAID = re.compile(r"(?s).{15,}Received: .+[.)\]}'\"?] [A-Z1`(].+")


@given(data=st.data())
def test_every_call_works_or_says_what_is_wrong(calls, data):
    functions = sorted(calls, key=lambda f: f.__name__)
    function = data.draw(st.sampled_from(functions), "function")
    name = data.draw(st.sampled_from(sorted(calls[function])), "argument")
    text, make = data.draw(JUNK, "value")
    with mock.patch.dict(methods._METHODS), mock.patch.dict(types.TYPES):
        try:
            function(**{**calls[function], name: make()})
        except (ValueError, TypeError, FileNotFoundError) as e:
            assert SAID.fullmatch(str(e)), f"{function.__name__}({name}={text}): {e}"
