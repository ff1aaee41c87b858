"""The data of a configuration for scoring, training and testing; loss and accuracy."""

import keras
import ml_collections
import tensorflow as tf

from keras_prune_init.train.data import augment


def loss(config: ml_collections.ConfigDict) -> keras.losses.Loss:
    """Return the loss for the labels of this module."""
    if _has_soft_labels(config):
        smoothing = config.train.label_smoothing
        return keras.losses.CategoricalCrossentropy(True, label_smoothing=smoothing)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def accuracy(config: ml_collections.ConfigDict) -> keras.metrics.Metric:
    """Return the accuracy for the labels of this module.

    Keras makes "accuracy" within the first step, which is traced twice therefore.
    """
    if _has_soft_labels(config):
        return keras.metrics.CategoricalAccuracy(name="accuracy")
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")


def unmixed(config: ml_collections.ConfigDict, data, batch_size: int, **part):
    """Return training batches as methods score on, whose images are not mixed.

    `part` are arguments of `data.train`; without them it is the first epoch.
    """
    batches = data.train(
        batch_size, seed=config.seed, augment=config.data.augment, **part
    )
    return _labelled(config, data, batches)


def scoring(config: ml_collections.ConfigDict, data):
    """Return the batches that methods read."""
    batch_size = config.prune.scoring_batch_size or config.train.batch_size
    return unmixed(config, data, batch_size)


def training(
    config: ml_collections.ConfigDict,
    data,
    first_batch: int = 0,
    epochs: int = 1,
    hosts: int = 1,
):
    """Return training batches of some epochs.

    `first_batch` is the number of the first batch, counted over all epochs. With
    several hosts, each makes its part of every batch.
    """
    size = config.train.batch_size
    part = {"first_batch": first_batch, "epochs": epochs, "hosts": hosts}
    batches = unmixed(config, data, size, **part)
    if config.data.mix or config.data.rand_augment:
        batches = augment.apply(
            batches,
            data.normalisation,
            rand_augment=config.data.rand_augment,
            mix=config.data.mix,
            seed=config.seed,
            first_batch=first_batch,
        )
    if hosts == 1:
        return batches
    # `tf.distribute` takes parts of batches as large as those of all hosts, more often
    # than there are such batches here. Their number stays unknown therefore: Keras
    # begins anew after so many steps.
    images = batches.flat_map(lambda *b: tf.data.Dataset.from_tensor_slices(b))
    return images.batch(size)


def testing(config: ml_collections.ConfigDict, data, replicas: int = 1):
    """Return all test images, in batches of which every replica gets a part."""
    images = data.sizes[1]
    sizes = range(config.train.batch_size, 0, -replicas)
    full = next((s for s in sizes if not 0 < images % s < replicas), sizes[0])
    return _labelled(config, data, data.test(full))


def _has_soft_labels(config):
    """Whether labels are distributions over the classes."""
    return config.data.mix or config.train.label_smoothing


def _labelled(config, data, batches):
    if not _has_soft_labels(config):
        return batches
    return batches.map(lambda x, y: (x, tf.one_hot(y, data.classes)))
