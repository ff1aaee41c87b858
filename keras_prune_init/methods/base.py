"""The base classes of all saliency methods."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init._arguments import check_choice, check_whole
from keras_prune_init.channels.choosing import Scoring
from keras_prune_init.masks.allocation import Masks
from keras_prune_init.masks.schedules import Schedule, get_schedule
from keras_prune_init.scoring.network import Network, Tensors, Values

# Each iteration scores all weights, so more would take forever.
MOST_ITERATIONS = 100_000


class Recipe(NamedTuple):
    """What a method wants done to a model besides scoring.

    Attributes:
        model: The model to score, to prune and to train.
        note: What was done and why, for the report.
        finish: `None`, or a function of the pruned model and the scoring `Network`,
            called once. It may change the model, and returns a text for the note.
        tell: `None`, or a function of the same that changes nothing. It returns what
            became of a model with masks: a text, or one for each kernel, by path.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> kpi.Recipe(model, note="As it is.").note
    'As it is.'
    """

    model: keras.Model
    note: str = ""
    finish: Callable[[keras.Model, Network], str] | None = None
    tell: Callable[[keras.Model, Network], str | dict[str, str]] | None = None


class Method(abc.ABC):
    """Base class of all methods. A subclass defines `scores`; the rest has defaults.

    Args:
        iterations: Number of steps in which weights are removed. After each step the
            remaining weights are scored anew.
        schedule: How sparsity grows over the iterations: `"exponential"`, `"linear"`,
            or a function `(progress in (0, 1], sparsity) -> sparsity`.

    Attributes:
        needs_data: Whether `scores` reads `network.batches`.
        needs_loss: Whether it differentiates the loss, or reads labels.
        batches: How many batches it asks for, if the user does not say.

    Raises:
        ValueError: If `iterations` or `schedule` is none of these.

    Example:

    >>> import keras_prune_init as kpi
    >>> class Squares(kpi.Method):
    ...     needs_data = False
    ...
    ...     def scores(self, network, weights):
    ...         return [w * w for w in weights]
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method=Squares(), sparsity=0.5)
    >>> kpi.report(pruned).sparsity
    0.5
    """

    needs_data = True
    needs_loss = True
    batches = 1

    def __init__(self, *, iterations: int = 1, schedule: Schedule = "exponential"):
        check_whole("iterations", iterations, 1, MOST_ITERATIONS)
        self.iterations = int(iterations)
        self.schedule = get_schedule(schedule)

    def recipe(self, model: keras.Model) -> Recipe:
        """Return what to score and prune, a `Recipe`; default: `model`, without a note.

        Args:
            model: The model that the user gave. It must not be changed.
        """
        return Recipe(model)

    def remark(self, network: Network) -> str:
        """Return a sentence for the note, once the data is known; default: none.

        Args:
            network: The model, its data and its gradients.
        """
        return ""

    def start(self, network: Network) -> Tensors:
        """Return the kernel values of the first iteration.

        Args:
            network: The model, its data and its gradients.

        Returns:
            A list of tensors in the order of `network.kernels`. Later iterations set
            removed entries to 0. Default: the weights of the model.
        """
        return network.weights

    @abc.abstractmethod
    def scores(self, network: Network, weights: Tensors) -> Tensors:
        """Score every weight; larger means keep.

        Args:
            network: The model, its data and its gradients.
            weights: The current kernel values, a list of tensors in the order of
                `network.kernels`. Removed weights are 0.

        Returns:
            A list with one tensor or array for each kernel, of the shape of the kernel.
        """

    def update(self, network: Network, weights: Tensors, masks: Masks) -> Values:
        """Return new values for what is left; default: it keeps its values.

        Args:
            network: The model, its data and its gradients.
            weights: The kernel values that were scored, a list of tensors in the order
                of `network.kernels`.
            masks: `{path of the kernel: bool array}`, `True` where a weight is kept.

        Returns:
            A list of pairs: a variable of `network.model`, such as the `variable` of a
            kernel or the bias beside it, and an array of its shape. Removed weights
            become 0 whatever it says.
        """
        return []

    def channel_scores(
        self, network: Network, weights: Tensors, channels: Scoring
    ) -> np.ndarray:
        """Score channels, for `what="channels"`; larger means keep.

        Default: the sum of the scores of all weights that go with a channel, divided by
        what these weights cost.

        Args:
            network: The model, its data and its gradients.
            weights: The current kernel values, a list of tensors in the order of
                `network.kernels`.
            channels: The function `channels.total` sums kernel-shaped tensors over the
                weights of each channel. The vector `channels.cost` is what these cost.
                `channels.readers` sums only over the weights that read each channel.

        Returns:
            A vector with one number for each entry of `channels.cost`.
        """
        return channels.total(self.scores(network, weights)) / channels.cost


class DataMethod(Method):
    """Base class of methods that differentiate the loss.

    Args:
        batch_norm: The statistics that batch normalization uses while scoring:
            `"train"` those of the batch, `"eval"` the running ones. All other layers
            run in inference mode. So dropout is off, and nothing is updated.
        **options: `iterations` and `schedule`, as in `Method`.

    Raises:
        ValueError: If an option has no such value.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> class Gradients(kpi.DataMethod):
    ...     def scores(self, network, weights):
    ...         return [abs(g) for g in network.gradients(weights, self.batch_norm)]
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> pruned = kpi.prune_at_init(model, (x, y), Gradients(), sparsity=0.5)
    >>> kpi.report(pruned).kept
    24
    """

    def __init__(self, *, batch_norm: str = "train", **options):
        super().__init__(**options)
        check_choice("batch_norm", batch_norm, ("train", "eval"))
        self.batch_norm = batch_norm
