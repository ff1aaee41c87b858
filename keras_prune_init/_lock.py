"""Run one thread at a time where models are patched or copied."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import tensorflow as tf

_LOCK = threading.RLock()


def one_at_a_time(function: Callable) -> Callable:
    """Make a function wait until no other thread is in a function with this decorator.

    While a model is scored, its layers run in another way. Keras keeps the dtypes and
    scopes of a copy for the whole process. A call within such a function does not wait.
    Nor does one within `strategy.run`, because the caller waits for its threads.
    """

    @functools.wraps(function)
    def alone(*args, **kwargs):
        replica = tf.distribute.get_replica_context()
        if tf.distribute.has_strategy() and replica is not None:
            return function(*args, **kwargs)
        with _LOCK:
            return function(*args, **kwargs)

    return alone
