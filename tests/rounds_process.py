"""Rounds in a process of its own: `python -m rounds_process FOLDER [ROUND STEP]`.

With a round and a step it kills itself there.
"""

import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_prune_init as kpi

L = keras.layers


class Die(keras.callbacks.Callback):
    def __init__(self, number, step):
        super().__init__()
        self.number, self.step = number, step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def net():
    """With statistics, and random draws that no file of a model holds."""
    layers = [L.Dense(8), L.BatchNormalization(), L.ReLU(), L.Dropout(0.3), L.Dense(3)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return model


def main(folder, number=0, step=0):
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 5)).astype("float32"), rng.integers(0, 3, 24)
    rounds = [0]

    def train(model):
        done = len([p for p in os.listdir(folder) if p.startswith("round-")])
        dies = [Die(number, step)] if done == number and step else []
        rounds.append(done)
        return model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=dies)

    kpi.iterative_pruning(
        net(),
        (x, y),
        "snip",
        sparsity=0.8,
        rounds=4,
        train=train,
        rewind=2,
        folder=folder,
        batches=None,
        seed=3,
    )
    print("trained", rounds[1:])  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
