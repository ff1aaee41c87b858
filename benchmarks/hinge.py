"""A trained ResNet made smaller: hinges, the same without proximal steps, and channels.

    python benchmarks/hinge.py --data=npz:FILE
    python benchmarks/hinge.py --data=npz:FILE --images=8000 --epochs=4

A ResNet-8 learns a part of the images (CIFAR-10). Then half of its multiply-adds are
removed, by ways that take equally many epochs: `hinge` trains half of them with the
callback, with each penalty, and the rest after the merge; `svd` merges hinges that were
never trained, and `channels` removes channels by magnitude, of each layer the same
part, and both train for all of them afterwards. `dense` trains on as it is. Columns:
accuracy on test images after the merge, after `recalibrate` alone, and at the end. One
seed.
"""

import argparse
import sys
import time

import common
import keras
import numpy as np

import keras_prune_init as kpi
from keras_prune_init.train.data.loading import load_images


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=4, help="of training dense")
    parser.add_argument("--strength", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load(options):
    images = load_images(options.data)
    mean, scale = images.normalisation
    train, test = (
        np.asarray((x - mean) * scale, "float32")
        for x in (images.x_train[: options.images], images.x_test[:5000])
    )
    labels = images.y_train[: options.images], images.y_test[:5000]
    return (train, labels[0]), (test, labels[1])


def not_stem(layer):
    """The authors leave the first convolution as it is."""
    return layer.name != "stem_conv"


def compiled(model, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, weight_decay=5e-4)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def fit(model, data, epochs, rate, callbacks=()):
    """Train with a rate that falls to 0 along a cosine, but for the hinges."""
    steps = epochs * -(-len(data[0]) // 64)
    falls = keras.optimizers.schedules.CosineDecay(rate, steps)
    compiled(model, rate if callbacks else falls)
    options = {"batch_size": 64, "epochs": epochs, "verbose": 0}
    return model.fit(*data, callbacks=list(callbacks), **options).history


def measure(options):
    data, test = load(options)
    keras.utils.set_random_seed(options.seed)
    model = kpi.models.resnet(data[0].shape[1:], classes=10, depth=8, width=16)
    fit(model, data, options.epochs, 0.1)
    half = options.epochs // 2
    whole = kpi.cost(model).macs

    def accuracy(model):
        outputs = model.predict(test[0], batch_size=500, verbose=0)
        return 100 * float(np.mean(np.argmax(outputs, 1) == test[1]))

    def row(way, small, epochs, searched):
        start = time.perf_counter()
        found = {"way": way, "multiply-adds": kpi.cost(small).macs}
        found["of dense"] = found["multiply-adds"] / whole
        found |= {"weights": small.count_params(), "epochs before": searched}
        found["merged"] = accuracy(small)
        kpi.recalibrate(small, data[0][:4096])
        found["recalibrated"] = accuracy(small)
        fit(small, data, epochs, 0.05)
        found["trained"] = accuracy(small)
        found["seconds"] = time.perf_counter() - start
        sys.stderr.write(f"{found}\n")
        return found

    before, sparsity = accuracy(model), options.sparsity
    hinged = kpi.add_hinges(model, filters=not_stem)
    rows = [row("svd", kpi.merge_hinges(hinged, sparsity), options.epochs, 0)]
    for penalty in ("l1", "l1/2"):
        hinged = kpi.add_hinges(model, filters=not_stem, regularizer=penalty)
        hinge = kpi.callbacks.Hinge(sparsity, options.strength, stop_within=None)
        removed = fit(hinged, data, half, 0.005, [hinge])["removed"]
        sys.stderr.write(f"{penalty}: {accuracy(hinged)}, of which gone {removed}\n")
        small = kpi.merge_hinges(hinged, sparsity)
        rows.append(row(f"hinge {penalty}", small, options.epochs - half, half))
    way = {"what": kpi.Channels("flops"), "allocation": "uniform"}
    small = kpi.prune(model, None, "magnitude", sparsity=sparsity, verbose=0, **way)
    rows.append(row("channels", small, options.epochs, 0))
    rows.append(row("dense", model, options.epochs, 0))
    return [{"dense before": before} | found for found in rows[::-1]]


if __name__ == "__main__":
    rows = measure(parse())
    sys.stdout.write(common.table(rows) + "\n")
    common.save("hinge", rows)
