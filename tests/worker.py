"""One of two processes that prune and train together, for test_workers.py.

    python -m worker NUMBER PORT PORT FOLDER

Writes what it found into FOLDER/NUMBER.npz.
"""

import json
import os
import pathlib
import sys

number, *ports, folder = sys.argv[1:]
os.environ["TF_CONFIG"] = json.dumps(
    {
        "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
        "task": {"type": "worker", "index": int(number)},
    }
)

import tensorflow as tf  # noqa: E402

# What runs a few times only is not worth optimizing.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else runs

import keras  # noqa: E402
import numpy as np  # noqa: E402
from test_workers import (  # noqa: E402
    METHODS,
    STEPS,
    Images,
    data,
    moved,
    network,
    pruned,
    ticket,
    train,
)
from while_training import SYSTEMS  # noqa: E402

import keras_prune_init as kpi  # noqa: E402
from keras_prune_init.distribute import workers  # noqa: E402


def error_of(function):
    try:
        function()
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return ""


def main():
    found = {}
    with strategy.scope():
        model = network()
    for method, options in METHODS:
        found[method] = kpi.report(pruned(model, method, **options)).digest
    new = pruned(model)
    found["losses"] = train(new, STEPS)
    # A file knows nothing of workers; `enable_workers` tells the model that is loaded.
    file = pathlib.Path(folder, f"{number}.keras")
    pruned(model, layout="sparse").save(file)
    with strategy.scope():
        loaded = keras.models.load_model(file)
    assert kpi.enable_workers(loaded) is loaded
    found["sparse"] = train(loaded, STEPS)
    x, y = next(iter(data().unbatch().batch(100)))
    found["evaluated"] = new.evaluate(x, y, batch_size=20, verbose=0)
    found["predicted"] = new.predict(x, batch_size=20, verbose=0)
    tickets = pathlib.Path(folder, "tickets")
    for name in ("ticket", "ticket again"):  # the second call loads what is there
        with strategy.scope():
            model = network()
        found[name] = kpi.report(ticket(model, tickets)).digest
        train(new, 1)  # both are here, so the first has written all
    for layout in ("masked", "compact"):
        with strategy.scope():
            model = network()
        new = moved(model, layout)
        found[f"moved {layout}"] = kpi.report(new).digest
        values = [np.ravel(v) for v in new.trainable_variables]
        found[f"moved {layout} weights"] = np.concatenate(values)
    for name, system in SYSTEMS.items():
        with strategy.scope():
            model = network()
        found[name] = system(model, data())
    images = Images()
    found["parts"] = parts(images.training(hosts=workers.hosts(strategy)))
    found["decoded"] = images.decoded
    found["mixed"], found["rest"] = (
        mixed(Images().training(first, hosts=2, mix="mixup")) for first in (0, 3)
    )
    found["errors"] = [error_of(case) for case in (weights, batches, masks, plain)]
    np.savez(pathlib.Path(folder, number), **found)


def local(batches):
    for batch in strategy.experimental_distribute_dataset(batches):
        yield [strategy.experimental_local_results(v)[0].numpy() for v in batch]


def parts(batches):
    return np.array([y for _, y in local(batches)])


def mixed(batches):
    return np.array([x for x, _ in local(batches)])


def weights():
    with strategy.scope():
        model = network()
    # As if each worker had loaded its own.
    for component in model.layers[1].kernel.value.values:
        component.assign_add(tf.ones_like(component) * float(number))
    kpi.prune_at_init(model, data(), batches=2)


def batches():
    with strategy.scope():
        model = network()
    kpi.prune_at_init(model, data().shard(2, int(number)), batches=2)


def masks():
    with strategy.scope():
        model = network()
    new = pruned(model)
    for component in new.layers[1].mask.value.values:
        component.assign(tf.ones_like(component) * float(number))
    train(new, 1)


def plain():
    """What Keras does without `workers.enable_fit`."""
    with strategy.scope():
        model = network()
    train(model, 1)


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    main()
