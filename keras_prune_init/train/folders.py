"""Folders of image files: which files there are, and what their labels are.

Two layouts are known, those in which ImageNet and Tiny-ImageNet are handed out:

    train/CLASS/.../*.jpg      training images, at any depth below their class
    val/CLASS/.../*.jpg        test images, or ...
    val/val_annotations.txt    ... lines "FILE<tab>CLASS...", with the files below val/
"""

import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_prune_init.train import streaming

ENDINGS = (".jpeg", ".jpg", ".png", ".bmp")
LAYOUT = "Arrange them as train/CLASS/*.jpg and val/CLASS/*.jpg."


class Files(NamedTuple):
    """Paths of images and their classes, counted from 0."""

    paths: np.ndarray
    labels: np.ndarray


def find(folder: str) -> tuple[Files, Files, int]:
    """The training files, the test files and the number of classes of a folder.

    The first image of each class comes first, then the second of each and so on: the
    first so many files have all classes in them.

    Raises:
        FileNotFoundError: If `folder/train` or `folder/val` is no folder.
        ValueError: If there is no image, one class only, or a test image of no class.
    """
    train, val = os.path.join(folder, "train"), os.path.join(folder, "val")
    for part in (train, val):
        if not os.path.isdir(part):
            raise FileNotFoundError(
                "A folder data source has the folders train/ and val/. Received: "
                f"folder:{folder}, without {part}. {LAYOUT}"
            )
    names = sorted(entry.name for entry in os.scandir(train) if entry.is_dir())
    if len(names) < 2:
        raise ValueError(
            "There must be two classes at least, each a folder of training images. "
            f"Received: {train} with the class folders {names}. {LAYOUT}"
        )
    numbers = {name: number for number, name in enumerate(names)}
    annotations = os.path.join(val, "val_annotations.txt")
    if os.path.exists(annotations):
        tested = _annotated(val, annotations)
    else:
        tested = _by_class(val)
    files = _numbered(train, _by_class(train), numbers)
    empty = sorted(set(range(len(names))) - set(files.labels.tolist()))
    if empty:
        raise ValueError(
            f"Every class needs a training image ending in {', '.join(ENDINGS)}. "
            f"Received: no such file in {os.path.join(train, names[empty[0]])}. "
            "Put one there, or remove the folder."
        )
    return files, _numbered(val, tested, numbers), len(names)


def read(folder: str) -> tuple[np.ndarray, ...]:
    """All images as arrays `(x_train, y_train, x_test, y_test)`.

    Raises:
        ValueError: If the images are not all of one size; and as `find`.
    """
    train, test, _ = find(folder)
    return _pixels(train.paths), train.labels, _pixels(test.paths), test.labels


def stream(folder: str, size: int) -> streaming.StreamedImages:
    """The images as a streaming source, resized to `size` pixels."""
    train, test, classes = find(folder)
    return streaming.StreamedImages(
        f"folder:{folder}",
        tuple(tf.data.Dataset.from_tensor_slices(tuple(f)) for f in (train, test)),
        classes,
        size,
        image=streaming.decode_file,
        window=len(train.paths),  # keys are only paths, so all of them are shuffled
    )


def _by_class(folder):
    """Pairs (path, name of the class folder) of all images."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()  # os.walk goes on in this order
        name = os.path.relpath(place, folder).split(os.sep)[0]
        for file in sorted(files):
            if file.lower().endswith(ENDINGS):
                yield os.path.join(place, file), name


def _annotated(folder, annotations):
    """The same, with the class names from a file."""
    with open(annotations) as lines:
        names = dict(line.split()[:2] for line in lines if line.strip())
    for path, _ in _by_class(folder):
        yield path, names.get(os.path.basename(path))


def _numbered(folder, pairs, numbers):
    pairs = list(pairs)
    for path, name in pairs:
        if name not in numbers:
            raise ValueError(
                "Every image must belong to a class that has a folder in train/. "
                f"Received: {path}, of class {name!r}. {LAYOUT}"
            )
    if not pairs:
        raise ValueError(
            f"There must be an image ending in {', '.join(ENDINGS)}. Received: "
            f"{folder} with none. {LAYOUT}"
        )
    paths = np.array([path for path, _ in pairs], object)
    labels = np.array([numbers[name] for _, name in pairs], "int32")
    # Rank within the class first, class second.
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    rank = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    order = by_class[np.argsort(rank, kind="stable")]
    return Files(paths[order], labels[order])


def _pixels(paths):
    dataset = tf.data.Dataset.from_tensor_slices(paths).map(
        streaming.decode_file, num_parallel_calls=streaming.THREADS
    )
    images = []
    for path, image in zip(paths, dataset.as_numpy_iterator(), strict=True):
        images.append(image)
        if image.shape != images[0].shape:
            raise ValueError(
                "Images are kept in memory only if they are of one size. Received: "
                f"{paths[0]} of shape {images[0].shape} and {path} of shape "
                f"{image.shape}. Set --config.data.image_size=224 to resize them."
            )
    return np.stack(images)
