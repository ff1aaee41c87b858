"""Two real processes on this machine prune and train one model."""

import pathlib
import re
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L
from test_methods_common import METHODS as ROWS

import keras_prune_init as kpi

METHODS = [(name, options) for name, options, _ in ROWS]
STEPS = 20


def network():
    """With a residual block, for the methods that need one."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 2), name="x")
    x = L.Conv2D(4, 3, activation="relu", name="a")(inputs)
    y = L.Conv2D(4, 3, padding="same", activation="relu", name="b")(x)
    x = L.Flatten()(L.Add()([x, y]))
    model = keras.Model(inputs, L.Dense(3, name="c")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16 * STEPS, 6, 6, 2)).astype("float32")
    y = (x.mean((1, 2, 3)) > 0).astype(int)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


def pruned(model, method, options):
    return kpi.prune_at_init(
        model, data(), method, sparsity=0.7, batches=3, verbose=0, **options
    )


def train(model, steps):
    """Running means of the loss."""
    losses = []
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(float(logs["loss"]))
    )
    model.fit(data(), steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[seen])
    return np.array(losses)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both workers saw."""
    folder = tmp_path_factory.mktemp("workers")
    command = [sys.executable, str(pathlib.Path(__file__).with_name("worker.py"))]
    ports = free_ports(2)
    workers = [
        subprocess.Popen(
            [*command, str(i), *ports, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        logs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [w.returncode for w in workers] == [0, 0], "\n".join(logs)[-5000:]
    return [dict(np.load(folder / f"{i}.npz")) for i in range(2)]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_masks_are_those_of_one_process(found, method, options):
    digest = kpi.report(pruned(network(), method, options)).digest
    assert [str(f[method]) for f in found] == [digest, digest]


def test_training_is_that_of_one_process(found):
    model = pruned(network(), "snip", {})
    losses = train(model, STEPS)
    x, y = next(iter(data().unbatch().batch(100)))
    evaluated = model.evaluate(x, y, verbose=0)
    for worker in found:
        assert len(worker["losses"]) == STEPS
        np.testing.assert_allclose(worker["losses"], losses, atol=1e-4)
        np.testing.assert_allclose(worker["evaluated"], evaluated, atol=1e-4)
        np.testing.assert_allclose(
            worker["predicted"], model.predict(x, verbose=0), atol=1e-4
        )


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (0, "ValueError: All workers must have the same weights.*strategy.scope"),
        (1, "ValueError: All workers must have the same batches.*Pass the whole"),
        (2, "ValueError: All workers must have the same masks.*Prune"),
        # If this is empty, `workers.enable_fit` is needed no more.
        (3, "ValueError: Attempt to convert a value .PerReplica"),
    ],
)
def test_errors_reach_both_workers(found, case, message):
    for worker in found:
        assert re.match(message, str(worker["errors"][case])), worker["errors"][case]
