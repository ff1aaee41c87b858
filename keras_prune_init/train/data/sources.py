"""Read `(x_train, y_train, x_test, y_test)` as each kind of source stores them.

`loading` checks them and brings them into one shape. `folders` reads image files.
"""

import contextlib
import gzip
import importlib.resources
import math
import pathlib
import zlib

import keras
import numpy as np

from keras_prune_init import _files
from keras_prune_init.train.data.streaming import StreamedImages, decode

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
KERAS_DATASETS = ("cifar10", "cifar100", "fashion_mnist", "mnist")
# MNIST's own names for the four arrays, in the order of `ARRAYS`.
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_embedded():
    """Read the Fashion-MNIST subset that comes with the package."""
    package = importlib.resources.files("keras_prune_init.train")
    with importlib.resources.as_file(package / "embedded") as folder:
        return read_npz(folder / "fashion_mnist_mini.npz")


def read_npz(path):
    """Read an `.npz` file with the keys `x_train`, `y_train`, `x_test`, `y_test`."""
    path = _files.regular(path)
    if not path.exists():
        raise FileNotFoundError(
            f"An npz data source is a file. Received: npz:{path}, which does not "
            "exist. Pass the path of a file that np.savez made."
        )
    try:
        with np.load(path) as stored:
            keys, arrays = list(stored), {k: stored[k] for k in ARRAYS if k in stored}
    except Exception as e:  # whatever zipfile and numpy meet in a damaged file
        raise ValueError(
            "An npz data source is a file that np.savez made, of plain arrays. "
            f"Received: {path}, and numpy says: {type(e).__name__}: {e}. Make it again."
        ) from e
    if len(arrays) < len(ARRAYS):
        raise ValueError(
            f"An npz data source needs the keys {', '.join(ARRAYS)}. Received: "
            f"{path} with the keys {', '.join(keys) or '(none)'}. Save it with "
            f"np.savez(path, {', '.join(f'{key}=...' for key in ARRAYS)})."
        )
    return tuple(arrays[key] for key in ARRAYS)


def read_idx(folder):
    """Read a folder with the four files of MNIST, each plain or gzipped."""
    folder = pathlib.Path(folder)
    paths = []
    for name in IDX_FILES:
        both = folder / name, folder / f"{name}.gz"
        found = [path for path in both if _files.regular(path).exists()]
        if not found:
            raise FileNotFoundError(
                f"An idx data source is a folder with the files {', '.join(IDX_FILES)}"
                f" (or the same names with .gz). Received: {folder}, without {name}. "
                "Put the missing file there."
            )
        paths.append(found[0])
    return tuple(_read_idx_file(path) for path in paths)


def _read_idx_file(path):
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise ValueError(
            f"A .gz file must be whole. Received: {path}, and gzip says: {e}. Fetch "
            "the file again."
        ) from e
    # Header: two zero bytes, the type (8 = unsigned byte), the number of dimensions,
    # then every dimension as a big-endian 32-bit integer.
    start = 4 + 4 * content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or len(content) < start:
        raise ValueError(
            "An idx file of images or labels starts with the bytes 00 00 08. Received: "
            f"{path}, which starts with {content[:4].hex(' ') or '(nothing)'}. "
            "Fetch the file again."
        )
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    if not shape or len(content) - start != math.prod(shape):
        raise ValueError(
            f"An idx file holds as many bytes as its header says. Received: {path} "
            f"with {len(content) - start} bytes for shape {tuple(shape)}. "
            "Fetch the file again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_tfds(name):
    """Read a `tensorflow_datasets` data set: NAME, or NAME,TRAIN,TEST with splits."""
    name, *split = name.split(",")
    split = split or ["train", "test"]
    more = ", of one size (data.image_size resizes others)"
    with _tfds(name, split, more) as tfds:
        splits = tfds.load(name, split=split, as_supervised=True)
        # Not batch_size=-1: that batch of 2^63 images aborts TensorFlow 2.21.
        parts = [list(tfds.as_numpy(split.batch(1000))) for split in splits]
        arrays = [np.concatenate(a) for part in parts for a in zip(*part, strict=True)]
    return tuple(arrays)


def stream_tfds(name, size):
    """Return a `tensorflow_datasets` data set as a streaming source.

    The split "validation" is used for testing, if there is one. A data set such as
    imagenet2012 has no labels in its split "test".
    """
    source, (name, *splits) = name, name.split(",")
    with _tfds(name, splits or ["train", "validation or test"]) as tfds:
        builder = tfds.builder(name)
        builder.download_and_prepare()
        image, label = builder.info.supervised_keys
        known = builder.info.splits
        splits = splits or ("train", "validation" if "validation" in known else "test")
        examples = tuple(
            builder.as_dataset(
                split=split,
                as_supervised=True,
                decoders={image: tfds.decode.SkipDecoding()},
            )
            for split in splits
        )
        classes = builder.info.features[label].num_classes
    return StreamedImages(
        f"tfds:{source}",
        examples,
        classes,
        size,
        image=decode,
        window=4096,  # about 450 MB of ImageNet's files, whose order is random already
    )


@contextlib.contextmanager
def _tfds(name, splits, more=""):
    """Yield the package, which only this source needs, and explain its errors."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"The data source tfds:{name} needs tensorflow_datasets. "
            "Install it with: pip install 'keras_prune_init[data]'"
        ) from error
    if len(splits) != 2:
        raise ValueError(
            "A tfds source is tfds:NAME, or tfds:NAME,TRAIN,TEST with two splits, such "
            f"as train[:90%]. Received: tfds:{name} with the splits {splits}. "
            "Name two."
        )
    try:
        yield tfds
    # Whatever goes wrong inside (no network, no such data set, no labels, images of
    # several sizes), the way out is the same.
    except Exception as error:
        raise RuntimeError(
            f"tensorflow_datasets could not provide {name} with the splits {splits[0]} "
            f"and {splits[1]} as (image, label) pairs{more}. It said: {error}\n"
            "If the download failed, run tfds.load on a machine with a network and "
            "copy its folder tensorflow_datasets/ into your home (or set "
            "TFDS_DATA_DIR). " + _WITHOUT_NETWORK
        ) from error


def read_keras(name):
    """Read one of the image sets of `keras.datasets`."""
    if name not in KERAS_DATASETS:
        raise ValueError(
            f"A keras data source is one of {', '.join(KERAS_DATASETS)}. "
            f"Received: keras:{name}. Choose one of them, or use tfds:{name}."
        )
    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception when a fetch fails
        raise RuntimeError(
            f"keras.datasets.{name} could not be loaded. It said: {error}\n"
            "Without a network here, run this where there is one, and copy the file:\n"
            f"  python -c 'import keras, numpy as np; "
            f"(a, b), (c, d) = keras.datasets.{name}.load_data(); "
            f'np.savez("{name}.npz", x_train=a, y_train=b, x_test=c, y_test=d)\'\n'
            f"Then use npz:{name}.npz as the data source. " + _WITHOUT_NETWORK
        ) from error
    return (*train, *test)


_WITHOUT_NETWORK = (
    "Other sources that need no download: npz:PATH, idx:FOLDER, folder:PATH, and the "
    "embedded fashion_mnist_mini."
)
