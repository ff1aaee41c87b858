"""Trained networks, pruned without any training afterwards: magnitude and L-OBS.

    python benchmarks/trained.py --data=idx:FOLDER --images=idx:FOLDER
    python benchmarks/trained.py --data=idx:FOLDER --images=idx:FOLDER --nets lenet300

LeNets learn the data (MNIST). Larger networks learn 20,000 of the images (Fashion-MNIST
of 32 x 32 pixels): MobileNetV2 of keras.applications, and a small ViT of KerasHub. The
sparsity is global, or the same in each layer. `recalibrated` has new statistics of
batch normalization. The last column is the largest error of a layer's outputs over that
of magnitude with the same number of weights in each layer. One seed.
"""

import argparse
import sys
import time

import common
import keras
import numpy as np

import keras_prune_init as kpi
from keras_prune_init.methods.lobs import output_errors
from keras_prune_init.train.data.loading import load_images

L = keras.layers
METHODS = {
    "magnitude": lambda: kpi.methods.Magnitude(),
    "lobs": lambda: kpi.methods.LOBS(),
    "lobs as published": lambda: kpi.methods.LOBS(downdate=False),
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="MNIST")
    parser.add_argument("--images", required=True, help="Fashion-MNIST")
    parser.add_argument("--nets", nargs="+", default=[*NETS])
    return parser.parse_args()


def lenet300(shape):
    return kpi.models.mlp(shape, classes=10, depth=3, width=(300, 100)), 8


def lenet5(shape):
    layers = [
        *(L.Conv2D(20, 5, activation="relu"), L.MaxPooling2D()),
        *(L.Conv2D(50, 5, activation="relu"), L.MaxPooling2D(), L.Flatten()),
        *(L.Dense(500, activation="relu"), L.Dense(10)),
    ]
    return keras.Sequential([keras.Input(shape), *layers]), 3


def mobilenetv2(shape):
    model = keras.applications.MobileNetV2(
        shape, alpha=0.35, weights=None, classes=10, classifier_activation=None
    )
    for layer in model.layers:  # its own momentum needs more steps than these
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.9
    return model, 5


def vit(shape):
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=shape,
        patch_size=(4, 4),
        num_layers=3,
        num_heads=4,
        hidden_dim=48,
        mlp_dim=96,
    )
    model = keras_hub.models.ViTImageClassifier(
        backbone=backbone, num_classes=10, preprocessor=None
    )
    return model, 3


NETS = {
    "lenet300": (lenet300, (0.8, 0.9, 0.95), ("global", "uniform")),
    "lenet5": (lenet5, (0.8, 0.9, 0.95), ("global", "uniform")),
    "mobilenetv2": (mobilenetv2, (0.5, 0.8), ("global",)),
    "vit": (vit, (0.5, 0.8), ("global",)),
}


def load(source, small):
    images = load_images(source)
    mean, scale = images.normalisation
    parts = [((x - mean) * scale) for x in (images.x_train, images.x_test)]
    train, test = (np.asarray(x, "float32") for x in parts)
    labels = images.y_train, images.y_test
    if not small:
        border = (0, 0), (2, 2), (2, 2), (0, 0)
        train, test = (
            np.repeat(np.pad(x, border), 3, -1) for x in (train[:20_000], test[:5_000])
        )
        labels = labels[0][:20_000], labels[1][:5_000]
    return (train, labels[0]), (test, labels[1])


class MagnitudeErrors(kpi.methods.Magnitude):
    """Magnitude, with the errors of layers noted."""

    needs_data, needs_loss, batches = True, False, 8

    def recipe(self, model):
        def note(pruned, network):
            self.found = output_errors(pruned, network)
            return ""

        return kpi.Recipe(model, tell=note)


class LOBSErrors(kpi.methods.LOBS):
    recipe = MagnitudeErrors.recipe


def worst(model, data, pruned, name):
    """The largest error of a layer over that of magnitude with the same counts."""
    if name == "magnitude":
        return "-"
    rows = kpi.report(pruned).tensors
    lost = {f"^{t.path}$": 1 - max(t.kept, 1) / t.total for t in rows}
    ours = LOBSErrors(downdate=name == "lobs")
    theirs = MagnitudeErrors()
    for method in (ours, theirs):
        kpi.prune(model, data, method, allocation=lost, verbose=0)
    pairs = [(ours.found[p][1], theirs.found[p][1]) for p in ours.found]
    return max((a / b for a, b in pairs if b), default=0.0)


def measure(name, options):
    make, sparsities, allocations = NETS[name]
    small = name.startswith("lenet")
    data, (x_test, y_test) = load(options.data if small else options.images, small)
    keras.utils.set_random_seed(0)
    model, epochs = make(data[0].shape[1:])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(*data, batch_size=64, epochs=epochs, verbose=0)
    kpi.recalibrate(model, data[0][:4096])

    def error(model):
        outputs = model.predict(x_test, batch_size=500, verbose=0)
        return 100 * float(np.mean(np.argmax(outputs, 1) != y_test))

    dense, rows = error(model), []
    for sparsity in sparsities:
        for allocation in allocations:
            for method, made in METHODS.items():
                start = time.perf_counter()
                options = {"sparsity": sparsity, "allocation": allocation}
                pruned = kpi.prune(model, data, made(), **options, verbose=0)
                seconds = time.perf_counter() - start
                row = {"network": name, "dense error": dense, "removed": sparsity}
                row |= {"allocation": allocation, "method": method}
                row["error"] = error(pruned)
                row["layer error / magnitude"] = worst(model, data, pruned, method)
                kpi.recalibrate(pruned, data[0][:4096])
                row |= {"recalibrated": error(pruned), "seconds": seconds}
                sys.stderr.write(f"{row}\n")
                rows.append(row)
    return rows


if __name__ == "__main__":
    options = parse()
    rows = [row for name in options.nets for row in measure(name, options)]
    sys.stdout.write(common.table(rows) + "\n")
    common.save_networks("trained", rows)
