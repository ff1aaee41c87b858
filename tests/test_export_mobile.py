"""Whether XNNPACK runs a model sparsely: its rules, one by one."""

import re
from functools import partial

import keras
import numpy as np
import pytest

import keras_prune_init as kpi

L = keras.layers


def stem(channels=3, size=3, stride=2, padding="symmetric", pixels=32):
    """Inputs and the first convolution of a network."""
    inputs = keras.Input((pixels, pixels, channels))
    x = inputs
    if padding == "symmetric":
        x, padding = L.ZeroPadding2D(size // 2, name="pad")(x), "valid"
    return inputs, L.Conv2D(16, size, stride, padding, name="stem")(x)


def block(x, name="a", depthwise=None, **options):
    """A 1x1, a depthwise and again a 1x1 convolution."""
    x = L.Conv2D(48, 1, activation="relu6", name=f"{name}_in", **options)(x)
    x = (depthwise or L.DepthwiseConv2D(3, padding="same"))(x)
    return L.Conv2D(16, 1, name=f"{name}_out")(x)


def head(inputs, x):
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, L.Dense(5, name="logits")(x))


def pruned(model, sparsity=0.9):
    return kpi.prune_at_init(
        model, method="random", sparsity=sparsity, filters="pointwise", verbose=0
    )


def accepted():
    inputs, x = stem()
    x = L.Add(name="add")([x, block(x)])
    x = L.Activation("hard_swish", name="swish")(x)
    return head(inputs, block(x, "b", L.DepthwiseConv2D(5, padding="same")))


def test_network_of_allowed_layers_runs_sparse():
    model = pruned(accepted(), 0.75)
    found = kpi.mobile_check(model)
    assert found.runs_sparse and not found.blocking and not found.reasons
    assert found.cluster[0] == "stem" and found.cluster[-1] == "logits"
    assert {"a_in", "a_out", "add", "b_in", "b_out"} < set(found.cluster)
    # Four kernels of 16 x 48, and the classifier's 16 x 5, which has no zeros.
    assert found.weights == 4 * 16 * 48 + 16 * 5
    zeros = kpi.report(model).total - kpi.report(model).kept
    assert found.zeros == pytest.approx(zeros / found.weights)
    assert str(found).startswith("sparse kernels run\n")


def broken(**changes):
    """The network above, except for one thing."""
    inputs, x = stem(**changes)
    return head(inputs, block(x))


def chain():
    """Layers of all kinds that break a rule, one after the other, and two outputs."""
    inputs, x = stem()
    depthwise = partial(L.DepthwiseConv2D, 3, padding="same")
    x = block(x, "a", depthwise(dilation_rate=2, name="wide"))
    x = block(x, "b", depthwise(strides=2, name="down"))
    x = block(x, "c", depthwise(depth_multiplier=2, name="two"))
    x = block(x, "d", L.DepthwiseConv2D(7, padding="same", name="seven"))
    x = block(L.Conv2D(16, 1, groups=4, name="groups")(x), "e")
    x = block(x, "f", strides=2)
    x = L.MaxPooling2D(name="max")(x)
    x = block(L.Conv2D(16, 3, padding="same", name="three")(x), "g")
    return keras.Model(inputs, [x, L.Dense(5)(L.Flatten(name="flat")(x))])


CHAIN = [
    ("wide", "use dilation_rate=1"),
    ("down", r"use ZeroPadding2D\(1\) and 'valid'"),
    ("two", "depth multiplier 2; use 1"),
    ("seven", "a depthwise 7x7 convolution"),
    ("convolution", "use groups=1"),
    ("f_in", "1x1 convolution with stride 2x2"),
    ("max", "MAX_POOL_2D has no sparse counterpart"),
    ("three", "only 1x1 convolutions run sparse"),
    ("g_out", "an output of the model"),
    ("flat", "RESHAPE has no sparse counterpart"),
]


def test_every_layer_of_a_network_that_breaks_a_rule_is_named():
    found = kpi.mobile_check(pruned(chain()))
    assert not found.runs_sparse
    for layer, rule in CHAIN:
        rules = [r for name, r in found.blocking if name == layer]
        assert any(re.search(rule, r) for r in rules), (layer, found.blocking)
    assert {layer for layer, _ in found.blocking} == {layer for layer, _ in CHAIN}


def no_stem():
    inputs = keras.Input((16, 16, 16))
    return head(inputs, block(inputs))


@pytest.mark.parametrize(
    ("build", "layer", "rule"),
    [
        (
            partial(broken, padding="same"),
            "stem",
            r"'same'.*ZeroPadding2D\(1\)",
        ),
        (partial(broken, channels=1), "stem", "3x3 with stride 2 on 3 channels"),
        (partial(broken, stride=1), "stem", "3x3 with stride 2"),
        (partial(broken, size=5), "stem", "a 5x5 convolution"),
        (no_stem, "a_in", "must come after a 3x3 convolution with stride 2"),
    ],
)
def test_layer_that_breaks_a_rule_is_named(build, layer, rule):
    found = kpi.mobile_check(pruned(build()))
    assert not found.runs_sparse
    rules = [r for name, r in found.blocking if name == layer]
    assert rules, found.blocking
    assert any(re.search(rule, r) for r in rules), rules


