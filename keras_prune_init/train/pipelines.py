"""What every image pipeline shares: epochs in a row, seeds, prefetching, checks.

Everything random is a function of (seed, epoch, place in it) and of nothing else, so a
run that was stopped goes on with exactly the batches it would have seen.
"""

from collections.abc import Callable

import tensorflow as tf


def check_augment(augment: str, known: tuple[str, ...], hint: str) -> None:
    """Raises ValueError unless a source knows the augmentation."""
    if augment not in known:
        raise ValueError(
            f"`augment` must be one of {known}. Received: augment={augment!r}. "
            f"Choose one of them{hint}."
        )


def join_epochs(
    one_epoch: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset],
    steps: int,
    *,
    seed: int,
    first_batch: int,
    epochs: int,
) -> tf.data.Dataset:
    """The batches of `epochs` epochs in a row.

    Args:
        one_epoch: Makes the batches of an epoch from its seed, without so many of the
            first ones.
        steps: Batches in an epoch.
        seed: Seed of the run.
        first_batch: Number of the batch to begin with, counted over all epochs.
        epochs: How many epochs the dataset holds; the first one may be a part.
    """
    first_epoch, skipped = divmod(first_batch, steps)

    def batches(epoch):
        skip = tf.where(epoch == first_epoch, tf.constant(skipped, tf.int64), 0)
        return one_epoch(fold_in(tf.constant([seed, 0], tf.int64), epoch), skip)

    epoch = tf.data.Dataset.range(first_epoch, first_epoch + epochs)
    dataset = epoch.flat_map(batches)
    # flat_map hides the length, which Keras and progress bars want to know.
    length = tf.data.experimental.assert_cardinality(epochs * steps - skipped)
    return prefetched(dataset.apply(length))


def prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Makes the next batches while one is in use."""
    # Four batches are enough, as each takes milliseconds. tf.data's own tuning is off:
    # with it, one run in three hung for 8 to 38 seconds after the last epoch on a busy
    # machine, where the iterator is deleted (TensorFlow 2.21); without it, none did.
    options = tf.data.Options()
    options.autotune.enabled = False
    # Of several workers each takes its part of every batch: their files are not dealt
    # out, or batches would depend on the number of workers.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.prefetch(4).with_options(options)


def normalise(images, mean, scale):
    """uint8 or float images in 0..255 as float32 with the given mean and 1/std."""
    return (tf.cast(images, tf.float32) - mean) * scale


def fold_in(seed, number):
    """A new seed for the part of the given number."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def shuffled(count, seed):
    """The numbers below `count` in random order."""
    return tf.random.experimental.stateless_shuffle(tf.range(count), seed)
