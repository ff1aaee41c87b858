"""Compression-aware training of two small networks, then `factorize`.

    python benchmarks/low_rank.py --data=idx:FOLDER

LeNet-5 and ResNet-20 (of half the width, on every second pixel), trained by Adam at
1e-3 that falls along a cosine, with and without the nuclear norm, then replaced by
factors at some energies. `error` is that of the test images after factorizing,
`tuned` after one more epoch of the factors at a tenth of the rate. Weights and
multiply-adds are of the whole network.
"""

import argparse
import sys

import common
import keras

import keras_prune_init as kpi
from keras_prune_init.train.data.loading import load_images

L = keras.layers
PRICES = {"lenet5": (0.0, 0.05, 0.1, 0.15), "resnet20": (0.0, 0.05, 0.1)}
ENERGIES = 0.8, 0.9, 0.99, 1.0


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="idx:FOLDER or npz:FILE")
    parser.add_argument("--networks", default="lenet5,resnet20")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


def lenet5(shape, classes):
    """As Caffe's LeNet, which most of the literature means."""
    return keras.Sequential(
        [
            keras.Input(shape),
            *(L.Conv2D(20, 5, activation="relu"), L.MaxPooling2D()),
            *(L.Conv2D(50, 5, activation="relu"), L.MaxPooling2D()),
            *(L.Flatten(), L.Dense(500, "relu"), L.Dense(classes)),
        ]
    )


def resnet20(shape, classes):
    inputs = keras.Input(shape)
    small = kpi.models.resnet((shape[0] // 2, shape[1] // 2, 1), classes, width=8)
    return keras.Model(inputs, small(L.AveragePooling2D()(inputs)))


def fit(model, images, rate, epochs, seed, callbacks=()):
    steps = images.steps(128)
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    batches = images.train(128, seed=seed, epochs=epochs)
    options = {"epochs": epochs, "steps_per_epoch": steps, "verbose": 0}
    model.fit(batches, **options, callbacks=[*callbacks])


def error(model, images):
    found = model.evaluate(images.test(500), return_dict=True, verbose=0)
    return 100 - 100 * found["accuracy"]


def rows_of(name, price, images, options, seed):
    keras.utils.set_random_seed(seed)
    model = globals()[name](images.input_shape, images.classes)
    callbacks = [kpi.callbacks.CompressionAware(price)] if price else []
    fit(model, images, 1e-3, options.epochs, seed, callbacks)
    before = error(model, images)
    for energy in ENERGIES:
        report = kpi.factorize_report(model, energy)
        small = kpi.factorize(model, energy)
        small.compile(loss=model.loss, metrics=["accuracy"])
        row = {"network": name, "nuclear": price, "seed": seed, "whole": before}
        row |= {"energy": energy, "error": error(small, images)}
        fit(small, images, 1e-4, 1, seed)
        row |= {"tuned": error(small, images)}
        for kind, (old, new) in (("weights", report.weights), ("macs", report.macs)):
            row |= {kind: new, f"{kind} left": new / old}
        sys.stderr.write(f"{row}\n")
        yield row


def measure(images, options):
    return [
        row
        for name in options.networks.split(",")
        for price in PRICES[name]
        for seed in range(options.seeds)
        for row in rows_of(name, price, images, options, seed)
    ]


if __name__ == "__main__":
    options = parse()
    rows = measure(load_images(options.data), options)
    sys.stdout.write(common.table(rows) + "\n")
    common.save("low_rank", rows)
