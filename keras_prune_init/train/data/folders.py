"""Folders of image files: which files there are, and what their labels are.

Two layouts are known, those of ImageNet and Tiny-ImageNet:

    train/CLASS/.../*.jpg      training images, at any depth below their class
    val/CLASS/.../*.jpg        test images, or ...
    val/val_annotations.txt    ... lines "FILE<tab>CLASS...", with the files below val/
"""

import contextlib
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from keras_prune_init._files import regular
from keras_prune_init.scoring.batches import rank_in_class
from keras_prune_init.train.data import streaming

ENDINGS = (".jpeg", ".jpg", ".png", ".bmp")
LAYOUT = "Arrange them as train/CLASS/*.jpg and val/CLASS/*.jpg."


class Files(NamedTuple):
    paths: np.ndarray
    labels: np.ndarray  # classes as numbers from 0


class _Image(NamedTuple):
    """A file, its path behind symbolic links, whether it is ordinary, and its class."""

    path: str
    real: str
    ordinary: bool
    name: str


def find(folder: str, skip_corrupt: bool = False) -> tuple[Files, Files, int]:
    """Return the training files, the test files and the number of classes of a folder.

    The first image of each class comes first, then the second of each, and so on. So
    the first files contain all classes. Symbolic links are followed, but not back to a
    folder that they are in. `skip_corrupt` decodes each file, leaves out those that are
    no images, and logs how many; else such a file is an error when it is needed.

    Raises:
        FileNotFoundError: If `folder/train` or `folder/val` is no folder.
        ValueError: If there is no image, only one class, a test image of no class, a
            file that is both for training and for testing, or a pipe or device.
    """
    train, val = os.path.join(folder, "train"), os.path.join(folder, "val")
    for part in (train, val):
        if not os.path.isdir(part):
            raise FileNotFoundError(
                "A folder data source has the folders train/ and val/. Received: "
                f"folder:{folder}, without {part}. {LAYOUT}"
            )
    names = [name for name, _ in _classes(train)]
    if len(names) < 2:
        raise ValueError(
            "There must be two classes at least, each a folder of training images. "
            f"Received: {train} with the class folders {names}. {LAYOUT}"
        )
    images = [_by_class(train), _by_class(val)]
    annotations = os.path.join(val, "val_annotations.txt")
    if os.path.exists(annotations):
        images[1] = _annotated(images[1], annotations)
    _check_apart(*images)
    if skip_corrupt:
        images = [_without_corrupt(part) for part in images]
    numbers = {name: number for number, name in enumerate(names)}
    files = _numbered(train, images[0], numbers)
    tested = _numbered(val, images[1], numbers)
    empty = sorted(set(range(len(names))) - set(files.labels.tolist()))
    if empty:
        raise ValueError(
            f"Every class needs a training image ending in {', '.join(ENDINGS)}. "
            f"Received: no such file in {os.path.join(train, names[empty[0]])}. "
            "Put one there, or remove the folder."
        )
    return files, tested, len(names)


def read(folder: str, skip_corrupt: bool = False) -> tuple[np.ndarray, ...]:
    """Return all images, of one size, as `(x_train, y_train, x_test, y_test)`."""
    train, test, _ = find(folder, skip_corrupt)
    return _pixels(train.paths), train.labels, _pixels(test.paths), test.labels


def stream(
    folder: str, size: int, skip_corrupt: bool = False
) -> streaming.StreamedImages:
    """Return the images as a streaming source, resized to `size` pixels."""
    train, test, classes = find(folder, skip_corrupt)
    return streaming.StreamedImages(
        f"folder:{folder}",
        tuple(tf.data.Dataset.from_tensor_slices(tuple(f)) for f in (train, test)),
        classes,
        size,
        image=streaming.decode_file,
        window=len(train.paths),  # keys are only paths, so all of them are shuffled
    )


def _entries(folder):
    return sorted(os.scandir(folder), key=lambda entry: entry.name)


def _classes(folder):
    """Return names and real paths of the folders in one, without those around it."""
    real = os.path.realpath(folder)
    for entry in _entries(folder):
        inner = _real(entry, real)
        if _is_folder(entry) and not _is_within(real, inner):
            yield entry.name, inner


def _by_class(folder):
    """Return all images below a folder; images in no class folder have class "."."""
    real = os.path.realpath(folder)
    images = [
        _Image(entry.path, _real(entry, real), _is_file(entry), ".")
        for entry in _entries(folder)
        if _is_image(entry)
    ]
    for name, inner in _classes(folder):
        images += _walk(os.path.join(folder, name), (real, inner), {inner}, name)
    return images


