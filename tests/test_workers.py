"""Two real processes on this machine prune and train one model."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import ALIASES, L
from helpers import METHODS as ROWS
from processes import Forked, logs_of
from runs import free_ports
from while_training import SYSTEMS

import keras_prune_init as kpi
from keras_prune_init.train import default_config
from keras_prune_init.train.data import feed, streaming

# "robust" has what the other methods of stable networks do, and "random" draws, too.
LEFT_OUT = {*ALIASES, "sbp_sr", "grasp_sr", "magnitude"}
METHODS = [(name, options) for name, options, _ in ROWS if name not in LEFT_OUT]
STEPS = 10


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


def pruned(model, name="snip", layout="masked", **options):
    method = kpi.get_method(name, **options)
    return kpi.prune_at_init(
        model, data(), method, sparsity=0.7, batches=3, verbose=0, layout=layout
    )


class Images:
    """A streaming source of 22 images, whose numbers are their classes."""

    def __init__(self):
        self.decoded = 0
        keys = tf.data.Dataset.range(22)
        examples = tf.data.Dataset.zip(keys, keys)
        self.source = streaming.StreamedImages(
            "numbered", (examples, examples), 22, 8, self._read, window=8
        )

    def _read(self, key):
        read = tf.numpy_function(self._encoded, [key], tf.string)
        return streaming.decode(tf.ensure_shape(read, []))

    def _encoded(self, key):
        self.decoded += 1
        image = np.random.default_rng(key).integers(0, 256, (9, 9, 3), np.uint8)
        return tf.io.encode_png(image).numpy()

    def training(self, first=0, hosts=1, **options):
        """Batches of four, five an epoch, of two epochs."""
        config = default_config.get_config()
        config.train.batch_size = 4
        config.data.update(options)
        return feed.training(config, self.source, first, 2, hosts)


def train(model, steps):
    """Running means of the loss."""
    losses = []
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(float(logs["loss"]))
    )
    model.fit(data(), steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[seen])
    return np.array(losses)


def ticket(model, folder=None):
    """A lottery ticket of two rounds."""
    return kpi.iterative_pruning(
        model,
        None,
        "magnitude",
        sparsity=0.75,
        rounds=2,
        rewind=0,
        train={"x": data(), "epochs": 1, "shuffle": False, "verbose": 0},
        folder=folder,
    )[0]


def moved(model, layout):
    """A model whose masks were changed before steps 4 and 8, counted from 0."""
    new = pruned(model, "random", layout)
    rule = kpi.callbacks.RigL(fraction=0.5, every=4, end=20)
    new.fit(data(), shuffle=False, verbose=0, callbacks=[rule])
    return new


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both workers saw."""
    folder = tmp_path_factory.mktemp("workers")
    ports = free_ports(2)
    workers = [
        Forked(folder / f"{i}.log", "worker", i, *ports, folder) for i in range(2)
    ]
    logs = logs_of(workers)
    assert [w.poll() for w in workers] == [0, 0], "\n".join(logs)[-5000:]
    return [dict(np.load(folder / f"{i}.npz")) for i in range(2)]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_masks_are_those_of_one_process(found, method, options):
    digest = kpi.report(pruned(network(), method, **options)).digest
    assert [str(f[method]) for f in found] == [digest, digest]


def test_training_is_that_of_one_process(found):
    model = pruned(network())
    losses = train(model, STEPS)
    x, y = next(iter(data().unbatch().batch(100)))
    evaluated = model.evaluate(x, y, verbose=0)
    for worker in found:
        assert len(worker["losses"]) == STEPS
        np.testing.assert_allclose(worker["losses"], losses, atol=1e-4)
        np.testing.assert_allclose(worker["sparse"], losses, atol=1e-4)
        np.testing.assert_allclose(worker["evaluated"], evaluated, atol=1e-4)
        np.testing.assert_allclose(
            worker["predicted"], model.predict(x, verbose=0), atol=1e-4
        )


def test_tickets_are_those_of_one_process(found):
    one = kpi.report(ticket(network()))
    for worker in found:
        assert str(worker["ticket"]) == str(worker["ticket again"]) == one.digest


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_masks_that_move_are_those_of_one_process(found, layout):
    one = moved(network(), layout)
    digest = kpi.report(one).digest
    assert digest != kpi.report(pruned(network(), "random")).digest
    for worker in found:
        assert str(worker[f"moved {layout}"]) == digest
    first, second = (worker[f"moved {layout} weights"] for worker in found)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", SYSTEMS)
def test_other_prunings_while_training_are_those_of_one_process(found, name):
    one = SYSTEMS[name](network(), data())
    first, second = (worker[name] for worker in found)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, one, atol=1e-4)


def test_each_worker_reads_its_part_of_every_batch(found):
    batches = [y.numpy() for _, y in Images().training()]
    assert [worker["decoded"] for worker in found] == [20, 20]
    one, other = (worker["parts"] for worker in found)
    assert one.shape == other.shape == (10, 2)
    for a, b, batch in zip(one, other, batches, strict=True):
        np.testing.assert_array_equal(np.stack([a, b], 1).ravel(), batch)


def test_workers_go_on_within_an_epoch_with_the_batches_they_would_have_seen(found):
    for worker in found:
        assert worker["mixed"].shape == (10, 2, 8, 8, 3)
        # The rest of the first of two epochs, and the second.
        np.testing.assert_array_equal(worker["mixed"][3:], worker["rest"])
    assert (found[0]["mixed"] != found[1]["mixed"]).any()


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


def test_one_process_needs_no_call_and_takes_none_amiss():
    model = pruned(network())
    before = dict(vars(model))
    assert kpi.enable_workers(model) is model
    assert vars(model) == before
    with pytest.raises((TypeError, ValueError), match="Received: "):
        kpi.enable_workers("model.keras")