def test_same_padding_with_a_stride_is_refused_even_where_it_pads_all_sides():
    """XNNPACK works it out when the clusters are made already."""
    found = kpi.mobile_check(pruned(broken(padding="same", pixels=33)))
    assert not found.runs_sparse


def test_vectors_that_leave_a_cluster_break_it_up_only_if_it_goes_on():
    def model(**outputs):
        inputs, x = stem()
        x = L.GlobalAveragePooling2D(name="pool")(block(x))
        x = L.Dense(300, name="one")(x)
        more = [L.Dense(2)(f(x)) for f in outputs.values()]
        return keras.Model(inputs, [L.Dense(5)(x), *more])

    assert kpi.mobile_check(pruned(model(), 0.97)).blocking == []
    found = kpi.mobile_check(pruned(model(more=L.Softmax(name="more")), 0.97))
    assert [layer for layer, _ in found.blocking] == ["more"]


def test_two_thirds_of_the_weights_must_be_zeros():
    """0.75 of them are enough, above."""
    found = kpi.mobile_check(pruned(accepted(), 0.66))
    assert not found.runs_sparse and not found.blocking
    assert any("more than 66.7% are needed" in r for r in found.reasons)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_file_is_judged_as_what_it_is(precision, tmp_path):
    model = pruned(accepted())
    data = np.random.default_rng(0).normal(size=(10, 32, 32, 3)).astype("float32")
    options = {"precision": precision, "representative_data": data, "check": False}
    report = kpi.export_tflite(model, tmp_path / "s.tflite", **options)
    found = kpi.mobile_check(tmp_path / "s.tflite")
    assert found == report.mobile
    assert found.cluster == kpi.mobile_check(model).cluster
    assert found.runs_sparse == (precision != "int8")
    if precision == "int8":
        assert any("float only" in r for r in found.reasons)
        return
    kpi.export_tflite(model, tmp_path / "d.tflite", sparse=False, **options)
    dense = kpi.mobile_check(tmp_path / "d.tflite")
    assert not dense.runs_sparse
    assert any("no kernel is stored as a sparse tensor" in r for r in dense.reasons)


def ended(model, block, *layers):
    """The first blocks of a network, with an end as that of all."""
    x = model.get_layer(block).output
    for layer in layers:
        x = layer(x)
    return keras.Model(model.inputs, x)


def test_mobilenet_of_keras_does_not_run_sparse():
    whole = keras.applications.MobileNet(
        weights=None, input_shape=(64, 64, 3), alpha=0.25, classes=10
    )
    ends = "global_average_pooling2d", "dropout", "conv_preds", "reshape_2"
    names = [v.name for v in whole.layers]
    assert [n for n in names if n.startswith(ends)] == names[-5:-1]
    end = L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(10, 1)
    end = *end, L.Reshape((10,), name="flat"), L.Softmax()
    found = kpi.mobile_check(pruned(ended(whole, "conv_pw_3_relu", *end)))
    assert not found.runs_sparse
    padded, end = found.blocking[:2], found.blocking[2:]
    assert [layer for layer, _ in padded] == ["conv1", "conv_pad_2"]
    assert all("use ZeroPadding2D(1)" in rule for _, rule in padded)
    assert ("flat", "RESHAPE has no sparse counterpart") in end


def test_mobilenet_v2_of_the_package_runs_sparse():
    """The first version does in test_export_binary.py, as a file."""
    whole = kpi.models.mobilenet((32, 32, 3), version=2, alpha=0.25)
    end = L.GlobalAveragePooling2D(), L.Dense(10, name="logits")
    found = kpi.mobile_check(pruned(ended(whole, "block4_add", *end)))
    assert found.runs_sparse and not found.blocking
    assert (found.cluster[0], found.cluster[-1]) == ("stem_conv", "logits")
    assert {"block0_add", "block3_depthwise", "block4_add"} < set(found.cluster)


def test_network_without_1x1_convolutions_is_told_so():
    found = kpi.mobile_check(kpi.models.mlp((5,), 3))
    assert found.reasons == ["there is no 1x1 convolution; only those run sparse"]


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        kpi.mobile_check(tmp_path / "none.tflite")


def test_pointwise_filter_takes_1x1_convolutions_of_images_only():
    inputs, x = stem()
    x = L.GlobalAveragePooling2D(keepdims=True)(block(x))
    x = L.Conv2D(5, 1, name="classifier")(x)
    report = kpi.report(pruned(keras.Model(inputs, x)))
    assert [t.path for t in report.tensors] == ["a_in/kernel", "a_out/kernel"]
