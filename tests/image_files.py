"""Small image sets on disk, in the formats that the training binary reads."""

import keras
import numpy as np

from keras_prune_init.train.data import sources
from keras_prune_init.train.data.loading import load_images


def few_images(folder):
    """256 training and 64 test images of the embedded data, as an npz source."""
    data = load_images().first(256, 64)
    arrays = {key: getattr(data, key) for key in sources.ARRAYS}
    np.savez(folder / "few.npz", **arrays)
    return f"npz:{folder}/few.npz"


def random_npz(folder, classes):
    """200 random 16x16 colour images of at most 100 classes, as an npz source."""
    x = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), "uint8")
    y = np.arange(200) % classes
    path = folder / f"random{classes}.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return f"npz:{path}"


def write_image(path, height, width, number=0):
    """Blurry noise, which JPEG keeps nearly as it is; another image for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (4, 4, 3)).astype("float32")
    image = keras.ops.image.resize(coarse, (height, width), "bilinear")
    keras.utils.save_img(path, np.array(image), scale=False)


def imagenet_folder(folder, *, classes=3, count=4):
    """The layout of ImageNet, with images of many sizes; the test set has half."""
    for label in range(classes):
        for number in range(count):
            size = 40 + 8 * number, 64 - 4 * label, count * label + number
            name = f"n{label:04}/n{label:04}_{number}.JPEG"
            write_image(folder / "train" / name, *size)
            if number % 2:
                write_image(folder / "val" / name, *size)
    return f"folder:{folder}"


def tiny_imagenet_folder(folder, *, classes=3, count=4, size=64):
    """The layout of Tiny-ImageNet; test images are in order of falling class."""
    lines = []
    for label in range(classes):
        name = f"n{label:04}"
        for number in range(count):
            path = folder / f"train/{name}/images/{name}_{number}.JPEG"
            write_image(path, size, size, count * label + number)
        (folder / f"train/{name}/{name}_boxes.txt").write_text("a.JPEG\t0\t0\t9\t9\n")
        test = f"val_{classes - 1 - label}.JPEG"
        write_image(folder / "val/images" / test, size, size, count * label)
        lines.append(f"{test}\t{name}\t0\t0\t9\t9\n")
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    return f"folder:{folder}"
