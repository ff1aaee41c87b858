"""Several processes that train one model: they must agree, and Keras must support it.

Keras 3.15 cannot `fit` under a `MultiWorkerMirroredStrategy` (keras-team/keras issue
20585). It averages logs over an axis that they do not have, and it turns the parts of a
batch on several replicas into one tensor. `enable_fit` works around this, and is the
only function that depends on it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

# Seconds between messages that say for which workers this one waits.
FIRST_WORD, NEXT_WORD = 30, 60


def several(strategy: tf.distribute.Strategy) -> bool:
    """Whether more than one process runs the strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    tasks = strategy.cluster_resolver.cluster_spec().as_dict().values()
    return sum(map(len, tasks)) > 1


def hosts(strategy: tf.distribute.Strategy) -> int:
    """Return how many hosts make batches, each for its own replicas."""
    found = []

    def tell(context):
        found.append(context.num_input_pipelines)
        return tf.data.Dataset.range(1)

    strategy.distribute_datasets_from_function(tell)
    return found[0]


def check_same(
    strategy: tf.distribute.Strategy, what: str, arrays: Iterable, advice: str
) -> None:
    """Raise a ValueError, on every worker, if the numbers of one of them differ.

    The error says `what` differs, and gives `advice`. Nothing is checked if one
    process runs all of the strategy.
    """
    if not several(strategy):
        return
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array))  # type: ignore[arg-type]
    number = int.from_bytes(sha.digest()[:7], "big")
    mine = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant([number], tf.int64)
    )
    found = np.asarray(strategy.gather(mine, axis=0))
    if len(set(found.tolist())) > 1:
        digests = ", ".join(f"{n:014x}" for n in found)
        raise ValueError(
            f"All workers must have the same {what}. Received, replica by replica, the "
            f"digests {digests}. {advice}"
        )


def from_chief(
    strategy: tf.distribute.Strategy, arrays: Mapping[Any, np.ndarray]
) -> dict[Any, np.ndarray]:
    """Return the masks or values that the first worker has, on every worker.

    The arrays must have the same keys, shapes and dtypes on all of them.
    """
    if not arrays or not several(strategy):
        return dict(arrays)
    parts = [_as_bytes(array) for array in arrays.values()]
    flat = np.concatenate(parts)
    words = np.resize(flat, -(-flat.size // 4) * 4).view("int32")
    mine = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            words if context.replica_id_in_sync_group == 0 else np.zeros_like(words)
        )
    )
    words = np.asarray(strategy.reduce("SUM", mine, axis=None))
    ends = np.cumsum([part.size for part in parts])
    parts = np.split(words.view("uint8")[: flat.size], ends[:-1])
    pairs = zip(arrays.items(), parts, strict=True)
    return {key: _from_bytes(part, like) for (key, like), part in pairs}


def _as_bytes(array):
    if array.dtype == bool:
        return np.packbits(array.ravel())
    return np.frombuffer(array.tobytes(), "uint8")


def _from_bytes(part, like):
    if like.dtype == bool:
        part = np.unpackbits(part, count=like.size).astype(bool)
    return part.view(like.dtype).reshape(like.shape)


def meet(addresses: Iterable[str], mine: str) -> None:
    """Wait until all workers have started, and say which ones are missing.

    TensorFlow waits for them too, but silently and without letting Python run, so no
    signal can end the process then. An address is `"host:port"`.
    """
    missing = [address for address in addresses if address != mine]
    started, due = time.monotonic(), FIRST_WORD
    # Others see this worker at its port, where TensorFlow listens from then on.
    with _listening(mine), futures.ThreadPoolExecutor(32) as pool:
        while True:
            reached = pool.map(_reached, missing)
            missing = [a for a, r in zip(missing, reached, strict=True) if not r]
            if not missing:
                return
            waited = time.monotonic() - started
            if waited >= due:
                due += NEXT_WORD
                logging.warning(
                    "After %.0f s this worker still waits for %s. Start those, or stop "
                    "this one and give all of them another cluster.",
                    waited,
                    ", ".join(missing),
                )
            time.sleep(0.2)


def _listening(address):
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(
            ("", port), family=family, backlog=1024, dualstack_ipv6=both
        )
    except OSError as e:
        raise OSError(
            f"A worker must listen at its port. Received: {address}, but port {port} "
            f"cannot be used ({e}). Stop the process there, or choose another port."
        ) from e


def _reached(address):
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def watched(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Explain the error if a worker is lost; TensorFlow notices in 30 seconds."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as e:
        if not several(strategy):
            raise
        found = re.search(r"aborted by: (.*)", e.message)
        said = found[1] if found else e.message.partition("\n")[0]
        raise RuntimeError(
            "Training ends when a worker is lost: killed, hanging, or stopped by an "
            "error in its own log. Received from TensorFlow: "
            f"{said}. Start all workers again, to go on from "
            "what was saved last."
        ) from e


def enable_fit(
    model: keras.Model, masks: Callable[[], Iterable[keras.Variable]]
) -> None:
    """Let `fit` and `evaluate` of a model run, if several workers run its strategy.

    What `masks` returns must be the same on all of them before each training.
    """
    strategy = model.distribute_strategy
    if not several(strategy):
        return

    def make_train_function(force=False):
        values = (keras.ops.convert_to_numpy(v) for v in masks())
        advice = "Prune, or load the model, in the same way on all of them."
        check_same(strategy, "masks", values, advice)
        if model.train_function is None or force:
            model.train_function = _on_all(model, model.train_step)

    def make_test_function(force=False):
        if model.test_function is None or force:
            model.test_function = _on_all(model, model.test_step)

    model.make_train_function = make_train_function
    model.make_test_function = make_test_function
    model._maybe_symbolic_build = functools.partial(_build, model)


def _on_all(model, step):
    """Return what Keras calls with an iterator, for one execution of some steps."""
    strategy = model.distribute_strategy

    def steps(iterator):
        for _ in range(model.steps_per_execution):
            logs = strategy.run(step, args=(next(iterator),))
        return {k: strategy.reduce("MEAN", v, axis=None) for k, v in logs.items()}

    traced = tf.function(steps, reduce_retracing=True, autograph=False)  # as in Keras
    return steps if model.run_eagerly else traced


def _build(model, iterator=None, data_batch=None):
    """Make the state of optimizer, loss and metrics, from the part of one replica."""
    strategy = model.distribute_strategy
    if iterator is not None:
        batch = next(next(iter(iterator))[2])
        data_batch = keras.tree.map_structure(
            lambda v: strategy.experimental_local_results(v)[0], batch
        )
    with strategy.scope():
        model._symbolic_build(data_batch=data_batch)
