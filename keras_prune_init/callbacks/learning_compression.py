"""`LearningCompression`: train a model, and compress it, in turn, until they agree."""

from __future__ import annotations

import keras
from absl import logging

from keras_prune_init._arguments import check_flag, check_model, check_whole
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.callbacks import penalty
from keras_prune_init.callbacks.compressions import Compression, check_schedule
from keras_prune_init.layers.filters import Filters, check_filters
from keras_prune_init.rounds.rewinding import steps_taken

FAR = 0.1  # a distance |w - theta| / |w| that shows in the accuracy


class LearningCompression(keras.callbacks.Callback):
    """Prune a trained model by learning-compression, while `fit` trains it on.

    Use it where a trained model must lose most of its weights and there is time to
    train: which weights stay is learned, and so is how much each layer keeps. `fit`
    trains the weights `w` with a penalty that draws them to sparse weights `theta`.
    Every so many steps, `theta` is computed anew from `w`, and the penalty grows, until
    both agree. `attach` puts the penalty into a copy of the model, `finish` takes it
    out: the kernels are `theta` then, and its zeros are masked, for fine-tuning.

    Losses that `fit` and `evaluate` show include the penalty. Metrics are those of `w`;
    `finish(model)` gives the pruned model at any time. All state is in the model's
    weights and optimizer: a killed run goes on from any file that has both, with a new
    callback of the same arguments. Of the callbacks, pass this one last.

    Args:
        sparsity: Fraction of all weights to remove from the kernels, 0 <= sparsity < 1.
            Exactly floor(sparsity * total) are removed. Pass this or one of the next
            three.
        l0_penalty: Price of a weight that is kept, in the unit of the loss: weights
            stay if they exceed sqrt(2 * l0_penalty / mu).
        l1_penalty: Price of the sum of absolute weights: they shrink by
            l1_penalty / mu, down to 0.
        l1_ball: The largest sum of the absolute weights.
        every: Steps of the optimizer between two compression steps, such as 20 epochs.
        steps: Number of compression steps. The last one ends `fit`.
        first: Steps of the optimizer before the first of them. Default: `every`.
        mu: Weight of the penalty (mu / 2) * |w - theta|^2 at the beginning. Too small
            at first is better than too large.
        growth: `mu` is multiplied by it after each compression step; 1.1 to 1.5.
        augmented: Whether to learn Lagrange multipliers too; if not, this is the plain
            quadratic penalty.
        filters: Which layers are compressed, as in `prune`. Frozen kernels never are.

    Attributes:
        history: A dict for each compression step that this object took: its number,
            `mu`, how many weights of `theta` are not 0, and the distance
            |w - theta| / |w|, which should end near 0.

    Raises:
        ValueError: If an argument does not fit; and in `fit`, before the first step, if
            the model is not one from `attach`, if all compression steps were taken, if
            `steps_per_execution` does not divide `every` and `first`, or if a schedule
            gives a learning rate above 1 / mu, at which the penalty may diverge. A
            learning rate that is a number is lowered to 1 / mu, with a warning.

    Example:

    >>> import keras, numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> lc = kpi.callbacks.LearningCompression(sparsity=0.75, every=2, steps=3)
    >>> training = lc.attach(model)
    >>> history = training.fit(x, y, epochs=100, verbose=0, callbacks=[lc])
    >>> pruned = lc.finish(training)
    >>> kpi.report(pruned).kept
    12

    Reference:
        Carreira-Perpinan, Idelbayev, "Learning-Compression Algorithms for Neural Net
        Pruning", CVPR 2018; Carreira-Perpinan, 2017, arXiv 1707.01209.
    """

    def __init__(
        self,
        sparsity: float | None = None,
        *,
        l0_penalty: float | None = None,
        l1_penalty: float | None = None,
        l1_ball: float | None = None,
        every: int,
        steps: int = 40,
        first: int | None = None,
        mu: float = 9e-5,
        growth: float = 1.1,
        augmented: bool = True,
        filters: Filters = None,
    ):
        super().__init__()
        self.compression = Compression(
            sparsity=sparsity,
            l0_penalty=l0_penalty,
            l1_penalty=l1_penalty,
            l1_ball=l1_ball,
        )
        first = every if first is None else first
        for name, value in (("every", every), ("steps", steps), ("first", first)):
            check_whole(name, value, 1)
        check_schedule(mu, growth, steps)
        check_flag("augmented", augmented)
        check_filters(filters)
        self.every, self.steps, self.first = int(every), int(steps), int(first)
        self.mu, self.growth = float(mu), float(growth)
        self.augmented, self.filters = bool(augmented), filters
        self.history: list[dict[str, float]] = []

    @one_at_a_time
    def attach(self, model: keras.Model) -> keras.Model:
        """Return a copy of a model that has the penalty, to be trained by `fit`.

        Args:
            model: A built Keras model, trained as a rule; it is not changed. A pruned
                model is pruned further.

        Returns:
            A model with the same weights and outputs, compiled if `model` was, with a
            fresh optimizer.
        """
        check_model(model)
        if penalty.penalized_layers(model):
            raise ValueError(
                "A model gets one penalty. Received: "
                f"{model.name}, which `attach` returned. Train it, or `finish` it."
            )
        new = penalty.attached(model, self.compression, self.filters)
        penalty.note(new, 0, 0, self._mu(0))
        return new

    @one_at_a_time
    def finish(self, model: keras.Model) -> keras.Model:
        """Return the pruned model: `theta`, and masks of the weights that it has.

        Args:
            model: A model that `attach` returned, trained; it is not changed.

        Returns:
            A model with a `MaskedLayer` for each layer, as from `prune`, without any
            trace of the penalty. It is compiled if `model` was, with a fresh optimizer.
            Train it on with plain `fit`: removed weights stay 0.
        """
        done = _check_attached(model)
        if done < self.steps:
            said = "finish: only %d of %d compression steps were taken"
            logging.warning(said, done, self.steps)
        if (distance := penalty.distance(model)) > FAR:
            said = "finish: weights move by %.2g of their norm; let `mu` grow further"
            logging.warning(said, distance)
        how = f"{self.compression.name} {self.compression.number:g}, {done} steps"
        return penalty.finished(
            model, self.compression, f"Learning-compression: {how}."
        )

    def on_train_begin(self, logs=None):
        done = _check_attached(self.model)
        self._check_together()
        limit_rate(self.model.optimizer, self._mu(done), refuse=True)

    def on_epoch_begin(self, epoch, logs=None):
        # Not before, as another callback may load a file when the training begins.
        done, begun = penalty.progress(self.model)
        if done >= self.steps:
            raise ValueError(
                "`fit` trains until the last compression step. Received: "
                f"{self.model.name}, which has taken all {done}. Call `finish`."
            )
        taken = steps_taken(self.model)
        if taken < begun:  # of an optimizer that is new
            penalty.note(self.model, done, taken, self._mu(done))
        self._batch = 0
        self._compress_if_due()

    def on_train_batch_end(self, batch, logs=None):
        # Batches are counted, because a look at the optimizer would wait for it.
        self._left -= batch + 1 - self._batch
        self._batch = batch + 1
        if self._left <= 0:
            self._compress_if_due()

    def _compress_if_due(self):
        left = self._steps_left()
        if left < 0:
            logging.warning("This compression step comes %d steps late", -left)
        if left <= 0:
            self._compress()
            left = self._steps_left()
        done, _ = penalty.progress(self.model)
        if done < self.steps:
            limit_rate(self.model.optimizer, self._mu(done))
        else:
            self.model.stop_training = True
        self._left = left * _accumulated(self.model)

    def _steps_left(self):
        done, begun = penalty.progress(self.model)
        due = begun + (self.every if done else self.first)
        return due - steps_taken(self.model)

    def _compress(self):
        done, _ = penalty.progress(self.model)
        mu = self._mu(done)
        found = penalty.compress(self.model, self.compression, mu, self.augmented)
        taken = steps_taken(self.model)
        penalty.note(self.model, done + 1, taken, self._mu(done + 1))
        self.history.append({"step": done + 1, "mu": mu, **found})
        logging.info("Compression step of %d: %s", self.steps, self.history[-1])

    def _mu(self, done):
        return self.mu * self.growth**done

    def _check_together(self):
        together, batches = self.model.steps_per_execution, self.params.get("steps")
        for name, steps in (("first", self.first), ("every", self.every)):
            steps *= _accumulated(self.model)
            if batches and steps % batches == 0:
                continue  # it comes at the end of an epoch
            if steps % together or (batches or 0) % together:
                raise ValueError(
                    "Compression steps come between calls of the graph, so "
                    f"`steps_per_execution` must divide `{name}` and the steps of an "
                    f"epoch, or `{name}` must be whole epochs. Received: {name}={steps}"
                    f" with steps_per_execution={together} and epochs of {batches} "
                    "steps. Change one of them."
                )


