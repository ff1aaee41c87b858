"""From whatever the user has to the batches that methods are scored on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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
) -> list[Batch]:
    """The scoring batches of a dataset.

    Args:
        dataset: A batched `tf.data.Dataset` of `(x, y)` or `(x, y, sample_weight)`, a
            tuple of such arrays, or a `keras.utils.PyDataset`.
        inspect: Called with the first batch; raises if it does not fit the model, and
            returns the number of classes, which `samples_per_class` needs.
        batches: How many batches, from the start; `None`: all.
        samples_per_class: Instead, the first so many samples of each class, in
            batches of the dataset's size.

    Returns:
        A list of `(x, y, sample_weight or None)`, numpy or tensors.

    Raises:
        ValueError: If the dataset is empty, unbatched or too small.
        TypeError: If it is none of these kinds.
    """
    for name, value in (("batches", batches), ("samples_per_class", samples_per_class)):
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise ValueError(
                f"`{name}` must be a whole number, 1 or more, or None. "
                f"Received: {name}={value!r}."
            )
    source = _iterate(dataset)
    first = next(source, None)
    if first is None:
        raise ValueError(
            "The dataset must hold at least one batch. Received: an empty dataset. "
            "A `tf.data.Dataset` may have been filtered or skipped to nothing."
        )
    classes = inspect(first)
    source = itertools.chain([first], source)
    if samples_per_class:
        return _balanced(source, samples_per_class, classes)
    taken = list(itertools.islice(source, batches))
    if batches is not None and len(taken) < batches:
        raise ValueError(
            "The dataset must hold as many batches as are asked for. "
            f"Received: batches={batches}, and a dataset of {len(taken)}. "
            "Lower `batches`, or pass None for all."
        )
    return taken


def _iterate(dataset) -> Iterator[Batch]:
    if isinstance(dataset, tf.data.Dataset):
        source = iter(dataset)
    elif isinstance(dataset, keras.utils.PyDataset):
        source = (dataset[i] for i in range(len(dataset)))
    elif isinstance(dataset, tuple) and len(dataset) in (2, 3):
        source = _array_batches(dataset)
    else:
        raise TypeError(
            "`dataset` must be a batched tf.data.Dataset of (x, y), a tuple of arrays "
            "(x, y), or a keras.utils.PyDataset. "
            f"Received: {type(dataset).__name__}."
        )
    for element in source:
        if not (isinstance(element, (tuple, list)) and len(element) in (2, 3)):
            raise ValueError(
                "The dataset must give (x, y) or (x, y, sample_weight). "
                f"Received: an element of type {type(element).__name__}. "
                "Labels are needed to differentiate the loss."
            )
        yield (*element, None)[:3]


def _array_batches(arrays):
    flat = keras.tree.flatten(arrays)
    lengths = sorted({len(a) for a in flat})
    if len(lengths) != 1:
        raise ValueError(
            "Arrays must have the same number of samples. "
            f"Received: arrays of {lengths} samples."
        )
    for start in range(0, lengths[0], ARRAY_BATCH):
        part = slice(start, start + ARRAY_BATCH)
        yield keras.tree.map_structure(lambda a, part=part: a[part], arrays)


def _balanced(source, count, classes):
    """The first `count` samples of each class, in the batch size of the source."""
    left = np.full(classes, count)
    parts, size, idle = [], None, 0
    for batch in source:
        labels = class_indices(batch[1])
        size = size or len(labels)
        chosen = _first_of_each(labels, left)
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
            f"{count - int(left[poor])}."
        )
    whole = tuple(
        None if part[0] is None else keras.tree.map_structure(_concatenate, *part)
        for part in zip(*parts, strict=True)
    )
    total = count * classes
    return [
        _rows(whole, np.arange(i, min(i + size, total))) for i in range(0, total, size)
    ]


def class_indices(y) -> np.ndarray:
    """Labels as a vector of class indices; one-hot rows become theirs."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        y = y.argmax(1)
    y = y.reshape(len(y), -1)
    if y.shape[1] != 1:
        raise ValueError(
            "`samples_per_class` needs one class label a sample. "
            f"Received: labels of shape {y.shape}. Use `batches` instead."
        )
    return y[:, 0].astype(int)


def _first_of_each(labels, left):
    """Positions of the first `left[c]` samples of each class c."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < left[ordered]])


def _concatenate(*arrays):
    return np.concatenate(arrays)


def _rows(batch, rows):
    return tuple(
        None
        if part is None
        else keras.tree.map_structure(lambda v: np.asarray(v)[rows], part)
        for part in batch
    )
