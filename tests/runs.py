"""Training runs, and what they run on, for several test files."""

import csv
import functools
import socket

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_prune_init.train import checkpoints, default_config, run


def little(input_shape, classes):
    """What is traced and saved in a moment, with statistics that training changes."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(4, 3, strides=2, name="conv"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Flatten(),
            layers.Dense(classes, name="logits"),
        ]
    )


def plain(input_shape, classes):
    """Like `little`, without statistics: replicas of it see what one device sees."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(4, 3, strides=2, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(classes, name="logits"),
        ]
    )


def small(tmp_path, images=64, **train):
    config = default_config.get_config()
    config.data.source = f"npz:{tmp_path / 'few.npz'}"
    config.model.name = f"{__name__}:little"
    config.train.update({"epochs": 2, "batch_size": 16, "warmup_epochs": 0.0, **train})
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, 8, 8, 1)).astype("uint8")
    y = np.arange(images) % 4
    np.savez(tmp_path / "few.npz", x_train=x, y_train=y, x_test=x[:17], y_test=y[:17])
    return config


def run_until(step, config, folder):
    """Stop a run after a step, as Ctrl-C does."""
    original = checkpoints.Checkpoints.on_train_batch_end

    def stop(self, batch, logs=None):
        original(self, batch, logs)
        if self.taken == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.Checkpoints, "on_train_batch_end", stop)
        run.run(config, folder, resume=True)


def history(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


@functools.cache
def mirrored(count):
    # One process can run the default's collective operations with one number of
    # devices only, so two devices reduce in another way.
    way = None if count == 4 else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)], way)


def assert_replicas_equal(variables):
    """Each of them has the same bits on all replicas of `mirrored`."""
    for variable in variables:
        first, *others = (np.asarray(v) for v in variable.value.values)
        assert others
        for other in others:
            np.testing.assert_array_equal(first, other)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports
