"""Augment whole batches with Keras's own layers: RandAugment, MixUp, CutMix.

These layers draw from a generator with state. Here their seeds depend only on the
number of the batch, for the same reason as in `pipelines`.
"""

import keras
import tensorflow as tf

from keras_prune_init.train.data import pipelines

MIXES = ("", "mixup", "cutmix", "mixup+cutmix")


def apply(
    batches: tf.data.Dataset,
    normalisation: tuple,
    *,
    rand_augment: float = 0.0,
    mix: str = "",
    seed: int = 0,
    first_batch: int = 0,
) -> tf.data.Dataset:
    """Augment training batches `(normalised images, labels)`.

    `normalisation` is mean and 1/std that the images were normalised with.
    `rand_augment` is the strength of RandAugment, 0 (none) to 1, of which each batch
    gets two operations. `mix` is `"mixup"`, `"cutmix"`, or `"mixup+cutmix"`: one of
    them for each batch. For a mix, labels are distributions. The first batch has the
    number `first_batch`.

    Reference:
        Cubuk, Zoph, Shlens, Le, "RandAugment", 2019, arXiv 1909.13719; Zhang, Cisse,
        Dauphin, Lopez-Paz, "mixup", 2018, arXiv 1710.09412; Yun, Han, Oh, Chun, Choe,
        Yoo, "CutMix", 2019, arXiv 1905.04899.
    """
    mean, scale = normalisation
    layers = keras.layers
    random = layers.RandAugment(factor=rand_augment) if rand_augment else None
    makers = {"mixup": layers.MixUp, "cutmix": layers.CutMix}
    mixers = [makers[name]() for name in mix.split("+") if name]

    def augmented(number, x, y):
        seeds = pipelines.fold_in(tf.constant([seed, 1], tf.int64), number)
        if random:
            pixels = tf.clip_by_value(x / scale + mean, 0, 255)
            pixels, _ = _run(random, pixels, y, pipelines.fold_in(seeds, 0))
            x = pipelines.normalise(pixels, mean, scale)
        if not mixers:
            return x, y
        which = tf.random.stateless_uniform(
            [], pipelines.fold_in(seeds, 1), maxval=len(mixers), dtype=tf.int32
        )
        mixed = [_run(mixer, x, y, pipelines.fold_in(seeds, 2)) for mixer in mixers]
        return tf.switch_case(which, [lambda m=m: m for m in mixed])

    numbered = batches.enumerate(first_batch)
    dataset = numbered.map(lambda n, b: augmented(n, *b), num_parallel_calls=4)
    return dataset.prefetch(4)  # with the options of `batches`


class _Seeds(keras.random.SeedGenerator):
    """Seeds that follow from a given tensor, without a variable."""

    def __init__(self, seed):
        self._seed, self._count = seed, 0

    def next(self, ordered=True):
        self._count += 1
        return tf.cast(pipelines.fold_in(self._seed, self._count), tf.int32)


def _run(layer, x, y, seed):
    # Past Keras, which would track it as state of the layer.
    object.__setattr__(layer, "generator", _Seeds(seed))
    drawn = layer.get_random_transformation(x, training=True)
    shape = x.shape
    x = layer.transform_images(x, drawn, training=True)
    return tf.ensure_shape(x, shape), layer.transform_labels(y, drawn, training=True)
