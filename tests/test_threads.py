"""Threads that prune at the same time get what one of them gets alone."""

import threading

import keras
import numpy as np
import tensorflow as tf
from helpers import L, batch, masked_list, mlp
from runs import mirrored

import keras_prune_init as kpi
from keras_prune_init._lock import one_at_a_time


def network():
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((6, 6, 3))
    for _ in range(2):
        x = L.Conv2D(6, 3, padding="same", activation="relu")(x)
        x = L.BatchNormalization()(L.GroupNormalization(3)(x))
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 1, strides=2)(x))
    return keras.Model(inputs, L.Dense(4)(x))


def in_threads(function, count):
    """What `function(i)` returns in each of several threads, or its error."""
    found = [None] * count

    def run(i):
        try:
            found[i] = function(i)
        except Exception as e:
            found[i] = e

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    return found


def masks_by(model, method):
    pruned = kpi.prune_at_init(model, batch(model), method, sparsity=0.7, verbose=0)
    return np.concatenate([v.kept_mask("kernel").ravel() for v in masked_list(pruned)])


def test_threads_prune_one_model_and_leave_it_as_it_was():
    model = network()
    methods = "snip", "grasp", kpi.methods.SynFlow(iterations=4), "snip"
    alone = [masks_by(model, method) for method in methods[:3]]
    x, moments = batch(model)[0], tf.nn.moments
    before = np.asarray(model(x))
    attributes = [dict(vars(v)) for v in model.layers]
    found = in_threads(lambda i: masks_by(model, methods[i]), len(methods))
    for one, other in zip([*alone, alone[0]], found, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(before, model(x))
    assert tf.nn.moments is moments
    for layer, known in zip(model.layers, attributes, strict=True):
        assert vars(layer).keys() == known.keys()


def test_two_threads_prune_two_models_in_two_ways():
    models = network(), mlp((12, 9))
    ways = (
        {"method": "grasp", "layout": "compact"},
        {"method": "snip", "what": "channels"},
    )

    def digest(i):
        model = models[i]
        new = kpi.prune_at_init(model, batch(model), sparsity=0.5, verbose=0, **ways[i])
        return kpi.report(new, model if i else None).digest

    alone = [digest(0), digest(1)]
    assert in_threads(digest, 2) == alone


def test_nothing_of_tensorflow_changes_while_a_model_is_scored():
    moments, seen = tf.nn.moments, []

    class Watching(L.Layer):
        def call(self, x):
            seen.append(tf.nn.moments)
            return x

    inputs = keras.Input((4, 4, 2))
    x = Watching()(L.GroupNormalization(1)(L.Conv2D(4, 1)(inputs)))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    kpi.score(model, batch(model), "grasp", verbose=0)
    assert seen and all(found is moments for found in seen)


def test_locked_functions_exclude_each_other_but_not_themselves():
    inside, most = [], []

    @one_at_a_time
    def inner(i):
        inside.append(i)
        most.append(len(inside))
        threading.Event().wait(0.02)
        inside.remove(i)

    @one_at_a_time
    def outer(i):
        inner(i)
        return i

    assert in_threads(outer, 4) == [0, 1, 2, 3]
    assert max(most) == 1


def test_replicas_do_not_wait_for_who_waits_for_them():
    strategy = mirrored(2)

    @one_at_a_time
    def in_replica():
        return tf.constant(1.0)

    @one_at_a_time
    def caller():
        return strategy.reduce("SUM", strategy.run(in_replica), axis=None)

    assert float(caller()) == 2