def _walk(place, above, seen, name):
    """Yield the images of a class from a folder and those in it, each visited once.

    `above` are the real paths of this folder and of those around it.
    """
    for entry in _entries(place):
        real = _real(entry, above[-1])
        if _is_image(entry):
            yield _Image(entry.path, real, _is_file(entry), name)
        elif _is_folder(entry) and real not in seen:
            if not any(_is_within(folder, real) for folder in above):
                seen.add(real)
                yield from _walk(entry.path, (*above, real), seen, name)


def _real(entry, folder):
    """Return the real path of an entry of a folder with this real path."""
    linked = entry.is_symlink()
    return os.path.realpath(entry.path) if linked else os.path.join(folder, entry.name)


def _is_image(entry):
    return entry.name.lower().endswith(ENDINGS) and not _is_folder(entry)


def _is_folder(entry):
    with contextlib.suppress(OSError):  # of a link to itself
        return entry.is_dir()
    return False


def _is_file(entry):
    with contextlib.suppress(OSError):
        return entry.is_file()
    return False


def _is_within(path, folder):
    return os.path.commonpath((path, folder)) == folder


def _annotated(images, annotations):
    """Return the same images, with the class names from a file."""
    with regular(annotations).open() as lines:
        names = dict(line.split()[:2] for line in lines if line.strip())
    return [i._replace(name=names.get(os.path.basename(i.path))) for i in images]


def _check_apart(train, val):
    tested = {image.real: image.path for image in val}
    for image in train:
        if image.real in tested:
            raise ValueError(
                "No image may be for training and for testing, or the accuracy would "
                f"say nothing. Received: {image.path} and {tested[image.real]}, which "
                "are one file. Remove the symbolic link."
            )


def _without_corrupt(images):
    files = [image for image in images if image.ordinary]
    if not files:
        return files
    paths = tf.data.Dataset.from_tensor_slices([image.path for image in files])
    sizes = paths.enumerate().map(
        lambda number, path: (number, tf.size(streaming.decode(tf.io.read_file(path)))),
        num_parallel_calls=streaming.THREADS,
    )
    numbers = [number for number, _ in sizes.ignore_errors().as_numpy_iterator()]
    whole = [files[number] for number in numbers]
    bad = sorted({i.path for i in images} - {i.path for i in whole})
    if bad:
        logging.warning(
            "skip_corrupt leaves out %d of %d files, which are no whole images: %s",
            len(bad),
            len(images),
            ", ".join(bad[:10]) + (", ..." if len(bad) > 10 else ""),
        )
    return whole


def _numbered(folder, images, numbers):
    for image in images:
        if not image.ordinary:
            raise ValueError(
                "An image must be an ordinary file. Received: "
                f"{image.path}, which is a pipe, a device, or a link to nothing. "
                "Remove it, or set --config.data.skip_corrupt=True to leave it out."
            )
        if image.name not in numbers:
            raise ValueError(
                "Every image must belong to a class that has a folder in train/. "
                f"Received: {image.path}, of class {image.name!r}. {LAYOUT}"
            )
    if not images:
        raise ValueError(
            f"There must be an image ending in {', '.join(ENDINGS)}. Received: "
            f"{folder} with none. {LAYOUT}"
        )
    paths = np.array([image.path for image in images], object)
    labels = np.array([numbers[image.name] for image in images], "int32")
    order = np.lexsort((labels, rank_in_class(labels)))  # by rank, then by class
    return Files(paths[order], labels[order])


def _pixels(paths):
    dataset = tf.data.Dataset.from_tensor_slices(paths).map(
        streaming.decode_file, num_parallel_calls=streaming.THREADS
    )
    images, found = [], dataset.as_numpy_iterator()
    for path in paths:
        try:
            image = next(found)
        except tf.errors.InvalidArgumentError as e:
            raise ValueError(
                f"Every image file must be whole. Received: {path}, which cannot be "
                "decoded. Remove or replace it, or set --config.data.skip_corrupt=True."
            ) from e
        images.append(image)
        if image.shape != images[0].shape:
            raise ValueError(
                "Images are kept in memory only if they are of one size. Received: "
                f"{paths[0]} of shape {images[0].shape} and {path} of shape "
                f"{image.shape}. Set --config.data.image_size=224 to resize them."
            )
    return np.stack(images)
