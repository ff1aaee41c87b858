"""What every image pipeline shares: epochs in a row, seeds, prefetching, checks.

All random numbers depend only on (seed, epoch, place in the epoch). So a run that was
stopped continues with exactly the batches it would have had.
"""

from collections.abc import Callable

import tensorflow as tf


def check_augment(augment: str, known: tuple[str, ...], hint: str) -> None:
    """Raise a ValueError unless a source has the augmentation."""
    if augment not in known:
        raise ValueError(
            f"`augment` must be one of {known}. Received: augment={augment!r}. "
            f"Choose one of them{hint}."
        )


def steps(images: int, batch_size: int) -> int:
    """Return the number of batches in an epoch.

    They all have one size, because TPUs and replicas need that.

    Raises:
        ValueError: If there is none.
    """
    if images < batch_size:
        raise ValueError(
            "A batch cannot hold more than all training images, because incomplete "
            f"batches are left out. Received: batches of {batch_size} from "
            f"{images} images. Pass a smaller --config.train.batch_size (or "
            "--config.prune.scoring_batch_size)."
        )
    return images // batch_size


def examples(
    one_epoch: Callable[[tf.Tensor], tf.data.Dataset],
    images: int,
    batch_size: int,
    *,
    seed: int,
    first_batch: int,
    epochs: int,
    hosts: int,
) -> tf.data.Dataset:
    """Return the examples of `epochs` epochs in a row, from which batches are made.

    Args:
        one_epoch: Makes the shuffled examples of an epoch from its seed.
        images: Number of examples in an epoch.
        batch_size: Number of images in a batch of all hosts. An epoch consists of whole
            batches.
        seed: Seed of the run.
        first_batch: Number of the batch to begin with, counted over all epochs.
        epochs: Number of epochs in the dataset. The first one may be incomplete.
        hosts: Number of hosts. If there are several, `tf.distribute` deals the examples
            out to them in turn.

    Returns:
        A dataset of `(seed of the epoch, (number in the epoch, example))`.
    """
    first_epoch, skipped = divmod(first_batch, steps(images, batch_size))
    size = images // batch_size * batch_size

    def of_epoch(epoch):
        epoch_seed = fold_in(tf.constant([seed, 0], tf.int64), epoch)
        order_seed, image_seed = fold_in(epoch_seed, 0), fold_in(epoch_seed, 1)
        skip = tf.where(epoch == first_epoch, tf.constant(skipped, tf.int64), 0)
        # No function is called for single examples here: tens of thousands a second.
        seeds = tf.data.Dataset.from_tensors(image_seed).repeat()
        numbered = one_epoch(order_seed).take(size).enumerate()
        return tf.data.Dataset.zip(seeds, numbered.skip(skip * batch_size))

    dataset = tf.data.Dataset.range(first_epoch, first_epoch + epochs)
    dataset = dataset.flat_map(of_epoch)
    count = epochs * size - skipped * batch_size
    if hosts > 1:
        hint = tf.data.experimental.SHARD_HINT
        dataset = dataset.shard(hint, hint)
    # flat_map hides the length, which Keras and progress bars want to know.
    return dataset.apply(tf.data.experimental.assert_cardinality(count // hosts))


def prefetched(dataset: tf.data.Dataset, hosts: int = 1) -> tf.data.Dataset:
    """Make the next batches while one is in use."""
    # Four batches are enough, as each takes milliseconds. tf.data's own tuning is off:
    # with it, one run in three hung for 8 to 38 seconds after the last epoch on a busy
    # machine, where the iterator is deleted (TensorFlow 2.21); without it, none did.
    options = tf.data.Options()
    options.autotune.enabled = False
    # Examples are dealt out where `examples` says so, else parts of each batch; never
    # files, or batches would depend on the number of hosts.
    policies = tf.data.experimental.AutoShardPolicy
    policy = policies.HINT if hosts > 1 else policies.DATA
    options.experimental_distribute.auto_shard_policy = policy
    return dataset.prefetch(4).with_options(options)


def normalise(images, mean, scale):
    """Return images in 0..255 as float32, minus `mean` and times `scale`."""
    return (tf.cast(images, tf.float32) - mean) * scale


def fold_in(seed, number):
    """Return a new seed for the part with this number."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def shuffled(count, seed):
    """Return the numbers below `count` in random order."""
    return tf.random.experimental.stateless_shuffle(tf.range(count), seed)
