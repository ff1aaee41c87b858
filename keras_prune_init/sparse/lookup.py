"""Look up rows of an embedding that has only its kept weights."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_prune_init.sparse.positions import Matrix
from keras_prune_init.sparse.products import (
    LOCK,
    SparseOperation,
    aligned,
    compiled,
    dense,
)


class Lookup(SparseOperation):
    """The rows of a pruned matrix for some numbers, and the gradient of its weights."""

    kernel: Matrix

    def __call__(self, ids, values, index, scale):
        values, scale = tf.cast(values, "float32"), tf.cast(scale, "float32")

        @tf.custom_gradient
        def rows(values):
            given = [ids, values, index, scale]
            found = tf.numpy_function(self._rows, given, tf.float32, stateful=False)
            found.set_shape([ids.shape[0], self.kernel.columns])
            return found, slopes

        @tf.custom_gradient
        def slopes(dy):
            given = [ids, dy, index, scale]
            found = tf.numpy_function(self._slopes, given, tf.float32, stateful=False)
            found.set_shape(values.shape)
            return found, rows

        return rows(values)

    def dense(self, ids, values, index, scale):
        scale = tf.cast(scale, values.dtype)
        return tf.gather(dense(values, index, self.kernel.shape) * scale, ids)

    def _rows(self, ids, values, index, scale):
        count = self.kernel.rows
        if len(ids) and not (0 <= ids.min() and ids.max() < count):
            raise ValueError(
                f"An embedding of {count} rows looks up numbers from 0 to {count - 1}. "
                f"Received: numbers from {ids.min()} to {ids.max()}."
            )
        found = aligned((len(ids), self.kernel.columns))
        with LOCK:
            loops = compiled()
            rows, _ = self.lines(index, loops)
            given = values, scale, rows.ends, rows.others, rows.places
            loops.look_up(ids, *given, found)
        return found

    def _slopes(self, ids, dy, index, scale):
        slopes = aligned(index.shape)
        slopes[:] = 0
        order = np.argsort(ids, kind="stable")
        changes = np.flatnonzero(np.diff(ids[order], prepend=-1, append=-1))
        with LOCK:
            loops = compiled()
            rows, _ = self.lines(index, loops)
            given = scale, rows.ends, rows.others, rows.places
            loops.look_up_slopes(ids, order, changes, dy, *given, slopes)
        return slopes
