"""One computation on all replicas of a `tf.distribute` strategy."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf


def scope(model: keras.Model) -> contextlib.AbstractContextManager:
    """Return the scope in which the variables of a copy of `model` are made."""
    if not tf.distribute.has_strategy():
        return model.distribute_strategy.scope()
    current = tf.distribute.get_strategy()
    if model.distribute_strategy is not current:
        raise RuntimeError(
            "A model is pruned under the strategy that it was made in. Received: "
            f"{model.name}, made in a {type(model.distribute_strategy).__name__}, in "
            f"the scope of another {type(current).__name__}. Leave that scope."
        )
    return contextlib.nullcontext()


def shares(
    strategy: tf.distribute.Strategy, batches: Iterable[Any]
) -> Iterator[tuple[Any, Any]]:
    """Deal batches out to the replicas, one to each at a time, with a number.

    It is 1, or 0 on a replica that has nothing left to do and gets a batch again.
    """
    source = iter(batches)
    while turn := [*itertools.islice(source, strategy.num_replicas_in_sync)]:

        def share(context, turn=turn):
            number = context.replica_id_in_sync_group
            present = number < len(turn)
            tensors = keras.tree.map_structure(
                tf.convert_to_tensor, turn[number if present else 0], none_is_leaf=False
            )
            return tensors, float(present)

        yield strategy.experimental_distribute_values_from_function(share)


def summed(
    strategy: tf.distribute.Strategy, function: Callable[..., list[tf.Tensor]]
) -> Callable[..., list[tf.Tensor]]:
    """Sum the results of `function(weights, batch, ...)` over the replicas with work.

    The result is a function of `(weights, share, ...)`; `shares` yields each share.
    """

    def on_replica(weights, share, *args):
        batch, present = share
        return [
            tf.where(present > 0, v, tf.zeros_like(v))
            for v in function(weights, batch, *args)
        ]

    def on_all(weights, share, *args):
        parts = strategy.run(on_replica, args=(weights, share, *args))
        return [strategy.reduce("SUM", part, axis=None) for part in parts]

    return tf.function(on_all, reduce_retracing=True, autograph=False)


def average_statistics(model: keras.Model) -> None:
    """Give all replicas the mean of the moving statistics of all of them.

    In Keras the batch normalization of every replica keeps its own statistics, and only
    those of the first are saved. All workers must call this at the same step.
    """
    strategy = model.distribute_strategy
    statistics = [
        v
        for v in model.non_trainable_variables
        if v.aggregation == "none" and keras.backend.is_float_dtype(v.dtype)
    ]
    if strategy.num_replicas_in_sync == 1 or not statistics:
        return

    @tf.function(autograph=False)
    def means():
        values = strategy.run(lambda: [tf.identity(v.value) for v in statistics])
        return [strategy.reduce("MEAN", value, axis=None) for value in values]

    for variable, mean in zip(statistics, means(), strict=True):
        variable.assign(mean)
