"""What both kinds of sources share: epochs in a row, seeds, prefetching, checks.

All random numbers depend only on (seed, epoch, place in the epoch). So a run that was
stopped continues with exactly the batches it would have had.
"""

import abc

import tensorflow as tf

# A new seed, from that of the whole and the number of a part; rows in random order; and
# what keeps TensorFlow from reading a function's source, a tenth of the start of a run.
fold_in = tf.random.experimental.stateless_fold_in
shuffled = tf.random.experimental.stateless_shuffle
unconverted = tf.autograph.experimental.do_not_convert


class Images(abc.ABC):
    """Training and test images of one source; a subclass says how they are made."""

    augmentations: tuple[str, ...] = ()
    hint = ""  # where other augmentations are

    @property
    @abc.abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Numbers of training and test images."""

    @abc.abstractmethod
    def _shuffled(self, seed):
        """Return the training examples of an epoch."""

    @abc.abstractmethod
    def _batches(self, examples, size, augment):
        """Make batches from `(seed of the epoch, (number in the epoch, example))`."""

    def steps(self, batch_size: int) -> int:
        """Return the number of batches in an epoch; a ValueError if there is none.

        They all have one size, because TPUs and replicas need that.
        """
        images = self.sizes[0]
        if images < batch_size:
            raise ValueError(
                "A batch cannot hold more than all training images, because incomplete "
                f"batches are left out. Received: batches of {batch_size} from "
                f"{images} images. Pass a smaller --config.train.batch_size (or "
                "--config.prune.scoring_batch_size)."
            )
        return images // batch_size

    def train(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        augment: str = "",
        first_batch: int = 0,
        epochs: int = 1,
        hosts: int = 1,
    ) -> tf.data.Dataset:
        """Return shuffled training batches `(images, labels)` of some epochs.

        Args:
            batch_size: Number of images in a batch.
            seed: The same seed gives the same batches.
            augment: One of the source's `augmentations`.
            first_batch: Number of the batch to begin with, counted over all epochs.
            epochs: Number of epochs. Each has its own order, and the first one may be
                incomplete. The end of an epoch that fills no batch is left out.
            hosts: Number of hosts. Each makes its part of every batch; the dataset must
                be dealt out by `tf.distribute`, and its batches have `batch_size //
                hosts` images.
        """
        if augment not in self.augmentations:
            raise ValueError(
                f"`augment` must be one of {self.augmentations}. Received: "
                f"augment={augment!r}. Choose one of them{self.hint}."
            )
        steps = self.steps(batch_size)
        first_epoch, skipped = divmod(first_batch, steps)

        @unconverted
        def of_epoch(epoch):
            epoch_seed = fold_in(tf.constant([seed, 0], tf.int64), epoch)
            order_seed, image_seed = fold_in(epoch_seed, 0), fold_in(epoch_seed, 1)
            skip = tf.where(epoch == first_epoch, tf.constant(skipped, tf.int64), 0)
            # No function is called for single examples: tens of thousands a second.
            seeds = tf.data.Dataset.from_tensors(image_seed).repeat()
            numbered = self._shuffled(order_seed).take(steps * batch_size).enumerate()
            return tf.data.Dataset.zip(seeds, numbered.skip(skip * batch_size))

        examples = tf.data.Dataset.range(first_epoch, first_epoch + epochs)
        examples = examples.flat_map(of_epoch)
        if hosts > 1:  # `tf.distribute` deals the examples out in turn
            hint = tf.data.experimental.SHARD_HINT
            examples = examples.shard(hint, hint)
        # flat_map hides the length, which Keras and progress bars want to know.
        count = (epochs * steps - skipped) * batch_size // hosts
        examples = examples.apply(tf.data.experimental.assert_cardinality(count))
        return prefetched(self._batches(examples, batch_size // hosts, augment), hosts)


def prefetched(dataset: tf.data.Dataset, hosts: int = 1) -> tf.data.Dataset:
    """Make the next batches while one is in use."""
    # Four batches are enough, as each takes milliseconds. tf.data's own tuning is off:
    # with it, one run in three hung for 8 to 38 seconds after the last epoch on a busy
    # machine, where the iterator is deleted (TensorFlow 2.21); without it, none did.
    options = tf.data.Options()
    options.autotune.enabled = False
    # Examples are dealt out where `Images.train` says so, else parts of each batch;
    # never files, or batches would depend on the number of hosts.
    policies = tf.data.experimental.AutoShardPolicy
    policy = policies.HINT if hosts > 1 else policies.DATA
    options.experimental_distribute.auto_shard_policy = policy
    return dataset.prefetch(4).with_options(options)


def normalise(images, mean, scale):
    """Return images in 0..255 as float32, minus `mean` and times `scale`."""
    return (tf.cast(images, tf.float32) - mean) * scale
