"""How much faster than ResNet-20 trains its images are made ready.

    python benchmarks/input.py --data=npz:FILE

Each row is one way to augment; images a second of the pipeline alone, and over those of
training on a batch that never changes. The row with `size` decodes image files, which
this script writes, and resizes them.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import common
import keras
import numpy as np

from keras_prune_init import models
from keras_prune_init.train import default_config
from keras_prune_init.train.data import feed
from keras_prune_init.train.data.loading import load_images

BATCH, WARM_UP, STEPS, REPEATS = 128, 5, 40, 3
ROWS = (
    {},
    {"augment": "crop+flip"},
    {"augment": "crop+flip", "mix": "mixup+cutmix"},
    {"augment": "crop+flip", "rand_augment": 0.3},
    {"augment": "resized_crop+flip", "size": 32},
)


def rate(step, count):
    """Images a second; the median of some stretches."""
    for _ in range(WARM_UP):
        step()
    rates = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(count):
            step()
        rates.append(count * BATCH / (time.perf_counter() - start))
    return statistics.median(rates)


def training_rate():
    model = models.resnet(depth=20)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, jit_compile=False)
    x, y = common.cifar_batch(BATCH)
    return rate(lambda: model.train_on_batch(x, y), STEPS // 2)


def write_images(folder, images):
    for part, count in (("train", 2560), ("val", 64)):
        for number in range(count):
            label = int(images.y_train[number])
            path = folder / part / str(label) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            large = np.kron(images.x_train[number], np.ones((2, 2, 1), "uint8"))
            keras.utils.save_img(path, large, scale=False)


def pipeline_rate(images, row):
    config = default_config.get_config()
    config.train.batch_size = BATCH
    config.data.update({k: v for k, v in row.items() if k != "size"})
    config.train.label_smoothing = 0.1 if "mix" in row else 0.0
    epochs = (WARM_UP + STEPS * REPEATS) // images.steps(BATCH) + 1
    batches = iter(feed.training(config, images, 0, epochs))
    return rate(lambda: next(batches), STEPS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist_mini")
    images = load_images(parser.parse_args().data)
    training = training_rate()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        write_images(pathlib.Path(name), images)
        for row in ROWS:
            size = row.get("size")
            source = load_images(f"folder:{name}", size) if size else images
            found = pipeline_rate(source, row)
            rows.append(
                {
                    "augment": ", ".join(map(str, row.values())) or "none",
                    "images a second": found,
                    "of training": training,
                    "ratio": found / training,
                }
            )
    sys.stdout.write(common.table(rows) + "\n")
    common.save("input", rows)
