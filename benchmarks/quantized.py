"""Pruning and int8: networks of Keras 2 on real images, from SNIP to files for phones.

    python benchmarks/quantized.py --data=npz:FILE --timer=PROGRAM

Each network is pruned at initialization and trained, then stripped. Its float32 and
int8 files are compared with the int8 file of quantization-aware training. FILE holds
CIFAR-10. PROGRAM takes .tflite files and times them on an ARM processor; without it
there are no times.
"""

import argparse
import pathlib
import sys
import tempfile

import common
import keras
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras
from ai_edge_litert.interpreter import Interpreter

import keras_prune_init as kpi
from keras_prune_init.export import flatbuffer
from keras_prune_init.train.data.loading import load_images

L = tf_keras.layers


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="npz:FILE or idx:FOLDER")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--quantized-steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--timer", help="program that times .tflite files on ARM")
    return parser.parse_args()


def cnn(shape, classes):
    """Eight convolutions, three of them depthwise."""
    layers = [L.Conv2D(32, 3, padding="same", use_bias=False)]
    for filters, strides in ((64, 2), (128, 2), (256, 2)):
        layers += [L.BatchNormalization(momentum=0.9), L.ReLU()]
        layers.append(
            L.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)
        )
        layers += [L.BatchNormalization(momentum=0.9), L.ReLU()]
        layers.append(L.Conv2D(filters, 1, use_bias=False))
    layers += [L.BatchNormalization(momentum=0.9), L.ReLU()]
    layers += [L.GlobalAveragePooling2D(), L.Dense(classes)]
    return tf_keras.Sequential([tf_keras.Input(shape), *layers], name="cnn")


def mobilenet_v2(shape, classes):
    """The one of the applications, narrow, as it is but for the momentum.

    Its statistics would need ten thousand steps.
    """
    model = tf_keras.applications.MobileNetV2(
        shape, alpha=0.5, weights=None, classes=classes, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.9
    return model


NETWORKS = {f.__name__: f for f in (cnn, mobilenet_v2)}
# SNIP empties layers of the MobileNetV2 if it may, and then nothing trains.
ALLOCATION = {"cnn": "global", "mobilenet_v2": "uniform"}


def fit(model, images, options, steps, rate, *callbacks):
    schedule = tf_keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        tf_keras.optimizers.Adam(schedule),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    size = options.batch_size
    epochs = -(-steps // images.steps(size))
    batches = images.train(size, epochs=epochs, augment="crop+flip").take(steps)
    model.fit(batches, steps_per_epoch=steps, verbose=2, callbacks=list(callbacks))
    return model.evaluate(images.test(100), verbose=0)[1]


def masks_of(pruned):
    """By name of the layer: which weights are kept."""
    return {
        layer.layer.name: layer.pruning_vars[0][1].numpy() == 1
        for layer in pruned.layers
        if type(layer).__name__ == "PruneLowMagnitude"
    }


def kernels_of_file(path):
    """By name of the layer: the kernel in a file without sparse tensors."""
    file = flatbuffer.read(path.read_bytes())
    [graph] = file.subgraphs
    found = {}
    for operator in graph.operators:
        name = flatbuffer.operator_name(file, operator)
        if name in ("CONV_2D", "FULLY_CONNECTED"):
            tensor = graph.tensors[operator.inputs[1]]
            layer = flatbuffer.layer_name(tensor.name.decode())
            found[layer] = flatbuffer.data(file, tensor)
    return found


def zeros(path, masks):
    """How many masked weights there are, and how many of them are 0 in the file."""
    kernels = kernels_of_file(path)
    masked = there = 0
    for name, mask in masks.items():
        axes = (1, 0) if mask.ndim == 2 else (3, 0, 1, 2)
        gone = ~mask.transpose(axes)
        masked += int(gone.sum())
        there += int((kernels[name][gone] == 0).sum())
    return masked, there


def accuracy(path, images):
    """Of a file, on all test images."""
    run = Interpreter(model_path=str(path), num_threads=2).get_signature_runner()
    [name] = run.get_input_details()
    right = [
        (next(iter(run(**{name: x.numpy()}).values())).argmax(-1) == y.numpy())
        for x, y in images.test(100)
    ]
    return float(np.mean(np.concatenate(right)))


def measure(network, images, options, folder):
    """A row for each file of a network, and the files."""
    model = NETWORKS[network](images.input_shape, images.classes)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned = kpi.tfmot.prune_at_init(
        model,
        images.train(options.batch_size),
        sparsity=options.sparsity,
        allocation=ALLOCATION[network],
        loss=loss,
    )
    masks = masks_of(pruned)
    updates = tfmot.sparsity.keras.UpdatePruningStep()
    keras_accuracy = fit(pruned, images, options, options.steps, 3e-3, updates)
    same = all(np.array_equal(masks[k], v) for k, v in masks_of(pruned).items())
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    quantized = kpi.tfmot.quantize_aware(pruned)
    quantized_accuracy = fit(quantized, images, options, options.quantized_steps, 3e-4)
    for name, mask in masks.items():
        [(kernel, _, _)] = quantized.get_layer(f"quant_{name}")._weight_vars
        same = same and not np.any(kernel.numpy()[~mask])

    plain = kpi.tfmot.to_keras3(stripped)
    samples = next(iter(images.train(500)))[0]
    rows, files = [], []
    for kind in ("float32", "int8 after training", "int8 in training"):
        in_keras = quantized_accuracy if kind == "int8 in training" else keras_accuracy
        for stored in (False, "auto"):
            path = folder / f"{network}_{kind.replace(' ', '_')}_{stored}.tflite"
            given = {"sparse": stored, "representative_data": samples}
            if kind == "int8 in training":
                report = kpi.tfmot.export_int8(quantized, path, **given)
            else:
                precision = kind.split()[0]
                report = kpi.export_tflite(plain, path, precision=precision, **given)
            dense = path if stored is False else files[-1]
            masked, there = zeros(dense, masks)
            files.append(path)
            rows.append(
                {
                    "network": network,
                    "file": kind,
                    "stored": "sparse" if report.is_sparse else "dense",
                    "accuracy in Keras": in_keras,
                    "accuracy of the file": accuracy(path, images),
                    "bytes": report.size.plain,
                    "gzip": report.size.gzip,
                    "masks stayed": same,
                    "masked": masked,
                    "zeros there": there,
                    "zeros in kernels": sum(
                        round((1 - k.density) * k.values) for k in report.kernels
                    ),
                    "runs sparse": report.mobile.runs_sparse,
                }
            )
    if options.timer:
        for row, found in zip(
            rows, common.times_on_arm(files, options.timer), strict=True
        ):
            row["ARM time"] = found["ratio_to_first"]
    return rows


if __name__ == "__main__":
    options = parse()
    images = load_images(options.data)
    everything = []
    for network in options.networks:
        keras.utils.set_random_seed(0)
        with tempfile.TemporaryDirectory() as temporary:
            everything += measure(network, images, options, pathlib.Path(temporary))
        common.save_networks("quantized", everything)
    sys.stdout.write(common.table(everything) + "\n")
