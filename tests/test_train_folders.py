"""Folders of image files as a data source, kept in memory or streamed."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from image_files import imagenet_folder, tiny_imagenet_folder, write_image

from keras_prune_init.train.data import folders, streaming
from keras_prune_init.train.data.loading import load_images

MEAN, STD = np.array(streaming.MEAN), np.array(streaming.STD)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return imagenet_folder(tmp_path_factory.mktemp("imagenet"))


def batches(dataset):
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def pixels(x):
    """Undoes the normalization."""
    return x * STD + MEAN


def path_of(source):
    return source.partition(":")[2]


# --- which files there are ------------------------------------------------------------


def test_layout_of_imagenet(imagenet):
    train, test, classes = folders.find(path_of(imagenet))
    assert classes == 3
    # One image of each class, then the next of each.
    assert train.labels.tolist() == [0, 1, 2] * 4
    assert [path[-12:] for path in train.paths[2:4]] == ["n0002_0.JPEG", "n0000_1.JPEG"]
    assert test.labels.tolist() == [0, 1, 2] * 2
    assert all("/val/" in path for path in test.paths)


def test_layout_of_tiny_imagenet(tmp_path):
    tiny_imagenet_folder(tmp_path, size=16)
    train, test, classes = folders.find(tmp_path)
    assert (classes, len(train.paths)) == (3, 12)
    assert test.labels.tolist() == [0, 1, 2]
    names = [path.rpartition("/")[2] for path in test.paths]
    assert names == ["val_2.JPEG", "val_1.JPEG", "val_0.JPEG"]


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ([], FileNotFoundError, "folders train/ and val/.*without .*train"),
        (["train/a/1.png"], FileNotFoundError, "without .*val"),
        (["train/a/1.png", "val/a/1.png"], ValueError, r"two classes.*\['a'\]"),
        (
            ["train/a/1.txt", "train/b/1.txt", "val/a/1.png"],
            ValueError,
            "train with no",
        ),
        (["train/a/1.png", "train/b/1.txt", "val/a/1.png"], ValueError, "file in .*b"),
        (["train/a/1.png", "train/b/1.png", "val/c/1.png"], ValueError, "class 'c'"),
        (["train/a/1.png", "train/b/1.png", "val/1.txt"], ValueError, "val with none"),
        (["train/1.png", "train/a/1", "train/b/1", "val/1"], ValueError, "train/1.png"),
    ],
)
def test_folders_that_are_no_source_are_refused(tmp_path, files, error, message):
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(error, match=message):
        load_images(f"folder:{tmp_path}")


# --- in memory ------------------------------------------------------------------------


def test_images_of_one_size_are_kept_in_memory(tmp_path):
    for number, name in enumerate(("train/a/1", "train/b/1", "val/a/1")):
        write_image(tmp_path / f"{name}.png", 8, 6, number)
    data = load_images(f"folder:{tmp_path}")
    assert (data.input_shape, data.classes, data.sizes) == ((8, 6, 3), 2, (2, 1))
    stored = tf.io.decode_png(tf.io.read_file(str(tmp_path / "train/b/1.png")))
    np.testing.assert_array_equal(data.x_train[1], stored)
    assert data.y_train.tolist() == [0, 1]


def test_images_of_several_sizes_are_refused_in_memory(imagenet):
    with pytest.raises(ValueError, match="of one size.*Set --config.data.image_size"):
        load_images(imagenet)


# --- streamed -------------------------------------------------------------------------


def test_streamed_source_has_the_interface_of_one_in_memory(imagenet):
    data = load_images(imagenet, 32)
    assert (data.input_shape, data.classes, data.sizes) == ((32, 32, 3), 3, (12, 6))
    assert data.steps(5) == len(data.train(5)) == 2
    first = data.first(5, 2)
    assert (first.sizes, first.classes) == ((5, 2), 3)
    x, y = zip(*batches(data.test(4)), strict=True)
    assert [len(part) for part in x] == [4, 2] and x[0].dtype == np.float32
    assert np.concatenate(y).tolist() == [0, 1, 2, 0, 1, 2] and y[0].dtype == np.int32


def test_an_epoch_holds_every_image_once_and_each_epoch_has_its_own_order(imagenet):
    data = load_images(imagenet, 8)
    test = load_images(imagenet, 8).test(1)
    assert len(batches(test)) == 6
    images = [x for x, _ in batches(data.train(12, epochs=2))]
    first, second = (x.reshape(12, -1) for x in images)
    assert (first != second).any()
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(second, axis=0))
    assert len(np.unique(first, axis=0)) == 12


@pytest.mark.parametrize("augment", ["", "resized_crop+flip"])
def test_batches_depend_only_on_seed_and_epoch(imagenet, augment):
    data = load_images(imagenet, 8)
    tf.random.set_seed(1)
    whole = batches(data.train(5, seed=5, augment=augment, epochs=3))
    tf.random.set_seed(2)
    rest = batches(data.train(5, seed=5, augment=augment, first_batch=3, epochs=2))
    for (x, y), (x2, y2) in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
    other = batches(data.train(5, seed=6, augment=augment))
    assert (whole[0][0] != other[0][0]).any()


def test_examples_are_shuffled_within_windows():
    examples = tf.data.Dataset.from_tensor_slices((tf.range(10), tf.range(10)))
    shuffled = streaming._shuffle(examples, 4, tf.constant([0, 0], tf.int64))
    keys, labels = zip(*shuffled.as_numpy_iterator(), strict=True)
    assert keys == labels and keys != tuple(range(10))
    windows = keys[:4], keys[4:8], keys[8:]
    assert [sorted(w) for w in windows] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def gradient_source(tmp_path, height, width, **arguments):
    """A source with one image, whose red is its row and whose green is its column."""
    image = np.zeros((height, width, 3), "uint8")
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)
    path = tmp_path / "gradient.png"
    path.write_bytes(tf.io.encode_png(image).numpy())
    one = tf.data.Dataset.from_tensors((str(path), 0))
    return streaming.StreamedImages(
        "gradient", (one, one), 2, image=streaming.decode_file, window=1, **arguments
    )


def test_testing_takes_the_middle_of_an_image(tmp_path):
    # 7/8 of the shorter side of 64 are 56 pixels, from row 4 and column 22 on.
    data = gradient_source(tmp_path, 64, 100, size=56)
    image = pixels(batches(data.test(1))[0][0])[0]
    np.testing.assert_allclose(image[:, 0, 0], np.arange(4, 60), atol=1e-3)
    np.testing.assert_allclose(image[0, :, 1], np.arange(22, 78), atol=1e-3)
    np.testing.assert_allclose(pixels(batches(data.train(1))[0][0])[0], image)


def test_resized_crop_takes_parts_of_the_published_sizes(tmp_path):
    data = gradient_source(tmp_path, 120, 120, size=24)
    images = [
        pixels(x)[0]
        for x, _ in batches(data.train(1, augment="resized_crop", epochs=200))
    ]
    # Pixel centres are 1/24 of the part apart.
    high, wide = (
        np.array([np.ptp(i[..., c]) * 24 / 23 / 120 for i in images]) for c in (0, 1)
    )
    assert 0.07 < (high * wide).min() < 0.2 and 0.8 < (high * wide).max() <= 1.02
    ratio = wide / high
    assert 0.72 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.38
    assert all(np.diff(i[0, :, 1]).min() > 0 for i in images)  # none is mirrored
    corners = {tuple(np.round(i[0, 0, :2])) for i in images}
    assert len(corners) > 100


def test_flip_mirrors_about_half_of_the_images(tmp_path):
    data = gradient_source(tmp_path, 16, 16, size=14)
    images = [
        pixels(x)[0] for x, _ in batches(data.train(1, augment="flip", epochs=100))
    ]
    mirrored = [i[0, 0, 1] > i[0, -1, 1] for i in images]
    assert 30 < sum(mirrored) < 70
    for image, mirror in zip(images, mirrored, strict=True):
        green = np.arange(1, 15)
        expected = green[::-1] if mirror else green
        np.testing.assert_allclose(image[0, :, 1], expected, atol=1e-3)


def test_grey_images_get_three_channels(tmp_path):
    for name in ("train/a/1", "train/b/1", "val/a/1"):
        path = tmp_path / f"{name}.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(tf.io.encode_jpeg(np.full((9, 7, 1), 90, "uint8")).numpy())
    (x, _), *_ = batches(load_images(f"folder:{tmp_path}", 8).test(1))
    np.testing.assert_allclose(pixels(x), 90, atol=1.5)


@pytest.mark.parametrize(
    ("splits", "tested"),
    [(("train", "validation", "test"), "validation"), ((), "test")],
)
def test_streamed_tfds_source(monkeypatch, splits, tested):
    asked = []

    def as_dataset(builder, split, **kwargs):
        asked.append(split)
        encoded = tf.io.encode_jpeg(tf.zeros([9, 9, 3], tf.uint8))
        example = {"image": encoded, "label": tf.constant(7, tf.int64)}
        return tf.data.Dataset.from_tensors(example).repeat(6)

    empty = {"shard_lengths": [], "num_bytes": 0, "filename_template": None}
    infos = {name: tfds.core.SplitInfo(name=name, **empty) for name in splits}
    monkeypatch.setattr(tfds.core.DatasetInfo, "splits", infos)
    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        data = load_images("tfds:imagenet2012", 16)
    assert asked == ["train", tested]
    assert (data.input_shape, data.classes, data.sizes) == ((16, 16, 3), 1000, (6, 6))
    [(x, y)] = batches(data.train(4))
    np.testing.assert_allclose(pixels(x), 0, atol=1e-3)
    assert y.tolist() == [7, 7, 7, 7] and y.dtype == np.int32


class Dots(tfds.core.GeneratorBasedBuilder):
    """Images of several sizes, the number of each its class."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(num_classes=20),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples(20)}

    def _generate_examples(self, count):
        for number in range(count):
            image = np.full((8 + number, 8, 3), 10 * number, "uint8")
            yield number, {"image": image, "label": number}


