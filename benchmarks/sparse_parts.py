"""Parts of a sparse step of sparse.py: products, calls of them, and all the rest."""

from __future__ import annotations

import contextlib
import functools

import common
import sparse_layers
import sparse_networks

# Where the loops take the least of a step, and where users prune most.
CELLS = {
    "3 x 4096": 0.99,
    "5 x 8192": 0.99,
    "encoder": 0.98,
    "mobilenet": 0.98,
    "vgg16": 0.98,
    "resnet20": 0.98,
}
CALLS = 20  # of a product that has nothing to do
CACHES = 2**28  # bytes, more than all of them have


class Calls(list):
    """Functions that repeat the products of one step, with equal arrays."""

    kept = False

    def of(self, function):
        def run(product, *given):
            if self.kept:
                copies = [v.copy() for v in given]
                self.append(lambda: function(product, *copies))
            return function(product, *given)

        return run


def only_written(function):
    """What a product returns, as zeros: it takes the time to write them."""
    import tensorflow as tf

    from keras_prune_init.sparse.products import aligned

    found = {}

    def zeros(like):
        array = aligned(like.shape)
        array.fill(0)
        return array

    def run(product, *given):
        if product not in found:
            found[product] = function(product, *given)
        return tf.nest.map_structure(zeros, found[product])

    return run


@contextlib.contextmanager
def products_are(change):
    """Change what products compute in models that are traced meanwhile."""
    from keras_prune_init.sparse.convolution import Convolution
    from keras_prune_init.sparse.products import MatrixProduct

    kinds, names = (MatrixProduct, Convolution), ("_forward", "_backward")
    before = {(kind, name): getattr(kind, name) for kind in kinds for name in names}
    for place, function in before.items():
        setattr(*place, change(function))
    try:
        yield
    finally:
        for place, function in before.items():
            setattr(*place, function)


def parts(network, sparsity):
    """Where the time of a step goes.

    It is measured with products that compute nothing. And the products of a step are
    measured alone: again and again with the same arrays, and with arrays that are in no
    cache, as most are that a step made some time ago.
    """
    import numpy as np
    import tensorflow as tf

    calls = Calls()
    models = sparse_networks.forms(network, sparsity, ["sparse"])
    x, y = map(tf.constant, sparse_networks.data(network))
    with products_are(calls.of):
        models["sparse"].train_on_batch(x, y)
    written = sparse_networks.forms(network, sparsity, ["sparse"])["sparse"]
    with products_are(only_written):
        written.train_on_batch(x, y)
    found = common.step_ratios(network, models | {"written": written}, x, y)
    calls.kept = True
    models["sparse"].train_on_batch(x, y)
    other = np.ones(CACHES // 4, "f")

    def uncached(call):
        other[:] += 1
        return common.seconds(call)

    from_caches = sum(map(sparse_layers.median_of, calls))
    measures = (functools.partial(uncached, call) for call in calls)
    from_memory = sum(map(sparse_layers.median, measures))
    return [
        {
            "dense ms": 1000 * found["dense"]["seconds"],
            "sparse ms": 1000 * found["sparse"]["seconds"],
            "products only written": 1000 * found["written"]["seconds"],
            "products from caches": 1000 * from_caches,
            "products from memory": 1000 * from_memory,
            "products": len(calls),
            "a call": 1000 * call_seconds(),
            "sparse / dense": found["sparse"]["ratio"],
            "products only written / dense": found["written"]["ratio"],
        }
    ]


def call_seconds(width=64):
    """The time of a product of one sample and one weight: nearly all is the call."""
    import numpy as np
    import tensorflow as tf

    from keras_prune_init.sparse.positions import Matrix
    from keras_prune_init.sparse.products import MatrixProduct

    product = MatrixProduct(Matrix((width, width), (0,), (1,)))
    given = map(
        tf.constant, (np.ones(1, "f"), np.zeros(1, "int32"), np.ones(width, "f"))
    )
    values, index, scale = given

    @tf.function(autograph=False, jit_compile=False)
    def several(x):
        for _ in range(CALLS):
            x = product(x, values, index, scale)
        return x

    x = tf.ones([1, width])
    return sparse_layers.median_of(lambda: several(x)) / CALLS
