"""Inputs to calibrate int8 with, and to compare a file with its Keras model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# How many samples are used, at most.
MOST = 200
# How many are made up if there is no data.
RANDOM = 8
# How many Keras gets in one call.
AT_ONCE = 8


class Samples:
    """Some inputs of a model: `count` samples, which are `real` data or random."""

    def __init__(self, nested: Any, data: Any, batch_size: int | None):
        """Take the first samples of `representative_data`; without data, random ones.

        `nested` are specs of the inputs, as the model takes them. Batches have the size
        that is given, or that the model fixes, or 1.
        """
        self.real = data is not None
        self._nested, self._tensors = nested, keras.tree.flatten(nested)
        self._fixed = batch_size or self._tensors[0].shape[0]
        self._size = self._fixed or 1
        arrays = self._taken(data) if self.real else self._random()
        # A file of one batch size only takes full batches.
        whole = -(-len(arrays[0]) // self._size) * self._size
        if whole > len(arrays[0]):
            arrays = [np.resize(a, (whole, *a.shape[1:])) for a in arrays]
        self._arrays, self.count = arrays, whole

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches as the file takes them, by the names of its inputs."""
        names = [tensor.name for tensor in self._tensors]
        for part in self._parts(self._size):
            yield dict(zip(names, part, strict=True))

    def predict(self, model: Callable) -> dict[str, np.ndarray]:
        """Return the model's outputs for all samples, by their names in the file."""

        def outputs(arrays):
            inputs = keras.tree.pack_sequence_as(self._nested, arrays)
            found = model(inputs, training=False)
            if isinstance(found, dict):
                return found
            flat = keras.tree.flatten(found)
            return {f"output_{i}": value for i, value in enumerate(flat)}

        # Called eagerly, Keras keeps the outputs of all layers until the last one.
        call = tf.function(outputs, reduce_retracing=True, autograph=False)
        found = [call(part) for part in self._parts(self._fixed or AT_ONCE)]
        return {name: np.concatenate([f[name] for f in found]) for name in found[0]}

    def _parts(self, size):
        for start in range(0, self.count, size):
            yield [a[start : start + size] for a in self._arrays]

    def _taken(self, data):
        parts, total = [], 0
        for x in _iterate(data):
            flat = [np.asarray(a) for a in keras.tree.flatten(x)]
            self._check(flat)
            if not all(np.isfinite(a).all() for a in flat if a.dtype.kind == "f"):
                raise ValueError(
                    "`representative_data` must be finite numbers. Received: NaN or "
                    "infinite ones. Leave those samples out."
                )
            parts.append(flat)
            total += len(flat[0])
            if total >= MOST:
                break
        if not total:
            raise ValueError(
                "`representative_data` must hold at least one sample. Received: none. "
                "Pass some inputs, or leave it out."
            )
        return [
            np.concatenate(arrays)[:MOST].astype(tensor.dtype.as_numpy_dtype)
            for tensor, *arrays in zip(self._tensors, *parts, strict=True)
        ]

    def _check(self, arrays):
        given = [a.shape for a in arrays]
        wanted = [tuple(t.shape) for t in self._tensors]

        def fits(shape, pattern):
            return tf.TensorShape((None, *pattern[1:])).is_compatible_with(shape)

        if len(given) != len(wanted) or not all(map(fits, given, wanted)):
            raise ValueError(
                "`representative_data` must be batched and fit the model's inputs, "
                f"{wanted}. Received: a batch of shapes {given}. Pass arrays, or "
                "batches of them, of these shapes."
            )

    def _random(self):
        rng = np.random.default_rng(0)
        arrays = []
        for tensor in self._tensors:
            if None in tensor.shape[1:]:
                raise ValueError(
                    "Random samples need the size of the inputs. Received: input "
                    f"{tensor.name} of shape {tuple(tensor.shape)}. Pass "
                    "`representative_data`, or check=False."
                )
            shape = (RANDOM, *tensor.shape[1:])
            # Whole numbers are indices of a vocabulary of unknown size.
            real = tensor.dtype.is_floating
            values = rng.normal(size=shape) if real else rng.integers(0, 2, shape)
            arrays.append(values.astype(tensor.dtype.as_numpy_dtype))
        return arrays


def first(data: Any) -> Any:
    """Return the inputs of the first batch, as they are; `None` if there is none."""
    return next(_iterate(data), None)


def _iterate(data):
    """Yield the inputs of each batch."""
    if isinstance(data, tf.data.Dataset):
        batches = iter(data)
    elif isinstance(data, keras.utils.PyDataset):
        batches = (data[i] for i in range(len(data)))
    else:
        batches = [data]
    for batch in itertools.islice(batches, MOST):
        yield batch[0] if isinstance(batch, tuple) else batch
