"""RandAugment, MixUp and CutMix inside `tf.data`, by the number of the batch."""

import numpy as np
import pytest
import tensorflow as tf
from runs import run_until, small

from keras_prune_init.train import default_config, run
from keras_prune_init.train.data import augment, feed
from keras_prune_init.train.data.loading import load_images

KINDS = [
    {"mix": "mixup"},
    {"mix": "cutmix"},
    {"rand_augment": 0.3, "mix": "mixup+cutmix"},
]


def batches(first=0, **kind):
    config = default_config.get_config()
    config.seed, config.train.batch_size = 1, 16
    config.train.label_smoothing = 0.1  # so that all labels are distributions
    config.data.update(kind)
    found = feed.training(config, load_images().first(96, 16), first)
    assert len(found) == 6 - first
    return [(x.numpy(), y.numpy()) for x, y in found]


@pytest.fixture(scope="module")
def plain():
    return batches()


@pytest.mark.parametrize("kind", KINDS)
def test_batches_depend_only_on_seed_and_number(kind, plain):
    tf.random.set_seed(1)
    whole = batches(**kind)
    tf.random.set_seed(2)
    for (x, y), (x2, y2) in zip(whole[2:], batches(2, **kind), strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
    assert all(
        np.abs(x - p).max() > 0.1 for (x, _), (p, _) in zip(whole, plain, strict=True)
    )
    assert len({x.tobytes() for x, _ in whole}) == 6


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixes_take_images_and_labels_in_the_same_shares(mix):
    # Of an image that is 1 everywhere for class 1, and 0 for class 0, the mean is the
    # share of class 1, as is the label.
    y = tf.one_hot(tf.constant([0, 1] * 8), 2)
    x = tf.tile(y[:, 1, None, None, None], (1, 64, 64, 1))
    data = tf.data.Dataset.from_tensors((x, y))
    mean, scale = np.zeros(1, "float32"), np.ones(1, "float32")
    [(x, y)] = augment.apply(data, (mean, scale), mix=mix)
    share = x.numpy().mean((1, 2, 3))
    assert ((share > 0.02) & (share < 0.98)).any()
    np.testing.assert_allclose(y[:, 1], share, atol=0.03)
    np.testing.assert_allclose(y.numpy().sum(1), 1, rtol=1e-6)


def test_rand_augment_keeps_labels_and_range(plain):
    for (x, y), (_, y2) in zip(batches(rand_augment=0.9), plain, strict=True):
        np.testing.assert_array_equal(y, y2)
        mean, scale = load_images().first(96, 16).normalisation
        pixels = x / scale + mean
        assert pixels.min() > -1e-3 and pixels.max() < 255.001


def test_mixes_go_on_where_a_run_was_stopped(tmp_path, eagerly, undrawn):
    config = small(tmp_path, images=32, label_smoothing=0.1, save_every=1)
    config.data.mix = "mixup+cutmix"
    whole = run.run(config, tmp_path / "whole")
    assert whole["finished"] and np.isfinite(whole["test_loss"])
    run_until(3, config, tmp_path / "run")
    again = run.run(config, tmp_path / "run", resume=True)
    assert again["test_loss"] == pytest.approx(whole["test_loss"], rel=1e-5)
    assert again["mask_digest"] == whole["mask_digest"]
