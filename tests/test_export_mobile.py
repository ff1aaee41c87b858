"""Whether XNNPACK runs a model sparsely: its rules, one by one."""

import importlib
import re
from functools import partial

import keras
import numpy as np
import pytest

import keras_prune_init as kpi
from keras_prune_init.export import convert, sparse

L = keras.layers


def stem(name="stem", channels=3, size=3, stride=2, padding="symmetric", pixels=32):
    """Inputs and the first convolution of a network."""
    x = inputs = keras.Input((pixels, pixels, channels))
    if padding == "symmetric":
        x, padding = L.ZeroPadding2D(size // 2)(x), "valid"
    return inputs, L.Conv2D(16, size, stride, padding, name=name)(x)


def block(x, name="a", size=3):
    """A 1x1, a depthwise and again a 1x1 convolution."""
    x = L.Conv2D(48, 1, activation="relu6", name=f"{name}_in")(x)
    x = L.DepthwiseConv2D(size, padding="same")(x)
    return L.Conv2D(16, 1, name=f"{name}_out")(x)


def head(x, name="logits", units=5):
    return L.Dense(units, name=name)(L.GlobalAveragePooling2D()(x))


def pruned(model, sparsity=0.9):
    return kpi.prune_at_init(
        model, method="random", sparsity=sparsity, filters="pointwise", verbose=0
    )


def accepted():
    inputs, x = stem()
    x = L.Add(name="add")([x, block(x)])
    x = L.Activation("hard_swish", name="swish")(x)
    return keras.Model(inputs, head(block(x, "b", 5)))


def short():
    inputs, x = stem()
    return keras.Model(inputs, head(block(x)))


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


# Stems that break a rule: what differs, and what is said.
STEMS = {
    "same": ({"padding": "same"}, r"'same'.*ZeroPadding2D\(1\)"),
    # It pads all sides, but XNNPACK works that out when the clusters are made already.
    "odd": ({"padding": "same", "pixels": 33}, r"'same'.*ZeroPadding2D\(1\)"),
    "gray": ({"channels": 1}, "3x3 with stride 2 on 3 channels"),
    "slow": ({"stride": 1}, "3x3 with stride 2"),
    "five": ({"size": 5}, "a 5x5 convolution"),
}
DEPTHWISE = partial(L.DepthwiseConv2D, 3, padding="same")
# Layers that break a rule between two 1x1 convolutions.
BETWEEN = {
    "wide": (partial(DEPTHWISE, dilation_rate=2), "use dilation_rate=1"),
    "down": (partial(DEPTHWISE, strides=2), r"use ZeroPadding2D\(1\) and 'valid'"),
    "two": (partial(DEPTHWISE, depth_multiplier=2), "depth multiplier 2; use 1"),
    "seven": (
        partial(L.DepthwiseConv2D, 7, padding="same"),
        "a depthwise 7x7 convolution",
    ),
    "convolution": (partial(L.Conv2D, 16, 1, groups=4), "use groups=1"),
    "step": (partial(L.Conv2D, 16, 1, 2), "1x1 convolution with stride 2x2"),
    "max": (L.MaxPooling2D, "MAX_POOL_2D has no sparse counterpart"),
    "three": (
        partial(L.Conv2D, 16, 3, padding="same"),
        "only 1x1 convolutions run sparse",
    ),
}
ENDS = {
    "unstemmed": "must come after a 3x3 convolution with stride 2",
    "last": "an output of the model",
    "flat": "RESHAPE has no sparse counterpart",
}


def against_all_rules():
    """A network for each of `STEMS`, one without, and a chain of all of `BETWEEN`."""
    inputs, outputs = [], []
    for name, (options, _) in STEMS.items():
        first, x = stem(name, **options)
        inputs.append(first)
        outputs.append(L.GlobalAveragePooling2D()(L.Conv2D(8, 1)(x)))
    inputs.append(keras.Input((16, 16, 16)))
    x = L.Conv2D(8, 1, name="unstemmed")(inputs[-1])
    outputs.append(L.GlobalAveragePooling2D()(x))
    first, x = stem()
    for name, (layer, _) in BETWEEN.items():
        x = layer(name=name)(L.Conv2D(16, 1)(x))
    x = L.Conv2D(8, 1, name="last")(x)
    outputs += [x, L.Dense(5)(L.Flatten(name="flat")(x))]
    return keras.Model([*inputs, first], outputs)


def test_every_layer_that_breaks_a_rule_is_named():
    found = kpi.mobile_check(against_all_rules())
    assert not found.runs_sparse and not found.cluster
    assert "every cluster of 1x1 convolutions is broken up" in found.reasons[0]
    rules = {name: rule for name, (_, rule) in (STEMS | BETWEEN).items()} | ENDS
    for layer, rule in rules.items():
        said = [r for name, r in found.blocking if name == layer]
        assert any(re.search(rule, r) for r in said), (layer, found.blocking)
    assert {layer for layer, _ in found.blocking} == set(rules)


def test_vectors_that_leave_a_cluster_break_it_up_only_if_it_goes_on():
    inputs, outputs = [], []
    for name in ("ends", "goes_on"):
        first, x = stem(f"{name}_stem")
        x = head(L.Conv2D(16, 1)(x), f"{name}_one", 300)
        inputs.append(first)
        outputs.append(L.Dense(5)(x))
    outputs.append(L.Dense(2)(L.Softmax(name="more")(x)))
    found = kpi.mobile_check(keras.Model(inputs, outputs))
    assert [layer for layer, _ in found.blocking] == ["more"]
    assert {"ends_stem", "ends_one"} < set(found.cluster)
    assert not {"goes_on_stem", "goes_on_one"} & set(found.cluster)


def test_two_thirds_of_the_weights_must_be_zeros():
    """0.75 of them are enough, above."""
    found = kpi.mobile_check(pruned(short(), 0.66))
    assert not found.runs_sparse and not found.blocking
    assert any("more than 66.7% are needed" in r for r in found.reasons)


def test_file_is_judged_as_what_it_is(tmp_path):
    model = pruned(short())
    cluster = kpi.mobile_check(model).cluster
    assert {"stem", "a_in", "a_out", "logits"} < set(cluster)
    folder = str(tmp_path / "saved")
    convert.save(convert.plain(model), folder)
    data = np.random.default_rng(0).normal(size=(10, 1, 32, 32, 3)).astype("float32")
    samples = lambda: ({model.inputs[0].name: x} for x in data)  # noqa: E731
    path = tmp_path / "m.tflite"
    for precision in convert.PRECISIONS:
        content = convert.convert(folder, precision, samples)
        path.write_bytes(sparse.encode(content)[0])
        found = kpi.mobile_check(path)
        assert found.cluster == cluster
        if precision == "int8":
            assert not found.runs_sparse
            assert any("float only" in r for r in found.reasons)
            continue
        assert found.runs_sparse
        path.write_bytes(content)
        dense = kpi.mobile_check(path)
        assert not dense.runs_sparse
        missing = "no kernel is stored as a sparse tensor"
        assert any(missing in r for r in dense.reasons)


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
    found = kpi.mobile_check(pruned(ended(whole, "conv_pw_2_relu", *end)))
    assert not found.runs_sparse
    padded, end = found.blocking[:2], found.blocking[2:]
    assert [layer for layer, _ in padded] == ["conv1", "conv_pad_2"]
    assert all("use ZeroPadding2D(1)" in rule for _, rule in padded)
    assert ("flat", "RESHAPE has no sparse counterpart") in end


@pytest.mark.parametrize(
    ("version", "layers"),
    [
        (1, {"block0_conv", "block1_depthwise", "block1_conv"}),
        (2, {"block0_add", "block1_depthwise", "block2_add", "head_conv"}),
    ],
)
def test_mobilenets_of_the_package_run_sparse(version, layers, monkeypatch):
    module = importlib.import_module("keras_prune_init.models.mobilenet")
    blocks = getattr(module, f"V{version}")
    monkeypatch.setattr(module, f"V{version}", blocks[:2])  # the others are like them
    model = kpi.models.mobilenet((32, 32, 3), 2, version=version, alpha=0.25)
    found = kpi.mobile_check(pruned(model))
    assert found.runs_sparse and not found.blocking
    assert (found.cluster[0], found.cluster[-1]) == ("stem_conv", "logits")
    assert layers < set(found.cluster)


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