def test_files_that_tfds_wrote_are_streamed(monkeypatch, tmp_path):
    builder = tfds.builder("dots", data_dir=tmp_path)
    builder.download_and_prepare()
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    data = load_images("tfds:dots,train[:80%],train[80%:]", 6)
    assert (data.sizes, data.classes, data.input_shape) == ((16, 4), 20, (6, 6, 3))
    images = batches(data.train(4, epochs=2)) + batches(data.test(4))
    for x, y in images:
        shown = np.broadcast_to(10 * y[:, None, None, None], x.shape)
        np.testing.assert_allclose(pixels(x), shown, atol=1e-3)
    *train, test = [y.tolist() for _, y in images]
    assert len({*sum(train[:4], [])}) == 16 and not {*sum(train, [])} & {*test}


@pytest.mark.parametrize(
    ("source", "size"), [("fashion_mnist_mini", 32), ("npz:a.npz", 32), ("folder:a", 0)]
)
def test_impossible_image_size_is_refused(source, size):
    with pytest.raises(ValueError, match=f"Received: image_size={size} with"):
        load_images(source, size)


def test_augmentations_of_the_other_kind_are_refused_with_the_way_out(imagenet):
    with pytest.raises(ValueError, match="augment='crop'.*image_size=None"):
        load_images(imagenet, 8).train(4, augment="crop")
    with pytest.raises(ValueError, match="augment='resized_crop'.*data.image_size"):
        load_images().train(4, augment="resized_crop")


