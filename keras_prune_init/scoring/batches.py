"""From the user's data to the batches that methods score on."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init._arguments import check_whole
from keras_prune_init.layers.walk import is_graph

# Arrays are cut into batches of this size.
ARRAY_BATCH = 128
# A balanced draw gives up after so many batches without a new sample.
PATIENCE = 1000

Batch = tuple[Any, Any, Any]


def take(
    dataset,
    inspect: Callable[[Batch], int | None],
    batches: int | None = 1,
    samples_per_class: int | None = None,
    dtype: str = "float32",
    array_batch: int = ARRAY_BATCH,
    at_most: bool = False,
) -> list[Batch]:
    """Return a dataset's first batches `(x, y or None, sample_weight or None)`.

    `dataset`, `batches` and `samples_per_class` are those of `prune_at_init`. `inspect`
    is called with the first batch. It raises an error if the batch does not fit the
    model, and returns the number of classes, which `samples_per_class` needs. Arrays
    are cut into batches of `array_batch` samples. Those of floats are cast to `dtype`,
    as `fit` does. With `at_most` there may be fewer batches.
    """
    _check_counts(batches=batches, samples_per_class=samples_per_class)
    if not samples_per_class:
        return [*stream(dataset, inspect, batches, dtype, array_batch, at_most)]
    first, source = _opened(dataset, dtype, array_batch)
    return _balanced(source, int(samples_per_class), inspect(first))


def stream(
    dataset,
    inspect: Callable[[Batch], Any],
    batches: int | None = 1,
    dtype: str = "float32",
    array_batch: int = ARRAY_BATCH,
    at_most: bool = False,
) -> Iterator[Batch]:
    """Return an iterator over what `take` lists, for data of any size.

    The first batch is inspected before it returns. That there are too few `batches` is
    seen at the end only.
    """
    _check_counts(batches=batches)
    if batches is None and _is_endless(dataset):
        raise ValueError(
            "An endless dataset has no last batch. Received: batches=None, and a "
            f"{type(dataset).__name__} that may repeat forever. Say how many `batches`."
        )
    first, source = _opened(dataset, dtype, array_batch)
    inspect(first)
    return source if batches is None else _first(source, batches, at_most)


def size_for(model: keras.Model) -> int:
    """Return the batch size to cut arrays into: the one that inputs fix, or 128."""
    fixed = model.inputs[0].shape[0] if is_graph(model) and model.inputs else None
    return fixed or ARRAY_BATCH


def _check_counts(**counts):
    for name, value in counts.items():
        if value is not None:
            check_whole(name, value, 1, sys.maxsize)


def _opened(dataset, dtype, array_batch):
    """Return the first batch, and an iterator over all batches."""
    rest = (_map(_tensor, batch) for batch in _iterate(dataset, dtype, array_batch))
    first = next(rest, None)
    if first is None:
        raise ValueError(
            "The dataset must hold at least one batch. Received: an empty dataset. "
            "A `tf.data.Dataset` may have been filtered or skipped to nothing."
        )
    return first, itertools.chain([first], rest)


def _first(source, batches, at_most):
    count = 0
    for batch in itertools.islice(source, batches):
        count += 1
        yield batch
    if count < batches and not at_most:
        raise ValueError(
            "The dataset must hold as many batches as are asked for. "
            f"Received: batches={batches}, and a dataset of {count}. "
            "Lower `batches`, or pass None for all."
        )


def _is_endless(dataset):
    if isinstance(dataset, tf.data.Dataset):
        return int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY
    if isinstance(dataset, Iterator):
        return True  # for all that is known
    return isinstance(dataset, keras.utils.PyDataset) and dataset.num_batches is None


def _iterate(dataset, dtype, array_batch) -> Iterator[Batch]:
    if isinstance(dataset, tf.data.Dataset):
        source = iter(dataset)
    elif isinstance(dataset, keras.utils.PyDataset):
        endless = dataset.num_batches is None
        places = itertools.count() if endless else range(dataset.num_batches)
        source = (dataset[i] for i in places)
    elif isinstance(dataset, np.ndarray) or tf.is_tensor(dataset):
        source = _array_batches((dataset,), dtype, array_batch)
    elif isinstance(dataset, tuple) and len(dataset) in (1, 2, 3):
        source = _array_batches(dataset, dtype, array_batch)
    elif isinstance(dataset, Iterator):
        source = dataset
    else:
        raise TypeError(
            "`dataset` must be a batched tf.data.Dataset of (x, y), a tuple of arrays "
            "(x, y), an array x, a keras.utils.PyDataset, or a generator of batches. "
            f"Received: {type(dataset).__name__}. Pass one of these; a dict or list of "
            "inputs alone as a tuple of one, `(inputs,)`."
        )
    for element in source:
        parts = element if isinstance(element, (tuple, list)) else (element,)
        if len(parts) > 3:
            raise ValueError(
                "The dataset must give (x, y) or (x, y, sample_weight). "
                f"Received: an element of {len(parts)} parts. Put inputs into one "
                "tuple or dict, and labels into another."
            )
        yield (*parts, None, None)[:3]


def _array_batches(arrays, dtype, array_batch):
    arrays = _map(lambda a: _array(a, dtype), arrays)
    flat = [a for a in keras.tree.flatten(arrays) if a is not None]
    if any(a.ndim == 0 for a in flat):
        raise ValueError(
            "The first axis of arrays must count samples. Received: a single number. "
            "Pass arrays, such as `np.asarray(x)` of a list of numbers, or lists of "
            "arrays for several inputs or outputs."
        )
    lengths = sorted({len(a) for a in flat})
    if len(lengths) != 1:
        raise ValueError(
            "Arrays must have the same number of samples. "
            f"Received: arrays of {lengths} samples. Pass a label for each input."
        )
    for start in range(0, lengths[0], array_batch):
        part = slice(start, start + array_batch)
        yield _map(lambda a, part=part: a[part], arrays)


def _array(value, dtype):
    if tf.is_tensor(value):
        return tf.cast(value, dtype) if value.dtype.is_floating else value
    value = np.asarray(value)
    return value.astype(dtype, copy=False) if value.dtype.kind == "f" else value


def _tensor(value):
    if tf.is_tensor(value):
        return value
    try:
        return tf.convert_to_tensor(value)
    except (ValueError, TypeError) as e:
        raise ValueError(
            "The dataset must give arrays of numbers or text. Received: "
            f"{type(value).__name__}, and TensorFlow says: {str(e).rstrip('.')}. "
            "Convert it, as by `np.asarray(x, 'float32')`."
        ) from e


def _map(function, *structures):
    """Apply a function to the arrays of structures; `None` stays `None`."""
    return keras.tree.map_structure(function, *structures, none_is_leaf=False)


def _balanced(source, count, classes):
    """Return the first `count` samples of each class, in the source's batch size."""
    left = np.full(classes, count)
    parts, size, idle = [], None, 0
    for batch in source:
        labels = class_indices(batch[1], classes)
        size = size or len(labels)
        chosen = np.flatnonzero(rank_in_class(labels) < left[labels])
        idle = 0 if chosen.size else idle + 1
        if chosen.size:
            parts.append(_rows(batch, chosen))
            left -= np.bincount(labels[chosen], minlength=classes)
        if not left.any() or idle > PATIENCE:
            break
    if left.any():
        poor = int(np.argmax(left > 0))
        raise ValueError(
            "The dataset must hold `samples_per_class` samples of each class. "
            f"Received: samples_per_class={count}; class {poor} has only "
            f"{count - int(left[poor])}. Lower it, or pass more data."
        )
    whole = _map(lambda *arrays: np.concatenate(arrays), *parts)
    return [
        _map(tf.convert_to_tensor, _rows(whole, slice(i, i + size)))
        for i in range(0, count * classes, size)
    ]


def class_indices(y, classes: int) -> np.ndarray:
    """Return the labels of one output, indices or one-hot rows, as class indices."""
    y = np.asarray(keras.tree.flatten(y)[0])
    y = y.argmax(1) if y.shape[1:] not in ((), (1,)) else y.reshape(-1)
    if y.min() < 0 or y.max() >= classes or np.any(y != np.floor(y)):
        raise ValueError(
            f"`samples_per_class` needs class indices from 0 to {classes - 1} as "
            f"labels. Received: labels from {y.min()} to {y.max()}. Use `batches`."
        )
    return y.astype(int)


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """Return how often each label has occurred before."""
    order = np.argsort(labels, kind="stable")
    ordered, rank = labels[order], np.empty_like(order)
    rank[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return rank


def _rows(batch, rows):
    return _map(lambda v: np.asarray(v)[rows], batch)
