"""One thread at a time, where models are patched or copied."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import tensorflow as tf

_LOCK = threading.RLock()


def one_at_a_time(function: Callable) -> Callable:
    """Let a function wait until no other thread is in one that is decorated so.

    While a model is scored its layers run in another way, and Keras keeps the dtypes
    and scopes of a copy for the whole process. Calls within such a function go on, and
    so do those within `strategy.run`, whose threads the caller is waiting for.
    """

    @functools.wraps(function)
    def alone(*args, **kwargs):
        replica = tf.distribute.get_replica_context()
        if tf.distribute.has_strategy() and replica is not None:
            return function(*args, **kwargs)
        with _LOCK:
            return function(*args, **kwargs)

    return alone
