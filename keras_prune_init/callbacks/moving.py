"""MovingMasks: the base of callbacks that change masks between training steps."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_prune_init._arguments import check_weights, check_whole
from keras_prune_init.callbacks import checks
from keras_prune_init.callbacks.gradients import DenseGradients
from keras_prune_init.callbacks.moment import Change, Moment, NotAsked
from keras_prune_init.callbacks.moves import Movable, find_movable
from keras_prune_init.distribute import replicas
from keras_prune_init.rounds.rewinding import batches_taken, build_optimizer

DENSE = (
    "Begin with all of its weights: kpi.prune(model, method='magnitude', sparsity=0.0)."
)


class MovingMasks(keras.callbacks.Callback, abc.ABC):
    """Base class of callbacks that change masks while `fit` trains a pruned model.

    A change comes before a step, and this step trains with the new masks. A step is a
    batch of `fit`; what the model was trained on before does not count. New weights
    start at 0, and what the optimizer keeps for them anew. With `steps_per_execution`
    the change comes before the execution that holds its step. All that a change depends
    on is in the model and the number of the step, so a training that goes on from a
    checkpoint, by `initial_epoch` of `fit`, gives the same masks. All replicas and
    workers get the same masks.

    Subclasses define `masks`, and may override `due`.

    Args:
        every: Number of steps between changes.
        begin: Number of steps before the first change can be.
        end: Number of steps after which masks stay. Default: three quarters of the
            steps of `fit`, all epochs counted.
        seed: Seed of what is random.

    Attributes:
        needs_gradients: Whether `masks` reads gradients. They take a forward and a
            backward pass more at each change, over the batch of the step.
        fixed_counts: Whether every kernel always keeps the same number of weights.
        at_ends: Whether masks change at `begin` and at the end, too.
        history: A `Change` (`step`, `kept`, `grown`) for each change of this training.
        origin: Number of batches that the model had seen before step 0. Default: `fit`
            finds it, by the first of its epochs. Set it if that is not a whole one.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> import keras_prune_init as kpi
    >>> class Shuffle(kpi.callbacks.MovingMasks):
    ...     def masks(self, moment):
    ...         return {
    ...             path: moment.generator(path).permutation(mask.ravel()).reshape(
    ...                 mask.shape)
    ...             for path, mask in moment.masks.items()
    ...         }
    >>> rule = Shuffle(every=100)
    """

    needs_gradients = False
    fixed_counts = False
    at_ends = False
    advice = "Prune it first."  # for a model without masks

    def __init__(
        self, every: int, begin: int = 0, end: int | None = None, seed: int = 0
    ):
        super().__init__()
        check_whole("every", every, 1)
        check_whole("begin", begin, 0)
        check_whole("seed", seed, 0)
        if end is not None:
            check_whole("end", end, begin + 1)
        self.every, self.begin, self.end, self.seed = every, begin, end, seed
        self.last = 0  # the end of the changes, for this training
        self.origin: int | None = None
        self.history: list[Change] = []
        self._origin = 0
        self._movable: list[Movable] = []
        self._gradients: DenseGradients | None = None

    @abc.abstractmethod
    def masks(self, moment: Moment) -> Mapping[str, np.ndarray]:
        """Return the new masks, bool arrays, for all kernels."""

    def due(self, step: int) -> bool:
        """Whether masks change after so many steps."""
        late = step - self.begin
        if self.at_ends and (late == 0 or step == self.last):
            return True
        return late > 0 and late % self.every == 0 and step < self.last

    def progress(self, step: int) -> float:
        """Return which part of the way from `begin` to the end was gone, 0 to 1."""
        return min(max((step - self.begin) / (self.last - self.begin), 0.0), 1.0)

    def current_masks(self) -> dict[str, np.ndarray]:
        """Return the masks of the kernels that are trained, `{path: bool array}`."""
        return {m.kernel.path: m.mask for m in self._movable}

    def change(self, step: int, data: Any = None) -> None:
        """Change the masks now.

        `fit` needs no call. In a training loop of your own, use `set_model(model)` and
        `prepare(steps)` once, and call this before every step that is `due`.

        Args:
            step: Number of steps before the change.
            data: The batch of the step, `(x, y)` or `(x, y, sample_weight)`, for a rule
                that needs gradients. Under a strategy, a value for all replicas.

        Raises:
            ValueError: If the masks of a rule are no such arrays.
            FloatingPointError: If a weight is NaN or infinite.
        """
        self._check_prepared()
        kernels = {m.kernel.path: m.kernel for m in self._movable}
        gradients: Mapping[str, np.ndarray] = NotAsked()
        if self._gradients is not None:
            if data is None:
                raise ValueError(
                    f"`{type(self).__name__}` reads gradients of a batch. Received: "
                    "data=None. Pass the batch of the step, `(x, y)`."
                )
            found = self._gradients(data)
            if not all(np.isfinite(g).all() for g in found):
                logging.warning(
                    "Step %d: gradients are not finite; masks stay as they are.", step
                )
                return
            gradients = dict(zip(kernels, found, strict=True))
        before = self.current_masks()
        for mask in before.values():
            mask.flags.writeable = False  # a rule returns masks, and changes none
        weights = {path: kernel.effective() for path, kernel in kernels.items()}
        moment = Moment(step, weights, before, gradients, self.seed)
        check_weights(type(self).__name__, weights)
        masks = self.masks(moment)
        moment.check_masks(type(self).__name__, masks)
        with replicas.scope(self.model):
            for movable in self._movable:
                mask = masks[movable.kernel.path]
                if not np.array_equal(mask, before[movable.kernel.path]):
                    movable.move(mask)
        pairs = [(mask, before[path]) for path, mask in masks.items()]
        kept = sum(int(np.count_nonzero(mask)) for mask, _ in pairs)
        grown = sum(int(np.count_nonzero(mask & ~old)) for mask, old in pairs)
        self.history.append(Change(step, kept, grown))

    def prepare(self, steps: int | None) -> None:
        """Get ready to change the masks of a model.

        Args:
            steps: Number of steps of the whole training, `None` if it is not known.

        Raises:
            ValueError: If the model cannot be trained in this way.
        """
        name = type(self).__name__
        if steps is not None:
            check_whole("steps", steps, 1)
        checks.check_trainable(
            name,
            self.model,
            advice=self.advice,
            fixed_counts=self.fixed_counts,
            needs_gradients=self.needs_gradients,
        )
        if self.end is None and steps is None:
            raise ValueError(
                f"`{name}` must know when to end. Received: end=None, and data of "
                "unknown length. Pass `end`, a number of steps."
            )
        self.last = self.end or max((steps or 0) * 3 // 4, self.begin + 1)
        self.history = []
        build_optimizer(self.model)
        with self.model.distribute_strategy.scope():
            self._movable = find_movable(self.model)
        if not self._movable:
            raise ValueError(
                f"`{name}` needs pruned kernels that are trained. Received: "
                f"{self.model.name}, whose pruned layers are frozen. Set "
                "`trainable = True` for some, and compile again."
            )
        self._gradients = None
        if self.needs_gradients:
            kernels = [m.kernel for m in self._movable]
            self._gradients = DenseGradients(self.model, kernels)

    @property
    def steps(self) -> int:
        """Number of steps that were taken."""
        origin = self._origin if self.origin is None else self.origin
        return batches_taken(self.model) - origin

    def _check_prepared(self):
        if not self._movable:
            raise ValueError(
                "Masks can change when the rule knows the model. Received: a call of "
                f"`{type(self).__name__}.change` before `prepare`. Call "
                "`set_model(model)` and `prepare(steps)` first."
            )

    # --- what Keras calls -------------------------------------------------------------

    def on_train_begin(self, logs=None):
        self._began = False

    def on_epoch_begin(self, epoch, logs=None):
        # Not before, as another callback may load a file when the training begins.
        if not self._began:
            self._begin(epoch)
        self._before = self.steps

    def _begin(self, epoch):
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        taken = batches_taken(self.model)
        before = epoch * steps if steps else taken if epoch else 0
        self._origin = taken - before
        total = epochs * steps if epochs and steps else None
        self.prepare(total)
        self._began = True
        if total is not None and not any(map(self.due, range(total))):
            logging.warning(
                "%s: masks never change, as the training has %d steps; every=%d, "
                "begin=%d, and they would end after %d.",
                *(type(self).__name__, total, self.every, self.begin, self.last),
            )

    def on_train_end(self, logs=None):
        # Of parts of a training, which have an origin, others know more.
        if not self._began or self.origin is not None:
            return
        if any(map(self.due, range(self.steps, self.last + 1))):
            logging.warning(
                "%s: masks would change until step %d, but %d were taken.",
                *(type(self).__name__, self.last, self.steps),
            )

    def on_train_batch_begin(self, batch, logs=None):
        size, left = self.model.steps_per_execution, self.params.get("steps")
        ends = batch + size if left is None else min(batch + size, left)
        steps = range(self._before + batch, self._before + ends)
        due = [step for step in steps if self.due(step)]
        if not due:
            return
        if self.needs_gradients:
            self._change_with_next_batch(due[-1])
        else:
            self.change(due[-1])

    def _change_with_next_batch(self, step):
        plain = self.model.train_function

        def train_function(iterator):
            self.model.train_function = plain
            data = next(iterator)
            self.change(step, data)
            return plain(itertools.chain([data], iterator))

        self.model.train_function = train_function
