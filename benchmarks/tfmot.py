"""tfmot's pruning and ours on one network and real images, in one run.

    python benchmarks/tfmot.py --data=npz:FILE

Gradual magnitude and constant sparsity of tfmot, in Keras 2, stand beside our masks in
tfmot's wrappers and in Keras 3. All start from the same weights, see the same batches
and take equally many steps. FILE holds CIFAR-10. Times of steps are ratios to the dense
network in Keras 2, a step each in turn.
"""

import argparse
import pathlib
import sys
import tempfile

import common
import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

import keras_prune_init as kpi
from keras_prune_init.train.data.loading import load_images

sparsity_of = tfmot.sparsity.keras


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="npz:FILE or idx:FOLDER")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.98])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=2)
    return parser.parse_args()


def network(images):
    """A ResNet-8 of Keras 3; `from_keras3` makes the one of Keras 2."""
    return kpi.models.resnet(images.input_shape, images.classes, depth=8, width=16)


def compiled(model, options):
    k = keras if isinstance(model, keras.Model) else tf_keras
    model.compile(
        k.optimizers.SGD(
            k.optimizers.schedules.CosineDecay(0.1, options.steps),
            momentum=0.9,
            nesterov=True,
        ),
        k.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def wrapped(model, schedule):
    """As tfmot's users do it: every layer with a kernel, ranked within each layer."""

    def wrap(layer):
        if isinstance(layer, (tf_keras.layers.Conv2D, tf_keras.layers.Dense)):
            return sparsity_of.prune_low_magnitude(layer, schedule)
        return layer

    return tf_keras.models.clone_model(model, clone_function=wrap)


def old(start):
    return kpi.tfmot.from_keras3(start)


def dense(start):
    copy = keras.models.clone_model(start)
    copy.set_weights(start.get_weights())
    return {"dense": old(start), "dense, Keras 3": copy}


def pruned(start, batches, sparsity, options):
    """By name: the networks to train, all with the weights of `start`."""
    last = options.steps * 3 // 4  # tfmot's guide leaves some steps without change
    gradual = sparsity_of.PolynomialDecay(0.0, sparsity, 0, last, frequency=50)
    constant = sparsity_of.ConstantSparsity(sparsity, 0, frequency=50)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    given = {"sparsity": sparsity, "loss": loss}
    in_tfmot, prune = kpi.tfmot.prune_at_init, kpi.prune_at_init
    return {
        "tfmot gradual magnitude": wrapped(old(start), gradual),
        "tfmot constant sparsity": wrapped(old(start), constant),
        "SNIP in tfmot's wrappers": in_tfmot(old(start), batches, "snip", **given),
        "SNIP": prune(start, batches, "snip", **given),
        "SynFlow": prune(start, method="synflow", sparsity=sparsity),
    }


def is_wrapped(model):
    return any(type(v).__name__ == "PruneLowMagnitude" for v in model.layers)


def trained(model, images, seed, options):
    size, steps = options.batch_size, options.steps
    epochs = -(-steps // images.steps(size))
    batches = images.train(size, seed=seed, epochs=epochs, augment="crop+flip")
    callbacks = [sparsity_of.UpdatePruningStep()] if is_wrapped(model) else []
    history = model.fit(
        batches.take(steps), steps_per_epoch=steps, verbose=0, callbacks=callbacks
    )
    accuracy = model.evaluate(images.test(100), verbose=0)[1]
    return accuracy, history.history["loss"][-1]


def plain(model):
    """Ordinary layers of Keras 3, for the file."""
    if isinstance(model, keras.Model):
        masked = any(isinstance(v, kpi.MaskedLayer) for v in model.layers)
        return kpi.strip(model) if masked else model
    model = sparsity_of.strip_pruning(model) if is_wrapped(model) else model
    return kpi.tfmot.to_keras3(model)


def zeros(model):
    kernels = [np.asarray(w) for w in model.trainable_weights if len(w.shape) > 1]
    return sum(int((k == 0).sum()) for k in kernels) / sum(k.size for k in kernels)


def step(model, x, y):
    """A function that trains on a batch, with what tfmot's callback does before it."""
    if not is_wrapped(model):
        return lambda: common.seconds(lambda: model.train_on_batch(x, y))
    callback = sparsity_of.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()

    def train():
        callback.on_train_batch_begin(0)
        model.train_on_batch(x, y)

    return lambda: common.seconds(train)


def train_all(images, options):
    """By sparsity and name: the last model, and accuracy and loss of each seed."""
    last, found = {}, {}
    for seed in range(options.seeds):
        keras.utils.set_random_seed(seed)
        start, batches = network(images), images.train(options.batch_size, seed=seed)
        for sparsity in (0.0, *options.sparsities):
            chosen = (
                pruned(start, batches, sparsity, options) if sparsity else dense(start)
            )
            for name, model in chosen.items():
                result = trained(compiled(model, options), images, seed, options)
                sys.stderr.write(f"{sparsity} seed {seed} {name}: {result[0]:.4f}\n")
                found.setdefault((sparsity, name), []).append(result)
                last[sparsity, name] = model
    return last, found


def measure(images, options):
    last, found = train_all(images, options)
    # Before more steps: tfmot's wrappers set zeros anew at the end of an epoch.
    files = {key: plain(model) for key, model in last.items()}
    [(x, y)] = images.train(options.batch_size).take(1)
    x, y = tf.constant(x), tf.constant(y)
    steps = {key: step(model, x, y) for key, model in last.items()}
    steps["dense"] = steps.pop((0.0, "dense"))  # what others are compared with
    times = common.ratios(steps)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for (sparsity, name), stripped in files.items():
            report = kpi.export_tflite(stripped, pathlib.Path(folder) / "m.tflite")
            results = found[sparsity, name]
            accuracies = [accuracy for accuracy, _ in results]
            time = times["dense" if name == "dense" else (sparsity, name)]
            rows.append(
                {
                    "sparsity": sparsity,
                    "training": name,
                    "test accuracy": float(np.mean(accuracies)),
                    "spread": float(np.ptp(accuracies)),
                    "seeds": options.seeds,
                    "steps": options.steps,
                    "training loss": float(np.mean([loss for _, loss in results])),
                    "step": time["ratio"],
                    "step quartiles": time["quartiles"],
                    "zeros": zeros(stripped),
                    "bytes": report.size.plain,
                }
            )
    return rows


if __name__ == "__main__":
    options = parse()
    rows = measure(load_images(options.data), options)
    sys.stdout.write(common.table(rows) + "\n")
    common.save("tfmot", rows)
