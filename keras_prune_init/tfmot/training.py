"""The argument `training` in a graph, which Keras 2 obeys and Keras 3 overrides."""

from __future__ import annotations

import inspect
from typing import Any

from keras_prune_init.tfmot import graphs


def check(operation: Any, value: bool | None, to3: bool) -> None:
    """Raise an error if a call in Keras 2 has a `training` that Keras 3 cannot keep.

    A model of Keras 3 trains all layers in it, whatever they were called with. This
    makes no difference to layers that do the same in both modes.
    """
    if value is None or not to3:
        return
    layers = [layer for _, layer in graphs.inside(operation)]
    for layer in layers:
        if _differs(layer, value):
            raise ValueError(
                "Keras 3 ignores `training` in a graph. Received: "
                f"{operation.name}, called with training={value}, in which "
                f"{layer.name} does something else in training. Leave the argument "
                "out, and set `trainable = False` for normalization that must not "
                "change."
            )


def _differs(layer, value):
    """Whether a layer, not those inside it, may do something else in training."""
    held = [v for _, v in graphs.inside(layer)]
    if len(held) > 1 or "training" not in inspect.signature(layer.call).parameters:
        return False
    if hasattr(layer, "moving_variance"):
        return value or layer.trainable
    rates = ("rate", "dropout", "recurrent_dropout", "stddev")
    known = [getattr(layer, name) for name in rates if hasattr(layer, name)]
    return any(known) if known else True
