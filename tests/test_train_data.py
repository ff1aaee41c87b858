"""Data sources and pipelines of the training binary."""

import gzip
import importlib.resources

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_prune_init.train.data import sources
from keras_prune_init.train.data.loading import load_images
from keras_prune_init.train.data.memory import ImageData

EMBEDDED = importlib.resources.files("keras_prune_init.train") / "embedded"


def numbered_images(count=10, size=(12, 10, 1)):
    """Image i holds random pixels; its label is i."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, *size), "uint8")
    y = np.arange(count, dtype="int32")
    return ImageData("numbered", x, y, x[:4], y[:4], count)


def batches(dataset):
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def to_pixels(data, x):
    """Undoes the normalization."""
    mean, scale = data.x_train.mean((0, 1, 2)), 1 / data.x_train.std((0, 1, 2))
    return np.round(x / scale + mean).astype("int32")


# --- sources --------------------------------------------------------------------------


def test_embedded_data_is_balanced_fashion_mnist():
    data = load_images("fashion_mnist_mini")
    assert (data.input_shape, data.classes) == ((28, 28, 1), 10)
    assert data.sizes == (10_000, 2_000)
    np.testing.assert_array_equal(np.bincount(data.y_train), [1000] * 10)
    np.testing.assert_array_equal(np.bincount(data.y_test), [200] * 10)
    # The first labels of the original files: ankle boot, T-shirt, T-shirt, dress.
    assert data.y_train[:4].tolist() == [9, 0, 0, 3]
    assert data.y_test[:4].tolist() == [9, 2, 1, 1]
    assert data.x_train[0].sum() == 76247


def test_embedded_file_is_small_and_has_its_licence_beside_it():
    size = len((EMBEDDED / "fashion_mnist_mini.npz").read_bytes())
    assert size <= 6 * 2**20
    notice = (EMBEDDED / "LICENSE.fashion_mnist").read_text(encoding="utf-8")
    assert "MIT License" in notice and "2017 Zalando SE" in notice


def arrays(count=6):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (count, 5, 4), "uint8")
    y = np.arange(count, dtype="uint8") % 3
    return {"x_train": x, "y_train": y, "x_test": x[:3], "y_test": y[:3]}


def test_npz_source(tmp_path):
    stored = arrays()
    np.savez(tmp_path / "a.npz", **stored)
    data = load_images(f"npz:{tmp_path}/a.npz")
    np.testing.assert_array_equal(data.x_train[..., 0], stored["x_train"])
    np.testing.assert_array_equal(data.y_test, stored["y_test"])
    assert (data.input_shape, data.classes, data.sizes) == ((5, 4, 1), 3, (6, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_test": None}, "keys x_train, y_train, x_test, y_test. Received: .*a.npz"),
        ({"x_train": np.zeros((6, 5, 4))}, r"uint8.*Received: x_train of.*float64"),
        ({"x_test": np.zeros((3, 20), "uint8")}, r"Received: x_test.*shape \(3, 20\)"),
        ({"y_train": np.zeros(5, int)}, r"y_train.*shape \(5,\) for 6 images"),
        ({"y_train": np.eye(6)}, "one-hot labels by np.argmax"),
        ({"y_test": np.array([0, 1, 7])}, r"labels 0..7 in.*with 2 the last"),
        ({"y_train": np.arange(6) + 2**32}, r"in 32 bits.*labels 0..4294967301 in"),
        ({"y_train": np.arange(6) - 2**32}, r"in 32 bits.*labels -4294967296..2 in"),
        ({"y_train": np.full(6, 2**31 - 1)}, r"in 32 bits.*labels 0..2147483647 in"),
        ({"x_test": np.zeros((3, 9, 9), "uint8")}, r"one shape.*\(9, 9, 1\)"),
    ],
)
def test_arrays_that_are_not_labelled_images_are_refused(tmp_path, change, message):
    stored = {k: v for k, v in (arrays() | change).items() if v is not None}
    np.savez(tmp_path / "a.npz", **stored)
    with pytest.raises(ValueError, match=message):
        load_images(f"npz:{tmp_path}/a.npz")


def test_what_is_no_npz_file_is_named(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(
        FileNotFoundError, match=f"Received: npz:{path}, which does not"
    ):
        load_images(f"npz:{path}")
    with pytest.raises(ValueError, match="a folder, a pipe or a device"):
        load_images(f"npz:{tmp_path}")
    np.savez(path, x_train=np.array([{}], object))
    with pytest.raises(ValueError, match=f"Received: {path}, and numpy says: .*pickle"):
        load_images(f"npz:{path}")


def write_idx(path, array, opener):
    header = bytes([0, 0, 8, array.ndim])
    with opener(path, "wb") as file:
        file.write(header + np.array(array.shape, ">i4").tobytes() + array.tobytes())


@pytest.mark.parametrize(("opener", "ending"), [(open, ""), (gzip.open, ".gz")])
def test_idx_source_reads_the_files_of_mnist(tmp_path, opener, ending):
    stored = arrays()
    for split, name in (("train", "train"), ("test", "t10k")):
        write_idx(
            tmp_path / f"{name}-images-idx3-ubyte{ending}", stored[f"x_{split}"], opener
        )
        write_idx(
            tmp_path / f"{name}-labels-idx1-ubyte{ending}", stored[f"y_{split}"], opener
        )
    data = load_images(f"idx:{tmp_path}")
    np.testing.assert_array_equal(data.x_train[..., 0], stored["x_train"])
    np.testing.assert_array_equal(data.y_train, stored["y_train"])
    np.testing.assert_array_equal(data.x_test[..., 0], stored["x_test"])


def test_idx_source_names_what_is_missing_or_broken(tmp_path):
    with pytest.raises(FileNotFoundError, match="without train-images-idx3-ubyte"):
        load_images(f"idx:{tmp_path}")
    for name in sources.IDX_FILES:
        write_idx(tmp_path / name, np.zeros((2, 3), "uint8"), open)
    broken = tmp_path / "train-labels-idx1-ubyte"
    broken.write_bytes(broken.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"train-labels.*with 5 bytes for shape \(2, 3"
    ):
        load_images(f"idx:{tmp_path}")
    broken.write_bytes(b"\0\0\x08\2" + b"\xff" * 8 + b"\0")
    with pytest.raises(ValueError, match=r"1 bytes for shape \(4294967295, 4294967295"):
        load_images(f"idx:{tmp_path}")
    broken.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="starts with 3c 68 74 6d"):
        load_images(f"idx:{tmp_path}")
    broken.unlink()
    broken.with_name(f"{broken.name}.gz").write_bytes(gzip.compress(bytes(99))[:-9])
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte.gz, and gzip says"):
        load_images(f"idx:{tmp_path}")


def test_tfds_source():
    with tfds.testing.mock_data(num_examples=12):
        data = load_images("tfds:cifar10")
    assert (data.input_shape, data.sizes) == ((32, 32, 3), (12, 12))
    assert data.x_train.dtype == np.uint8


def test_tfds_source_takes_splits(monkeypatch):
    asked = []

    def load_splits(name, split, as_supervised):
        asked.append((name, split))
        x, y = np.zeros((6, 4, 4, 1), "uint8"), np.arange(6) % 2
        return [tf.data.Dataset.from_tensor_slices((x, y)) for _ in split]

    monkeypatch.setattr(tfds, "load", load_splits)
    assert load_images("tfds:mnist,train[:90%],train[90%:]").sizes == (6, 6)
    assert asked == [("mnist", ["train[:90%]", "train[90%:]"])]
    for image_size in (None, 16):
        with pytest.raises(ValueError, match="with two splits"):
            load_images("tfds:mnist,train", image_size)


def test_tfds_source_says_what_to_do_when_a_download_fails(monkeypatch):
    def load_without_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(tfds, "load", load_without_network)
    with pytest.raises(RuntimeError, match="(?s)no route to host.*TFDS_DATA_DIR.*npz:"):
        load_images("tfds:mnist")


def test_keras_source(monkeypatch):
    stored = arrays()
    train, test = (
        (stored[f"x_{split}"], stored[f"y_{split}"][:, None])
        for split in ("train", "test")
    )
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (train, test))
    data = load_images("keras:cifar10")
    np.testing.assert_array_equal(data.y_train, stored["y_train"])


def test_keras_source_says_what_to_do_when_a_download_fails(monkeypatch):
    def load_data():
        raise Exception("URL fetch failure on https://example.org/mnist.npz")  # noqa

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    with pytest.raises(RuntimeError, match="(?s)URL fetch.*np.savez.*npz:mnist.npz"):
        load_images("keras:mnist")


@pytest.mark.parametrize("source", ["mnist", "npz:", "zip:x", "", "keras:imdb"])
def test_unknown_source_is_refused(source):
    with pytest.raises(ValueError, match=f"Received: .*{source}"):
        load_images(source)


# --- pipelines ------------------------------------------------------------------------


def test_training_images_are_normalized_per_channel():
    data = numbered_images(50, (6, 6, 3))
    x, y = batches(data.train(50))[0]
    assert x.dtype == np.float32 and y.dtype == np.int32
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=1e-5)
    np.testing.assert_array_equal(to_pixels(data, x), data.x_train[y])


def test_constant_channel_gives_zeros_and_not_nan():
    x, y = np.full((4, 3, 3, 1), 7, "uint8"), np.arange(4, dtype="int32")
    data = ImageData("constant", x, y, x, y, 4)
    assert not batches(data.train(4))[0][0].any()


def test_an_epoch_holds_every_image_once_and_each_epoch_has_its_own_order():
    data = numbered_images()
    labels = [y for _, y in batches(data.train(5, epochs=2))]
    assert [len(y) for y in labels] == [5, 5, 5, 5]
    first, second = np.concatenate(labels[:2]), np.concatenate(labels[2:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()


def test_batches_have_one_size_and_leave_out_other_images_in_each_epoch():
    data = numbered_images()
    labels = [y for _, y in batches(data.train(4, epochs=20))]
    assert {len(y) for y in labels} == {4}
    assert data.steps(4) == 2 and len(data.train(4, epochs=20)) == len(labels) == 40
    epochs = [{*labels[i], *labels[i + 1]} for i in range(0, 40, 2)]
    assert all(len(seen) == 8 for seen in epochs)
    assert set.union(*epochs) == set(range(10))
    with pytest.raises(ValueError, match="batches of 11 from 10 images"):
        data.train(11)


@pytest.mark.parametrize("augment", ImageData.augmentations)
def test_batches_depend_only_on_seed_and_epoch(augment):
    data = numbered_images()
    whole = batches(data.train(4, seed=5, augment=augment, epochs=3))
    rest = batches(data.train(4, seed=5, augment=augment, first_batch=3, epochs=2))
    for (x, y), (x2, y2) in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
    other = batches(data.train(4, seed=6, augment=augment))
    assert any((y != y2).any() for (_, y), (_, y2) in zip(whole, other, strict=False))


def test_flip_mirrors_about_half_of_the_images_and_changes_nothing_else():
    data = numbered_images(200)
    x, y = batches(data.train(200, augment="flip"))[0]
    pixels, original = to_pixels(data, x), data.x_train[y].astype("int32")
    same = (pixels == original).all((1, 2, 3))
    mirrored = (pixels == original[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_crop_shifts_each_image_by_its_own_number_of_pixels():
    data = numbered_images(100)
    x, y = batches(data.train(100, augment="crop"))[0]
    pixels = to_pixels(data, x)
    padded = np.pad(data.x_train, ((0, 0), (4, 4), (4, 4), (0, 0)))[y]
    found = set()
    for image, source in zip(pixels, padded, strict=True):
        shifts = [
            (i, j)
            for i in range(9)
            for j in range(9)
            if (source[i : i + 12, j : j + 10] == image).all()
        ]
        assert len(shifts) == 1
        found.add(shifts[0])
    assert len(found) > 40
    assert {i for i, _ in found} == {j for _, j in found} == set(range(9))


def test_test_images_stay_in_order_and_unaugmented():
    data = numbered_images()
    x, y = zip(*batches(data.test(3)), strict=True)
    np.testing.assert_array_equal(np.concatenate(y), data.y_test)
    np.testing.assert_array_equal(to_pixels(data, np.concatenate(x)), data.x_test)


def test_first_keeps_the_first_images():
    data = numbered_images().first(3, 2)
    assert data.sizes == (3, 2)
    assert data.y_train.tolist() == [0, 1, 2]


def test_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match="Received: augment='rotate'"):
        numbered_images().train(4, augment="rotate")


def test_pipelines_do_not_tune_themselves():
    # An iterator that does was seen to hang for many seconds when it is deleted.
    data = numbered_images()
    for dataset in (data.train(4), data.test(4)):
        assert dataset.options().autotune.enabled is False
