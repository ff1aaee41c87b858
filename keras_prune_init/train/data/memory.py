"""Images that are all in memory, for the training binary.

They stay uint8. Each batch is gathered, augmented and normalised inside `tf.data`.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from keras_prune_init.train.data import pipelines

PADDING = 4  # pixels that "crop" may move an image, as usual for CIFAR


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData(pipelines.Images):
    """Training and test images of one source, with their `tf.data` pipelines.

    For training, `"crop"` pads images with 4 black pixels and cuts them out at random,
    and `"flip"` mirrors each left-right with probability 1/2.
    """

    augmentations = ("", "crop", "flip", "crop+flip")
    hint = "; 'resized_crop' needs a data.image_size"

    name: str
    x_train: np.ndarray  # uint8, of shape (images, height, width, channels)
    y_train: np.ndarray  # int32, of shape (images,), classes from 0
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int  # their number

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.x_train.shape[1:]

    @property
    def sizes(self) -> tuple[int, int]:
        return len(self.x_train), len(self.x_test)

    def first(self, train: int, test: int) -> "ImageData":
        """Return the same source with only its first images, for a quick trial."""
        return dataclasses.replace(
            self,
            x_train=self.x_train[:train],
            y_train=self.y_train[:train],
            x_test=self.x_test[:test],
            y_test=self.y_test[:test],
        )

    def _shuffled(self, seed):
        rows = pipelines.shuffled(tf.range(len(self.x_train)), seed)
        return tf.data.Dataset.from_tensor_slices(rows)

    def _batches(self, examples, size, augment):
        images, labels = tf.constant(self.x_train), tf.constant(self.y_train)
        mean, scale = self.normalisation

        @pipelines.unconverted
        def batch(seeds, numbered):
            numbers, rows = numbered
            seed = pipelines.fold_in(seeds[0], numbers[0])
            x = _augment(tf.gather(images, rows), augment, seed)
            x = tf.ensure_shape(x, (None, *self.input_shape))  # a crop hides it
            return pipelines.normalise(x, mean, scale), tf.gather(labels, rows)

        rows = examples.batch(size, drop_remainder=True)
        return rows.map(batch, num_parallel_calls=4)

    def test(self, batch_size: int) -> tf.data.Dataset:
        """Return test batches `(images, labels)`, in order, never augmented."""
        mean, scale = self.normalisation
        dataset = tf.data.Dataset.from_tensor_slices((self.x_test, self.y_test))
        normalised = pipelines.unconverted(
            lambda x, y: (pipelines.normalise(x, mean, scale), y)
        )
        return pipelines.prefetched(dataset.batch(batch_size).map(normalised))

    @functools.cached_property
    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and 1/std of each channel of the training images."""
        # From the 256-bin histogram: exact, and no float copy of the whole set.
        values = np.arange(256)
        channels = np.moveaxis(self.x_train, -1, 0)
        counts = np.stack([np.bincount(c.ravel(), minlength=256) for c in channels])
        weights = counts / counts.sum(axis=1, keepdims=True)
        mean = weights @ values
        std = np.sqrt(weights @ values**2 - mean**2)
        # A channel that never changes carries nothing; leave its scale alone.
        scale = 1 / np.where(std > 0, std, 1)
        return mean.astype("float32"), scale.astype("float32")


def _augment(images, augment, seed):
    """Crop and flip a whole uint8 batch at random."""
    count, height, width = tf.unstack(tf.shape(images)[:3])
    if "crop" in augment:
        shift = tf.random.stateless_uniform(
            [2, count, 1], seed, maxval=2 * PADDING + 1, dtype=tf.int32
        )
        edge = [PADDING, PADDING]
        padded = tf.pad(images, [[0, 0], edge, edge, [0, 0]])
        rows = tf.gather(padded, shift[0] + tf.range(height), axis=1, batch_dims=1)
        images = tf.gather(rows, shift[1] + tf.range(width), axis=2, batch_dims=1)
    if "flip" in augment:
        coin_seed = pipelines.fold_in(seed, 1)
        coin = tf.random.stateless_uniform([count, 1, 1, 1], coin_seed) < 0.5
        images = tf.where(coin, images[:, :, ::-1], images)
    return images
