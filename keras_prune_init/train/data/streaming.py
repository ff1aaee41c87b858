"""Images that are read while they are needed, because they are many or unequal."""

import dataclasses
import os
from collections.abc import Callable

import tensorflow as tf

from keras_prune_init.train.data import pipelines

# Mean and standard deviation of ImageNet's channels, as published with most of its
# models, for pixels in 0..255.
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
# For testing, the share of the shorter side that is kept: 224 of 256 pixels.
CENTRE = 224 / 256
THREADS = os.cpu_count()


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedImages(pipelines.Images):
    """Training and test images of one source, decoded and resized inside `tf.data`.

    For training, `"resized_crop"` cuts out 8 to 100 % of the area, with aspect ratio
    3/4 to 4/3, and `"flip"` mirrors each image left-right with probability 1/2. Without
    a crop, images are cut as for testing.
    """

    augmentations = ("", "flip", "resized_crop", "resized_crop+flip")
    hint = "; 'crop' needs images of one size in memory (data.image_size=None)"

    name: str
    # Datasets of `(key, label)`, of known length and always in the same order.
    examples: tuple[tf.data.Dataset, tf.data.Dataset]
    classes: int  # their number
    size: int  # height and width in pixels to which every image is resized
    image: Callable[[tf.Tensor], tf.Tensor]  # of a key, such as `decode`
    # Training examples are shuffled among so many neighbours, which are all in memory;
    # keys may be as large as images.
    window: int

    @property
    def normalisation(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and 1/std of each channel."""
        return tf.constant(MEAN), 1 / tf.constant(STD)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.size, self.size, 3

    @property
    def sizes(self) -> tuple[int, int]:
        return len(self.examples[0]), len(self.examples[1])

    def first(self, train: int, test: int) -> "StreamedImages":
        """Return the same source with only its first images, for a quick trial."""
        parts = self.examples[0].take(train), self.examples[1].take(test)
        return dataclasses.replace(self, examples=parts)

    def _shuffled(self, seed):
        return _shuffle(self.examples[0], self.window, seed)

    def _batches(self, examples, size, augment):
        def prepare(seed, numbered):
            number, example = numbered
            seed = pipelines.fold_in(seed, number)
            return self._prepare(*example, augment=augment, seed=seed)

        images = examples.map(prepare, num_parallel_calls=THREADS)
        return images.batch(size, drop_remainder=True)

    def test(self, batch_size: int) -> tf.data.Dataset:
        """Return test batches `(images, labels)` in order, of the images' middles."""
        images = self.examples[1].map(self._prepare, num_parallel_calls=THREADS)
        return pipelines.prefetched(images.batch(batch_size))

    def _prepare(self, key, label, augment="", seed=None):
        """Return one normalised image and its label."""
        image = self.image(key)
        random = "resized_crop" in augment
        part = _random_part(image, seed) if random else _middle(image)
        image = tf.image.resize(part, [self.size, self.size], antialias=True)
        if "flip" in augment:
            coin_seed = pipelines.fold_in(seed, 1)
            image = tf.image.stateless_random_flip_left_right(image, coin_seed)
        image = tf.ensure_shape(image, self.input_shape)
        known = (label >= 0) & (label < self.classes)
        told = f"Labels of {self.name} must be from 0 to {self.classes - 1}. Received:"
        with tf.control_dependencies([tf.debugging.Assert(known, (told, label))]):
            label = tf.cast(label, tf.int32)
        return pipelines.normalise(image, *self.normalisation), label


def decode(encoded):
    """Decode a JPEG, PNG, BMP or GIF file to uint8 with three channels."""
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def decode_file(path):
    """Read and decode a file; errors name it, unlike those of TensorFlow."""

    def refuse(path):
        told = (
            "Every image file must be whole. Received, and could not decode:",
            path,
            "Remove or replace it, or set --config.data.skip_corrupt=True.",
        )
        with tf.control_dependencies([tf.debugging.Assert(False, told)]):
            return tf.zeros((1, 1, 3), tf.uint8)

    # The second is only asked for where the first one fails.
    one = tf.data.Dataset.from_tensors(path)
    images = one.map(lambda path: decode(tf.io.read_file(path))).ignore_errors()
    return images.concatenate(one.map(refuse)).take(1).get_single_element()


def _shuffle(examples, window, seed):
    def one_window(number, part):
        rows = tf.range(tf.shape(part[1])[0])
        order = pipelines.shuffled(rows, pipelines.fold_in(seed, number))
        part = tuple(tf.gather(values, order) for values in part)
        return tf.data.Dataset.from_tensor_slices(part)

    # The next window is filled while this one is in use.
    return examples.batch(window).prefetch(1).enumerate().flat_map(one_window)


def _random_part(image, seed):
    start, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=[[[0.0, 0.0, 1.0, 1.0]]],
        seed=seed,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
    )
    return tf.slice(image, start, extent)


def _middle(image):
    """Resize the shorter side to 256 and crop the middle 224, but without resizing."""
    shape = tf.shape(image)[:2]
    shorter = tf.cast(tf.reduce_min(shape), tf.float32)
    side = tf.cast(tf.round(CENTRE * shorter), tf.int32)
    start = (shape - side) // 2
    return image[start[0] : start[0] + side, start[1] : start[1] + side]
