"""What `shrink` cuts out of five networks, and that they compute the same.

    python benchmarks/shrinking.py --data=npz:FILE

Pruned on a batch of CIFAR-10; outputs of 64 test images before and after, in inference
and in training mode, then again after 100 training steps of the pruned network, as the
largest difference over the largest output (or over 1e-3, if that is larger: batch
normalization hides no less). Multiply-adds are ratios to the pruned network, `pass`
that of the time of forward and backward passes, models in turn.

    python benchmarks/shrinking.py --data=npz:FILE --exactness

The same differences before training, over the largest output whatever its size, in
float64: `inference` and `training`. And in training mode, in float32: that of `shrunk`
from pruned, beside how far `rounding` takes the pruned network itself from its outputs
in float64.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys

import common

NETWORKS = ("cnn", "resnet20", "densenet", "vgg16 glorot", "mobilenetv2", "vgg16")
METHODS, SPARSITIES = ("snip", "synflow"), (0.9, 0.98, 0.995)
BATCH, STEPS = 32, 100


def build(name):
    import keras

    import keras_prune_init as kpi

    keras.utils.set_random_seed(0)
    shape = 32, 32, 3
    if name == "mobilenetv2":
        return keras.applications.MobileNetV2(
            weights=None, input_shape=shape, classes=10, classifier_activation=None
        )
    if name == "densenet":
        return densenet()
    makers = {
        "resnet20": lambda: kpi.models.resnet(shape, 10, depth=20),
        "vgg16": lambda: kpi.models.vgg(shape, 10, depth=16),
        "vgg16 glorot": lambda: kpi.models.vgg(
            shape, 10, depth=16, init="glorot_uniform"
        ),
        "cnn": lambda: kpi.models.cnn(shape, 10, depth=4, width=32),
    }
    return makers[name]()


def densenet():
    import keras

    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    for _ in range(3):
        for _ in range(4):
            y = layers.ReLU()(layers.BatchNormalization()(x))
            y = layers.Conv2D(12, 3, padding="same", use_bias=False)(y)
            x = layers.Concatenate()([x, y])
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.AveragePooling2D(2)(layers.Conv2D(32, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def difference(one, other, x, training=False, least=1e-3):
    import numpy as np

    a, b = (np.asarray(m(x, training=training)) for m in (one, other))
    return float(np.abs(a - b).max() / max(np.abs(a).max(), least))


def exactness(name, source):
    """Rows of differences in float64, and of those that float32 makes by itself."""
    import keras

    import keras_prune_init as kpi

    x, scoring, _, loss = data(source)
    rows = []
    for method, sparsity in itertools.product(METHODS, SPARSITIES):
        options = {"sparsity": sparsity, "loss": loss, "verbose": 0}
        pruned = kpi.prune_at_init(build(name), scoring, method, **options)
        keras.config.set_dtype_policy("float64")
        wide = kpi.prune_at_init(build(name), None, "random", **options)
        keras.config.set_dtype_policy("float32")
        wide.set_weights(pruned.get_weights())
        small, small_wide = kpi.shrink(pruned), kpi.shrink(wide)
        tiny = {"least": 1e-30}
        training = {"training": True, **tiny}
        found = {
            "inference": difference(wide, small_wide, x, **tiny),
            "training": difference(wide, small_wide, x, **training),
            "float32: shrunk": difference(pruned, small, x, **training),
            "float32: rounding": difference(wide, pruned, x, **training),
        }
        rows.append(
            {"network": name, "method": method, "sparsity": sparsity}
            | {key: f"{value:.0e}" for key, value in found.items()}
        )
    return rows


def data(source):
    """Test images, a batch to score on, batches to train on, and the loss."""
    import keras

    from keras_prune_init.train.data.loading import load_images

    images = load_images(source)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    test = next(iter(images.test(64)))[0]
    return test, next(iter(images.train(128))), images.train(BATCH), loss


def worker(name, source):
    import keras

    import keras_prune_init as kpi

    x, scoring, batches, loss = data(source)
    rows = []
    for method in METHODS:
        for sparsity in SPARSITIES:
            model = build(name)
            pruned = kpi.prune_at_init(
                model, scoring, method, sparsity=sparsity, loss=loss, verbose=0
            )
            small = kpi.shrink(pruned)
            inference = difference(pruned, small, x)
            training = difference(pruned, small, x, training=True)
            found = kpi.shrink_report(pruned, small, scoring[0], repeats=5)
            optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
            pruned.compile(optimizer, loss, jit_compile=False)
            pruned.fit(batches, steps_per_epoch=STEPS, verbose=0)
            later = kpi.shrink(pruned)
            rows.append(
                {
                    "network": name,
                    "method": method,
                    "sparsity": sparsity,
                    "weights": found.weights[1] / found.weights[0],
                    "multiply-adds": found.macs[1] / found.macs[0],
                    "pass": found.seconds[1] / found.seconds[0],
                    "inference": f"{inference:.0e}",
                    "training": f"{training:.0e}",
                    "trained: multiply-adds": kpi.cost(later).macs / found.macs[0],
                    "trained: inference": f"{difference(pruned, later, x):.0e}",
                }
            )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--exactness", action="store_true")
    parser.add_argument("--worker", action="store_true")
    options = parser.parse_args()
    measure = exactness if options.exactness else worker
    if options.worker:
        sys.stdout.write(json.dumps(measure(*options.networks, options.data)))
        sys.exit()
    rows = []
    for name in options.networks:
        flags = [f"--data={options.data}", "--worker", "--networks", name]
        flags += ["--exactness"] * options.exactness
        rows += common.fresh_process(__file__, *flags)
        file = "shrinking_exactness" if options.exactness else "shrinking"
        common.save_networks(file, rows)
    sys.stdout.write(common.table(rows) + "\n")