def test_streams_do_not_tune_themselves(imagenet):
    # An iterator that does was seen to hang for many seconds when it is deleted.
    data = load_images(imagenet, 8)
    for dataset in (data.train(4), data.test(4)):
        assert dataset.options().autotune.enabled is False


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("part", ["train", "val"])
def test_an_image_that_is_cut_off_is_named(tmp_path, part, size):
    for name in ("train/a/0", "train/a/1", "train/b/0", "val/a/0", "val/b/0"):
        write_image(tmp_path / f"{name}.jpg", 20, 20)
    bad = next((tmp_path / part / "a").glob("0.jpg"))
    bad.write_bytes(bad.read_bytes()[:200])
    error = ValueError if size is None else tf.errors.InvalidArgumentError
    with pytest.raises(error, match=f"whole.*{bad}"):
        data = load_images(f"folder:{tmp_path}", size)
        list(data.train(3) if part == "train" else data.test(3))


# --- files that are no images, and links ----------------------------------------------


def small_folder(folder, images=("train/a/0", "train/a/1", "train/b/0", "val/a/0")):
    for number, name in enumerate((*images, "val/b/0")):
        write_image(folder / f"{name}.png", 20, 20, number)
    return f"folder:{folder}"


@pytest.mark.parametrize("size", [None, 16])
def test_corrupt_images_are_left_out_if_that_is_wanted(tmp_path, size, caplog):
    source = small_folder(tmp_path)
    clean = load_images(source, size)
    for name in ("train/a/bad", "train/b/empty", "val/a/bad"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    (tmp_path / "train/a/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (tmp_path / "train/b/gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "val/b/pipe.png")
    (tmp_path / "val/b/self.png").symlink_to("self.png")
    with caplog.at_level("WARNING"):
        data = load_images(source, size, skip_corrupt=True)
    assert "leaves out 3 of 6 files" in caplog.text
    assert "leaves out 3 of 5 files" in caplog.text and "val/a/bad.png" in caplog.text
    for part in ("train", "test"):
        for new, old in zip(
            batches(getattr(data, part)(2)),
            batches(getattr(clean, part)(2)),
            strict=True,
        ):
            np.testing.assert_array_equal(new[0], old[0])
            np.testing.assert_array_equal(new[1], old[1])


def test_only_folders_have_files_to_leave_out():
    with pytest.raises(ValueError, match="Received: skip_corrupt=True with source='fa"):
        load_images(skip_corrupt=True)


@pytest.mark.parametrize("kind", ["pipe", "device", "link to nothing"])
def test_what_is_no_ordinary_file_is_refused_before_it_is_read(tmp_path, kind):
    source = small_folder(tmp_path)
    path = tmp_path / "train/a/2.png"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    with pytest.raises(ValueError, match=f"ordinary file. Received: {path}, which"):
        load_images(source)


@pytest.mark.parametrize(
    "links",
    [
        {"train/a/again": "."},
        {"train/a/up": ".."},
        {"train/a/root": "../.."},
        {"train/again": "."},
        {"train/root": ".."},
        {"val/a/root": "../..", "val/root": ".."},
        {"train/a/far": "../../store", "store/back": "../train", "store/again": "."},
        {"train/a/far": "../../store/one", "store/one/up": ".."},
    ],
)
def test_loops_of_links_are_followed_once(tmp_path, links):
    source = small_folder(tmp_path)
    clean = folders.find(tmp_path)
    (tmp_path / "store/one").mkdir(parents=True)
    for path, target in links.items():
        (tmp_path / path).symlink_to(target)
    for new, old in zip(folders.find(tmp_path)[:2], clean[:2], strict=True):
        assert sorted(new.paths) == sorted(old.paths)
        assert sorted(new.labels) == sorted(old.labels)
    assert load_images(source).classes == 2


def test_links_to_images_elsewhere_are_followed(tmp_path):
    small_folder(tmp_path)
    write_image(tmp_path / "store/deep/9.png", 20, 20)
    (tmp_path / "train/a/more").symlink_to(tmp_path / "store")
    (tmp_path / "train/b/8.png").symlink_to(tmp_path / "store/deep/9.png")
    train, _, _ = folders.find(tmp_path)
    assert sorted(
        os.path.relpath(path, tmp_path / "train") for path in train.paths
    ) == [*("a/0.png", "a/1.png", "a/more/deep/9.png", "b/0.png", "b/8.png")]
    assert sorted(train.labels) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("train/a/tested", "../../val/a"),
        ("train/a/9.png", "../../val/a/0.png"),
        ("val/a/trained", "../../train/b"),
    ],
)
def test_an_image_is_for_training_or_for_testing(tmp_path, path, target):
    small_folder(tmp_path)
    (tmp_path / path).symlink_to(target)
    with pytest.raises(ValueError, match="for training and for testing.*one file"):
        folders.find(tmp_path)


def test_labels_of_a_stream_must_be_classes():
    image = np.zeros((8, 8, 3), "uint8")
    encoded = tf.io.encode_png(image)
    for label in (-1, 3, 2**32 + 1):
        examples = tf.data.Dataset.from_tensors((encoded, tf.constant(label, tf.int64)))
        data = streaming.StreamedImages(
            "mine", (examples, examples), 3, 8, streaming.decode, 1
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 2"):
            list(data.test(1))
