"""`load_images`: images from any source, by its name."""

import numpy as np

from keras_prune_init.train.data import folders, sources
from keras_prune_init.train.data.memory import ImageData
from keras_prune_init.train.data.streaming import StreamedImages

EMBEDDED = "fashion_mnist_mini"


def load_images(
    source: str = EMBEDDED, image_size: int | None = None, skip_corrupt: bool = False
) -> ImageData | StreamedImages:
    """Load a data source by name.

    Args:
        source: One of these:
            `"fashion_mnist_mini"`, which comes with the package.
            `"npz:PATH"` with the keys x_train, y_train, x_test, y_test.
            `"idx:FOLDER"` with the four files of MNIST.
            `"folder:PATH"` with image files as in ImageNet or Tiny-ImageNet.
            `"tfds:NAME"` or `"tfds:NAME,TRAIN,TEST"` with splits such as `train[:90%]`
            (tensorflow_datasets).
            `"keras:NAME"` (keras.datasets).
        image_size: `None` keeps all images in memory; they must have one size. A number
            reads images while they are needed, and resizes them to so many pixels
            (`StreamedImages`); only for `folder` and `tfds`. tensorflow_datasets itself
            keeps the files of sets below 250 MiB in memory.
        skip_corrupt: Leave out files of a `folder` that are no complete images, and log
            how many. All files are decoded once for that.

    Raises:
        ValueError: If the source is unknown or has no labelled images.
        FileNotFoundError: If a file is missing; the message names it.
        RuntimeError: If a download failed; the message says what to do instead.

    Example:

    >>> from keras_prune_init.train.data.loading import load_images
    >>> data = load_images("fashion_mnist_mini")
    >>> data.input_shape, data.classes, data.sizes
    ((28, 28, 1), 10, (10000, 2000))
    """
    kind, _, where = source.partition(":")
    readers = {
        "npz": sources.read_npz,
        "idx": sources.read_idx,
        "folder": folders.read,
        "tfds": sources.read_tfds,
        "keras": sources.read_keras,
    }
    streams = {"folder": folders.stream, "tfds": sources.stream_tfds}
    if source != EMBEDDED and (kind not in readers or not where):
        raise ValueError(
            f"A data source is {EMBEDDED}, npz:PATH, idx:FOLDER, folder:PATH, "
            f"tfds:NAME or keras:NAME. Received: source={source!r}. Write one of these."
        )
    if skip_corrupt and kind != "folder":
        raise ValueError(
            "`skip_corrupt` is for sources folder:PATH, which have files of images."
            f" Received: skip_corrupt=True with source={source!r}. Leave it out."
        )
    options = {"skip_corrupt": True} if skip_corrupt else {}
    if image_size is None:
        arrays = readers[kind](where, **options) if where else sources.read_embedded()
        return _check(source, *arrays)
    if kind not in streams or image_size < 1:
        raise ValueError(
            "`image_size` is a number of pixels, for the sources folder:PATH and "
            f"tfds:NAME. Received: image_size={image_size} with source={source!r}. "
            "Leave it out to use images as they are."
        )
    return streams[kind](where, image_size, **options)


def _check(source, x_train, y_train, x_test, y_test):
    """Return the arrays of a source as `ImageData`, or explain what is wrong."""
    x_train, y_train = _check_part(f"train of {source}", x_train, y_train)
    x_test, y_test = _check_part(f"test of {source}", x_test, y_test)
    last = int(y_train.max())
    lowest = min(int(y_train.min()), int(y_test.min()))
    highest = max(last, int(y_test.max()))
    if lowest < 0 or highest > last or highest >= np.iinfo("int32").max:
        raise ValueError(
            "Labels must count from 0, in 32 bits, and every test label must occur in "
            f"training. Received: labels {lowest}..{highest} in {source}, with {last} "
            "the last of training. Renumber the labels."
        )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            "Training and test images must have one shape. Received: "
            f"{x_train.shape[1:]} and {x_test.shape[1:]} in {source}. Resize one of "
            "them."
        )
    labels = y_train.astype("int32"), y_test.astype("int32")
    return ImageData(source, x_train, labels[0], x_test, labels[1], last + 1)


def _check_part(name, x, y):
    """Return images with channels and their labels, of one part of a source."""
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or x.dtype != np.uint8:
        raise ValueError(
            "Images must be uint8 of shape (images, height, width) or (images, "
            f"height, width, channels). Received: x_{name} with dtype {x.dtype} and "
            f"shape {x.shape}. Convert it, for values in [0, 1] by "
            "np.round(255 * x).astype('uint8')."
        )
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != x.shape[:1] or not len(y) or y.dtype.kind not in "iu":
        raise ValueError(
            "Labels must be one integer per image, for at least one image. "
            f"Received: y_{name} with dtype {y.dtype} and shape {y.shape} for {len(x)} "
            "images. Convert it, for one-hot labels by np.argmax(y, axis=-1)."
        )
    return x, y
