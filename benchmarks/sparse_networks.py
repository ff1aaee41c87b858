"""The networks of sparse.py, and the time of their training steps in all layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import common

PRUNED = ("masked", "compact", "sparse", "auto")
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
UNIFORM = {"method": "random", "allocation": "uniform"}


class Network(NamedTuple):
    """A network of random data, and how it is pruned."""

    make: Callable[[], Any]
    shape: tuple[int, ...]  # of a sample
    batch: int = 128
    pruning: dict = UNIFORM
    classes: bool = False  # it tells ten classes apart, or else has a squared error


def layers_of_width(width, count):
    import keras

    hidden = [keras.layers.Dense(width, "relu") for _ in range(count)]
    return keras.Sequential([keras.Input((width,)), *hidden])


def mlp():
    import keras

    hidden = [keras.layers.Dense(4096, "relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])


def encoder(layers=6, width=512, heads=8, feed_forward=2048, length=128):
    """The encoder of a transformer, with norms before attention and before the rest."""
    import keras

    L = keras.layers
    x = inputs = keras.Input((length, width))
    for _ in range(layers):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(heads, width // heads)(y, y)])
        y = L.Dense(feed_forward, "relu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dense(width)(y)])
    return keras.Model(inputs, x)


def convolutional(name, *shape, **options):
    import keras_prune_init as kpi

    return getattr(kpi.models, name)(shape, 10, **options)


CIFAR = {"shape": (32, 32, 3), "pruning": {"method": "synflow"}, "classes": True}
NETWORKS = {
    "mlp 784-4096-4096-10": Network(mlp, (784,), classes=True),
    "3 x 4096": Network(lambda: layers_of_width(4096, 3), (4096,)),
    "5 x 8192": Network(lambda: layers_of_width(8192, 5), (8192,)),
    "encoder": Network(encoder, (128, 512), batch=8),
    "mobilenet": Network(
        lambda: convolutional("mobilenet", 96, 96, 3),
        (96, 96, 3),
        batch=32,
        pruning={**UNIFORM, "filters": "pointwise"},
        classes=True,
    ),
    "vgg16": Network(lambda: convolutional("vgg", 32, 32, 3, depth=16), **CIFAR),
    "resnet20": Network(lambda: convolutional("resnet", 32, 32, 3, depth=20), **CIFAR),
}
# Of the step of the dense network, at 90, 95, 98 and 99 %.
AIMS = {
    "3 x 4096": {0.9: 0.7, 0.95: 0.33, 0.98: 0.14, 0.99: 0.10},
    "5 x 8192": {0.9: 0.7, 0.95: 0.33, 0.98: 0.14, 0.99: 0.08},
    "encoder": {0.9: 1.0, 0.95: 0.7, 0.98: 0.5, 0.99: 0.45},
    "mobilenet": {0.9: 1.0, 0.95: 0.75, 0.98: 0.6, 0.99: 0.55},
    "vgg16": {0.95: 1.0, 0.98: 0.8, 0.99: 0.7},
    "resnet20": {0.95: 1.0, 0.98: 0.8, 0.99: 0.7},
}


def build(name):
    """The dense network, compiled."""
    import keras

    keras.utils.set_random_seed(0)
    network = NETWORKS[name]
    model = network.make()
    loss = keras.losses.MeanSquaredError()
    if network.classes:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
    return model


def data(name):
    """One random batch."""
    import numpy as np

    network, rng = NETWORKS[name], np.random.default_rng(0)
    x = rng.normal(size=(network.batch, *network.shape)).astype("float32")
    # The others have outputs of the shape of their inputs.
    return x, rng.integers(0, 10, len(x)) if network.classes else x[::-1]


def forms(name, sparsity, layouts=PRUNED):
    """The network, dense and in some layouts: the same weights are kept in all."""
    import keras_prune_init as kpi

    models = {"dense": build(name)}
    first, *others = layouts
    models[first] = kpi.prune_at_init(
        models["dense"],
        None,
        **NETWORKS[name].pruning,
        sparsity=sparsity,
        layout=first,
        verbose=0,
    )
    for layout in others:
        models[layout] = kpi.to_layout(models[first], layout)
    return models


def steps(network, sparsity):
    """Times of a step in all layouts, in turns."""
    import keras_prune_init as kpi

    models = forms(network, sparsity)
    cost = kpi.cost(models["sparse"])
    found = common.step_ratios(network, models, *data(network))
    return [
        {
            "layout": layout,
            "ms": 1000 * times["seconds"],
            "ratio": times["ratio"],
            "quartiles": times["quartiles"],
            "kept products": cost.effective_macs / cost.macs,
            "peak GiB": common.peak_gigabytes(),
        }
        for layout, times in found.items()
    ]


def threads(threads, network="3 x 4096", sparsity=0.98):
    """Times of a step with so many threads."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # Or two products of a dense step would run side by side.
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    models = forms(network, sparsity, ["sparse"])
    found = common.step_ratios(network, models, *data(network))
    return [
        {
            "network": network,
            "sparsity": sparsity,
            "layout": layout,
            "ms": 1000 * times["seconds"],
            "ratio": times["ratio"],
            "quartiles": times["quartiles"],
        }
        for layout, times in found.items()
    ]
