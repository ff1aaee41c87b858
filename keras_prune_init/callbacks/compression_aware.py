"""Compression-aware training: lower the rank of kernels after each epoch."""

from __future__ import annotations

import keras
import numpy as np

from keras_prune_init._arguments import (
    check_choice,
    check_weights,
    is_number,
    is_whole,
    some,
)
from keras_prune_init.distribute import replicas, workers
from keras_prune_init.factorize import proximal
from keras_prune_init.factorize.matrices import (
    FORMS,
    from_matrix,
    matrix_kernels,
    to_matrix,
)
from keras_prune_init.layers.filters import Filters, check_filters


class CompressionAware(keras.callbacks.Callback):
    """Train a network towards layers of low rank, which `factorize` then makes smaller.

    Use it with plain `fit`, under any strategy and precision, from the first epoch or
    on a trained model, and call `factorize` afterwards. After each epoch, and before
    its validation, every singular value of a kernel's matrix falls by `nuclear`, to 0
    at the least: the proximal step of `nuclear` times the sum of the singular values.
    Then come the steps of the sparse-group lasso, if wanted, which empties whole output
    units. Only kernels change. The optimizer's momentum stays what it was.

    Nothing is kept from epoch to epoch, so a stopped run goes on as it would have. Put
    this before callbacks that save the model. A layer is left alone if `factorize`
    leaves it alone, or if it is not trainable. For other strengths in some layers, pass
    two of these with other `filters`.

    Args:
        nuclear: What a singular value loses each time, 0 or more, whatever the learning
            rate is. Over all epochs this should be less than what the values have that
            you want to keep (`singular_values`). Too much shows in the accuracy when
            the learning rate is low; training the factors makes up for it.
        group: Price of a unit that is not empty: the proximal step of `group` times
            sqrt(weights of a unit) times the sum of the norms of all units.
        sparse: What the absolute value of each weight loses. This raises ranks again.
        every: `"epoch"`, or the number of steps of the optimizer between two times.
        form: How the kernel of a convolution becomes a matrix, as in `factorize`.
        filters: Which layers are treated, as in `factorize`.

    Attributes:
        ranks: `{path of a kernel: its rank}` after the last time; empty without
            `nuclear`.

    Raises:
        ValueError: If an argument is out of its range. When training begins: if the
            model is pruned, or has no layer to treat.
        FloatingPointError: While training, if a weight is NaN or infinite.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> keras.utils.set_random_seed(0)
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> model.compile("sgd", "mse")
    >>> lower = kpi.callbacks.CompressionAware(nuclear=0.2)
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> _ = model.fit(x, y, epochs=9, callbacks=[lower], verbose=0)
    >>> sorted(lower.ranks.values()) < [4, 4]
    True

    Reference:
        Alvarez, Salzmann, 2017, arXiv 1711.02638.
    """

    def __init__(
        self,
        nuclear: float = 0.0,
        *,
        group: float = 0.0,
        sparse: float = 0.0,
        every: str | int = "epoch",
        form: str = "pointwise",
        filters: Filters = None,
    ):
        super().__init__()
        prices = nuclear, group, sparse
        if not all(is_number(v) and v >= 0 for v in prices) or not any(prices):
            raise ValueError(
                "`nuclear`, `group` and `sparse` must be numbers, 0 or more, and one "
                f"of them must be above 0. Received: nuclear={nuclear!r}, "
                f"group={group!r}, sparse={sparse!r}. Pass for example nuclear=0.05."
            )
        if every != "epoch" and not is_whole(every, 1):
            raise ValueError(
                "`every` must be 'epoch' or a whole number of steps, 1 or more. "
                f"Received: every={every!r}. Leave it out."
            )
        check_choice("form", form, FORMS)
        check_filters(filters)
        self.nuclear, self.group, self.sparse = prices
        self.every, self.form, self.filters = every, form, filters
        self.ranks: dict[str, int] = {}
        self._due = False

    def on_train_begin(self, logs=None):
        arguments = self.model, self.form, self.filters
        found, _ = matrix_kernels(type(self).__name__, *arguments)
        self._kernels = [k for k in found if k.variable.trainable]
        if not self._kernels:
            raise ValueError(
                "`CompressionAware` changes kernels that are trained. Received: "
                f"model={self.model.name}, filters={self.filters!r}, which choose "
                f"{some([k.path for k in found])}, not trainable. Choose others."
            )

    def on_epoch_begin(self, epoch, logs=None):
        self._due = self.every == "epoch"
        self._times = self._times_until_now()

    def on_test_begin(self, logs=None):
        self._end_epoch()  # so the validation is of what the epoch leaves

    def on_epoch_end(self, epoch, logs=None):
        self._end_epoch()

    def on_train_batch_end(self, batch, logs=None):
        times = self._times_until_now()
        if times > self._times:
            self._times = times
            self._lower()

    def _end_epoch(self):
        if self._due:
            self._due = False
            self._lower()

    def _times_until_now(self):
        """Return how often `every` steps were taken, also before a run was resumed."""
        if self.every == "epoch":
            return 0
        return int(self.model.optimizer.iterations.numpy()) // self.every

    def _lower(self):
        """Take the proximal steps of all kernels, on all replicas."""
        check_weights(type(self).__name__, {k.path: k.value for k in self._kernels})
        new = {kernel.path: self._lowered(kernel) for kernel in self._kernels}
        # Processors differ in the last digits, replicas must not.
        new = workers.from_chief(self.model.distribute_strategy, new)
        with replicas.scope(self.model):
            for kernel in self._kernels:
                kernel.assign(new[kernel.path])

    def _lowered(self, kernel) -> np.ndarray:
        values = kernel.value.astype(np.float64)
        if self.nuclear:
            matrix = to_matrix(values, self.form)
            matrix, self.ranks[kernel.path] = proximal.nuclear(matrix, self.nuclear)
            values = from_matrix(matrix, kernel.shape, self.form)
        if self.group or self.sparse:  # of columns, which are the output units
            matrix = to_matrix(values, "pointwise")
            matrix = proximal.sparse_group(matrix, self.group, self.sparse)
            values = from_matrix(matrix, kernel.shape, "pointwise")
        return values