def limit_rate(
    optimizer: keras.optimizers.Optimizer, mu: float, refuse: bool = False
) -> None:
    """Lower a learning rate to 1 / mu, with a warning.

    A schedule cannot be lowered: there is only the warning, or an error if `refuse`.
    """
    rate = optimizer.learning_rate
    value = float(keras.ops.convert_to_numpy(rate))
    if value * mu <= 1 + 1e-6:  # as rates are float32
        return
    told = f"learning rate {value:g}, above 1 / mu = {1 / mu:g}"
    if isinstance(rate, keras.Variable):
        rate.assign(1 / mu)
        logging.warning("A %s, is lowered to that", told)
    elif refuse:
        raise ValueError(
            "The learning rate must be 1 / mu or less, or the penalty diverges. "
            f"Received: a schedule that gives a {told}. Lower one of the two."
        )
    else:
        logging.warning("A schedule gives a %s: the penalty may diverge", told)


def _check_attached(model):
    check_model(model)
    if not penalty.penalized_layers(model):
        raise ValueError(
            "Learning-compression needs a model with its penalty. Received: "
            f"{model.name}, which has none. Train `model = lc.attach(model)`."
        )
    return penalty.progress(model)[0]


def _accumulated(model):
    """Return how many batches make a step of the optimizer."""
    return getattr(model.optimizer, "gradient_accumulation_steps", None) or 1
