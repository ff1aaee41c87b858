"""Scores and masks against those that the methods' published code makes, float64.

`golden/*.npz` holds weights, a batch, and scores and masks by the authors' code: keys
`MODE/QUANTITY/LAYER`, MODE being the batch-norm mode while scoring.
"""

import functools
import pathlib

import keras
import numpy as np
import pytest
from helpers import L

import keras_prune_init as kpi

FOLDER = pathlib.Path(__file__).parent / "golden"
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
CASES = [
    ("mlp_tanh", "eval"),
    ("cnn_relu", "eval"),
    ("resnet_bn_fresh", "eval"),
    ("resnet_bn_fresh", "train"),
]


def mlp_tanh(dtype):
    return keras.Sequential(
        [
            keras.Input((20,), dtype=dtype),
            L.Dense(32, "tanh", use_bias=False, name="fc1"),
            L.Dense(32, "tanh", use_bias=False, name="fc2"),
            L.Dense(5, use_bias=False, name="fc3"),
        ]
    )


def cnn_relu(dtype):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), dtype=dtype),
            L.Conv2D(6, 3, padding="same", activation="relu", name="conv1"),
            L.Conv2D(8, 3, activation="relu", name="conv2"),
            L.Flatten(),
            L.Dense(5, name="fc"),
        ]
    )


def resnet_bn_fresh(dtype):
    def conv(x, name, filters, size=3, strides=1):
        x = L.ZeroPadding2D(1)(x) if size == 3 else x
        return L.Conv2D(filters, size, strides, use_bias=False, name=name)(x)

    def norm(x, name):
        return L.BatchNormalization(epsilon=1e-5, name=name)(x)

    inputs = keras.Input((8, 8, 3), dtype=dtype)
    x = L.ReLU()(norm(conv(inputs, "conv0", 8), "bn0"))
    y = L.ReLU()(norm(conv(x, "b1conv1", 8), "b1bn1"))
    x = L.ReLU()(L.Add()([x, norm(conv(y, "b1conv2", 8), "b1bn2")]))
    y = L.ReLU()(norm(conv(x, "b2conv1", 12, strides=2), "b2bn1"))
    y = norm(conv(y, "b2conv2", 12), "b2bn2")
    short = norm(conv(x, "b2short", 12, 1, 2), "b2bns")
    x = L.GlobalAveragePooling2D()(L.ReLU()(L.Add()([short, y])))
    return keras.Model(inputs, L.Dense(5, name="fc")(x))


@functools.cache  # scoring leaves a model as it is
def load(name, dtype):
    """The model with the golden weights, the file, and the batch."""
    golden = np.load(FOLDER / f"{name}.npz")
    keras.config.set_dtype_policy(dtype)
    try:
        model = globals()[name](dtype)
    finally:
        keras.config.set_dtype_policy("float32")
    for layer in model.layers:
        if f"w/{layer.name}" in golden:
            layer.kernel.assign(golden[f"w/{layer.name}"])
        if f"b/{layer.name}" in golden:
            layer.bias.assign(golden[f"b/{layer.name}"])
    return model, golden, (golden["x"].astype(dtype), golden["y"])


def by_layer(arrays):
    return {path.split("/")[-2]: a for path, a in arrays.items()}


def assert_scores(scores, golden, key, tolerance):
    for layer, s in by_layer(scores).items():
        expected = golden[f"{key}/{layer}"]
        worst = np.abs(s - expected).max() / np.abs(expected).max()
        assert worst <= tolerance, (key, layer, worst)


def assert_masks(masks, golden, key):
    for layer, mask in by_layer(masks).items():
        np.testing.assert_array_equal(mask, golden[f"{key}/{layer}"] == 1, key)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name, mode", CASES)
def test_scores_and_masks(name, mode, dtype):
    model, golden, data = load(name, dtype)
    methods = {"sf_snip_abs": kpi.get_method("snip", batch_norm=mode)}
    if mode == "eval":
        methods["sf_mag"] = kpi.get_method("magnitude")
    for t in (1, 200):
        grasp = kpi.get_method("grasp", temperature=t, batch_norm=mode)
        methods[f"sf_grasp_T{t}_raw"] = grasp
    for quantity, method in methods.items():
        scores = kpi.score(model, data, method)
        assert_scores(scores, golden, f"{mode}/{quantity}", TOLERANCE[dtype])
        stem = quantity.removesuffix("_abs").removesuffix("_raw")
        for density in (0.1, 0.05):
            masks = kpi.select(scores, 1 - density)
            assert_masks(masks, golden, f"{mode}/{stem}_mask_d{density}")


@pytest.mark.parametrize("name, mode", CASES)
def test_masks_of_the_other_peers(name, mode):
    """Their rules keep one weight more or less; the ranking is the same."""
    model, golden, data = load(name, "float64")

    def masks_like(scores, key):
        kept = sum(int(golden[f"{key}/{v}"].sum()) for v in by_layer(scores))
        total = sum(s.size for s in scores.values())
        return kpi.select(scores, 1 - kept / total)

    snip = kpi.score(model, data, kpi.methods.SNIP(batch_norm=mode))
    for density in (0.1, 0.05):
        key = f"{mode}/milad_snip_mask_d{density}"
        assert_masks(masks_like(snip, key), golden, key)
    if name.startswith("resnet") and mode == "train":
        return  # the reference splits the batch in halves, which changes statistics
    for t in (1, 200):
        grasp = kpi.get_method("grasp", temperature=t, batch_norm=mode)
        scores = kpi.score(model, data, grasp)
        key = f"{mode}/grasp_ref_T{t}_mask_d0.1"
        assert_masks(masks_like(scores, key), golden, key)


@pytest.mark.parametrize("name", ["mlp_tanh", "cnn_relu", "resnet_bn_fresh"])
def test_synflow_in_float64(name):
    model, golden, _ = load(name, "float64")
    once = kpi.score(model, None, kpi.methods.SynFlow(iterations=1))
    assert_scores(once, golden, "eval/sf_synflow_iter1", 1e-9)
    masks = kpi.score(model, None, "synflow", sparsity=0.95, verbose=0)
    assert_scores(masks, golden, "eval/sf_synflow_100_lastscore", 1e-9)
    pruned = kpi.prune_at_init(model, None, "synflow", sparsity=0.95, verbose=0)
    masks = {
        f"{layer.name}/kernel": layer.mask.numpy() == 1
        for layer in pruned.layers
        if isinstance(layer, kpi.MaskedLayer)
    }
    assert_masks(masks, golden, "eval/sf_synflow_100_mask_d0.05")


@pytest.mark.parametrize("name", ["mlp_tanh", "cnn_relu", "resnet_bn_fresh"])
def test_synflow_in_float32(name):
    model, golden, _ = load(name, "float32")
    scores = kpi.score(model, None, kpi.methods.SynFlow(iterations=1))
    # 1 - tanh^2 cancels where tanh saturates.
    tolerance = 1e-4 if name == "mlp_tanh" else 1e-5
    assert_scores(scores, golden, "eval/sf_synflow_iter1", tolerance)
