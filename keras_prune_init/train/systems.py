"""What each system does with a network while it trains; `SYSTEMS` has their names."""

from __future__ import annotations

import abc
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import ml_collections
import numpy as np

import keras_prune_init as kpi
from keras_prune_init._arguments import check_choice
from keras_prune_init.callbacks.compressions import NAMES
from keras_prune_init.gates.hardening import gated_layers
from keras_prune_init.gates.options import Options, check_options
from keras_prune_init.hinge import attach, limits
from keras_prune_init.hinge.proximal import PENALTIES
from keras_prune_init.layers.prunable import prunable
from keras_prune_init.masks import top_k
from keras_prune_init.reports.cost import cost, savings
from keras_prune_init.reports.pruning import TensorReport
from keras_prune_init.surgery import exchange
from keras_prune_init.train.data import feed


class Middle(NamedTuple):
    """The steps before and after a system works, and the images; `None`: not known."""

    begin: int
    end: int
    data: Any


class System(abc.ABC):
    """What a system does with a network; a subclass has the options as arguments.

    Attributes:
        trained: Whether it begins with a trained network.
        masked: Whether it takes a model with masks.
        tuned: Whether what it makes must be trained on.
        shortest: Options with which it needs one step.
        callbacks: Those that come before the one that saves.
        last: Those that come after it.
    """

    trained = False
    masked = False
    tuned = True
    shortest: Mapping[str, Any] = types.MappingProxyType({})
    callbacks: Sequence[keras.callbacks.Callback] = ()
    last: Sequence[keras.callbacks.Callback] = ()

    def begin(self, model: keras.Model) -> keras.Model:
        """Return the model that the system trains."""
        return model

    @abc.abstractmethod
    def end(self, model: keras.Model) -> keras.Model:
        """Return the smaller model, from the one that was trained."""

    def check(self, model: keras.Model) -> None:
        """Raise an error if the system cannot treat a new model."""
        self.begin(model)


class HardConcrete(System):
    """Gates, from `add_gates` to `harden`."""

    masked = True
    tuned = False  # the authors do not

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        middle: Middle,
        *,
        penalty: float,
        gates: str = "inputs",
        drop: float = 0.5,
        weight_decay: float = 0.0,
    ):
        if config.train.weight_decay:
            raise ValueError(
                "`train.weight_decay` would pull gates to 1/2. Received: "
                f"train.weight_decay={config.train.weight_decay} with prune.method="
                f"{config.prune.method!r}. Set it to 0, and use "
                "--config.prune.options.weight_decay, which is of the loss."
            )
        images = middle.data.sizes[0] if middle.data else 1
        options = Options(gates, penalty, images, drop, weight_decay, config.seed)
        check_options(options)
        self.options = options._asdict() | {"filters": config.prune.filters}

    def begin(self, model):
        return kpi.add_gates(model, **self.options)

    def end(self, model):
        # Without `tune_epochs` a run may have been stopped after this.
        return kpi.harden(model) if gated_layers(model) else model


class LearningCompression(System):
    """A penalty, whose last compression step is the last step of the phase."""

    trained = True
    masked = True
    shortest = types.MappingProxyType({"steps": 1})

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        middle: Middle,
        *,
        steps: int = 40,
        every: int | None = None,
        mu: float = 9e-5,
        growth: float = 1.1,
        **options: Any,
    ):
        between = middle.end - middle.begin
        every = max(between // steps, 1) if every is None else every
        first = middle.end - (steps - 1) * every
        if first <= middle.begin:
            raise ValueError(
                "All compression steps must fit between `dense_epochs` and "
                f"`tune_epochs`. Received: prune.options.steps={steps}, one in {every} "
                f"of the {between} steps of training there. Set fewer, or more "
                "--config.train.epochs."
            )
        if not options.keys() & set(NAMES):
            options["sparsity"] = config.prune.sparsity
        options |= {"mu": mu, "growth": growth, "filters": config.prune.filters}
        self.compressing = kpi.callbacks.LearningCompression(
            every=every, steps=steps, first=first, **options
        )
        if config.train.learning_rate * mu * growth ** (steps - 1) > 1:
            raise ValueError(
                "`train.learning_rate` must be 1 / mu or less at the last `mu`, or the "
                f"penalty diverges. Received: {config.train.learning_rate}, and mu="
                f"{mu} that grows by {growth} in {steps} steps. Lower one of them."
            )
        self.last = [self.compressing]

    def begin(self, model):
        return self.compressing.attach(model)

    def end(self, model):
        return self.compressing.finish(model)


class CompressionAware(System):
    """Kernels whose rank falls, and the smaller layers of `factorize`."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        middle: Middle,
        *,
        energy: float = 0.9,
        form: str = "pointwise",
        **options: Any,
    ):
        place = {"form": form, "filters": config.prune.filters}
        self.callbacks = [kpi.callbacks.CompressionAware(**options, **place)]
        self.place = place | {"energy": energy}

    def end(self, model):
        return kpi.factorize(model, **self.place)

    def check(self, model):
        self.end(model)


class Hinge(System):
    """Hinges, which are merged at the end; statistics of normalization come anew."""

    trained = True

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        middle: Middle,
        *,
        groups: str = "alternating",
        regularizer: str = "l1",
        least: float = 0.2,
        **options: Any,
    ):
        check_choice("prune.options.groups", groups, attach.GROUPS)
        check_choice("prune.options.regularizer", regularizer, PENALTIES)
        limits.check(least=least)
        self.config, self.data = config, middle.data
        self.kind = {"groups": groups, "regularizer": regularizer}
        self.goal = {"sparsity": config.prune.sparsity, "least": least}
        # The phase has its length, so it never stops early.
        hinge = kpi.callbacks.Hinge(**self.goal, stop_within=None, **options)
        self.last = [hinge]

    def begin(self, model):
        return kpi.add_hinges(model, self.config.prune.filters, **self.kind)

    def end(self, model):
        small = kpi.merge_hinges(model, **self.goal)
        images = feed.scoring(self.config, self.data)
        return kpi.recalibrate(small, images, batches=self.config.prune.batches)

    def check(self, model):
        kpi.merge_hinges(self.begin(model), **self.goal)


SYSTEMS: dict[str, type[System]] = {
    "hard_concrete": HardConcrete,
    "learning_compression": LearningCompression,
    "compression_aware": CompressionAware,
    "hinge": Hinge,
}


def report(model: keras.Model, dense: Callable[[], keras.Model]) -> kpi.PruningReport:
    """Return the report of a trained model, whose layers may be others than before.

    `dense` makes the model before; it is called if the layers are others.
    """
    if exchange.masked_layers(model):
        return kpi.report(model)
    whole = dense()
    before, after = ([k.shape for k in prunable(m)[0]] for m in (whole, model))
    total, kept = (sum(int(np.prod(s)) for s in shapes) for shapes in (before, after))
    row = TensorReport("all kernels", (), total, kept, kept)
    old, new = cost(whole), cost(model)
    notes = savings((old.weights, new.weights), (old.macs, new.macs))
    digest = top_k.digest(np.ones(shape, bool) for shape in after)
    return kpi.PruningReport([row], [], digest, notes, new)
