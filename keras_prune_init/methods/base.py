"""What a saliency method is: an object that turns a network into scores."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init._arguments import check_choice, check_whole
from keras_prune_init.channels.choosing import Scoring
from keras_prune_init.masks.schedules import Schedule, get_schedule
from keras_prune_init.scoring.network import Network, Tensors

# Each scores all weights, so more would never end.
MOST_ITERATIONS = 100_000


class Recipe(NamedTuple):
    """What a method makes of a model, beside scoring it.

    Attributes:
        model: The model to score, to prune and to train.
        note: What was done and why, for the report.
        finish: What is done to the pruned model at last, given it and the network, with
            its data; returns what to add to the note.
    """

    model: keras.Model
    note: str = ""
    finish: Callable[[keras.Model, Network], str] | None = None


class Method(abc.ABC):
    """Base of all methods. A subclass defines `scores`; the rest has defaults.

    Args:
        iterations: In how many steps weights are removed, with new scores of what is
            left in each. Default: the authors' number.
        schedule: How sparsity grows over the iterations: `"exponential"`, `"linear"`
            or a function `(progress in (0, 1], sparsity) -> sparsity`.

    Attributes:
        needs_data: Whether `scores` reads `network.batches`.
    """

    needs_data = True

    def __init__(self, *, iterations: int = 1, schedule: Schedule = "exponential"):
        check_whole("iterations", iterations, 1, MOST_ITERATIONS)
        self.iterations = int(iterations)
        self.schedule = get_schedule(schedule)

    def recipe(self, model: keras.Model) -> Recipe:
        """What to score and prune in place of `model`, which must stay as it is."""
        return Recipe(model)

    def remark(self, network: Network) -> str:
        """What to add to the recipe's note, once the data is known."""
        return ""

    def start(self, network: Network) -> Tensors:
        """The kernel values to begin with; iterations then set some of them to 0."""
        return network.weights

    @abc.abstractmethod
    def scores(self, network: Network, weights: Tensors) -> Tensors:
        """Score every weight; larger means keep.

        Args:
            network: The model, its data and its gradients.
            weights: Current kernel values, a list of tensors, 0 where already removed.

        Returns:
            One tensor or array a kernel, of its shape.
        """

    def channel_scores(
        self, network: Network, weights: Tensors, channels: Scoring
    ) -> np.ndarray:
        """Score channels, for `what="channels"`; larger means keep.

        Default: the sum of the scores of all weights that go with a channel, over what
        they cost.

        Args:
            network, weights: As in `scores`.
            channels: `channels.total` sums kernel-shaped tensors over the weights of
                each channel, `channels.cost` is what these cost.

        Returns:
            As many numbers as `channels.cost` has.
        """
        return channels.total(self.scores(network, weights)) / channels.cost


class DataMethod(Method):
    """A method that differentiates the loss.

    Args:
        batch_norm: Statistics that batch normalization uses while scoring: `"train"`
            those of the batch, `"eval"` the running ones. All other layers run in
            inference mode, so dropout is off, and nothing is updated.
        **options: See `Method`.
    """

    def __init__(self, *, batch_norm: str = "train", **options):
        super().__init__(**options)
        check_choice("batch_norm", batch_norm, ("train", "eval"))
        self.batch_norm = batch_norm
