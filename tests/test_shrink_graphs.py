"""Any graph computes the same when it is shrunk."""

import re

import keras
import numpy as np
import pytest
from helpers import L
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shrinking import assert_same, data, float64, randomized

import keras_prune_init as kpi
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.surgery import rebuild

pytestmark = pytest.mark.usefixtures(float64.__name__)

LEAST = kpi.Allocation("global", min_per_layer=1)
OPERATIONS = {
    "conv": lambda n: L.Conv2D(n, 3, padding="same", activation="relu"),
    "valid": lambda n: L.Conv2D(n, 3, use_bias=False),
    "pointwise": lambda n: L.Conv2D(n, 1, activation="tanh"),
    "depthwise": lambda n: L.DepthwiseConv2D(
        3, padding="same", depth_multiplier=1 + n % 2
    ),
    "norm": lambda n: L.BatchNormalization(),
    "relu": lambda n: L.ReLU(),
    "sigmoid": lambda n: L.Activation("sigmoid"),
    "pad": lambda n: L.ZeroPadding2D(1),
    "pool": lambda n: L.MaxPooling2D(2, strides=1, padding="same"),
    "softmax": lambda n: L.Softmax(),
    "dropout": lambda n: L.Dropout(0.2),
}


@st.composite
def graphs(draw):
    inputs = keras.Input((5, 5, 3))
    made = [inputs]
    for _ in range(draw(st.integers(2, 9))):
        x = made[draw(st.integers(max(len(made) - 3, 0), len(made) - 1))]
        same = [v for v in made if v.shape == x.shape and v is not x]
        like = [v for v in made if v.shape[:-1] == x.shape[:-1] and v is not x]
        kinds = [k for k in OPERATIONS if k != "valid" or x.shape[1] > 3]
        kinds += ["add", "multiply"] * bool(same) + ["concatenate"] * bool(like)
        kind = draw(st.sampled_from(kinds))
        if kind in ("add", "multiply"):
            layer = L.Add() if kind == "add" else L.Multiply()
            x = layer([x, draw(st.sampled_from(same))])
        elif kind == "concatenate":
            x = L.Concatenate()([x, draw(st.sampled_from(like))])
        else:
            x = OPERATIONS[kind](draw(st.integers(1, 5)))(x)
        made.append(x)
    x = L.Flatten()(x) if draw(st.booleans()) else L.GlobalAveragePooling2D()(x)
    x = L.Dense(4, "relu")(x)
    model = randomized(keras.Model(inputs, L.Dense(3)(x)), draw(st.integers(0, 99)))
    return model, draw(st.floats(0.3, 0.97)), draw(st.integers(0, 99))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(graphs())
def test_any_graph_computes_the_same(graph):
    model, sparsity, seed = graph
    pruned = kpi.prune_at_init(model, None, "random", sparsity=sparsity, seed=seed)
    small = kpi.shrink(pruned)
    assert_same(pruned, small, data(model)[0])
    assert kpi.cost(small).weights <= kpi.cost(pruned).weights + 40


@settings(max_examples=12, deadline=None, derandomize=True)
@given(graphs())
def test_without_channels_any_graph_computes_what_it_did_without_their_weights(graph):
    model, sparsity, seed = graph
    kernels = find_kernels(model)
    try:
        units = kpi.Channels().units(model, kernels, sparsity, LEAST)
        scores = np.random.default_rng(seed).random(len(units.groups.all()))
        masks = units.choose({"channels": scores}, None, lambda s: s)
    except ValueError as e:  # no channel can go, or not so many
        assume("must have channels" not in str(e))
        [possible] = re.findall("that works is ([0-9.]+)", str(e))
        masks = units.choose({"channels": scores}, None, lambda s: float(possible))
    small = units.cut(model, masks)
    masked = rebuild.wrap(model, kernels)
    rebuild.set_masks(masked, kernels, masks)
    assert_same(masked, small, data(model)[0])
    kept = units.groups.cost_of(units.groups.kept(masks))
    assert sum(k.total for k in kpi.cost(small).kernels) == kept
