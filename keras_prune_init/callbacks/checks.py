"""Which models a rule that moves masks can train."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_prune_init.callbacks.moves import Movable
from keras_prune_init.layers.compact import CompactLayer
from keras_prune_init.masks.patterns import pattern_of
from keras_prune_init.scoring.objective import trains_another_loss
from keras_prune_init.surgery import exchange


def check_trainable(
    rule: str,
    model: keras.Model | None,
    *,
    advice: str,
    fixed_counts: bool,
    needs_gradients: bool,
) -> None:
    """Raise a ValueError if a rule cannot change the masks of a model in training.

    Args:
        rule: Name of the rule's class.
        model: Its model, `None` before `set_model`.
        advice: What to do with a model without masks.
        fixed_counts: As in `MovingMasks`.
        needs_gradients: As in `MovingMasks`.
    """
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"`{rule}` needs a model that is compiled. Received: {model}. "
            "Compile it, and in a loop of your own call `set_model(model)` first."
        )
    exchange.check_finished(rule, model)
    exchange.check_pruned(rule, model, advice)
    layers = exchange.masked_layers(model)
    compact = [layer for layer in layers if isinstance(layer, CompactLayer)]
    if compact and not fixed_counts:
        layout = compact[0].computes
        raise ValueError(
            f"The layout {layout!r} stores a fixed number of weights. Received: "
            f"{rule}, which changes the number, for {compact[0].name}. Use "
            f"`to_layout(model, 'masked')`, and go back to {layout!r} afterwards."
        )
    if needs_gradients and trains_another_loss(model):
        raise ValueError(
            f"`{rule}` reads gradients of `compute_loss`. Received: "
            f"{type(model).__name__}, with a `train_step` that does not call "
            "it. Let it call `compute_loss`, or use `SET`."
        )


def check_single(rule: str, found: Sequence[Movable]) -> None:
    """Raise a ValueError if a mask has a pattern, which single weights would break."""
    for movable in found:
        if pattern := pattern_of(movable.kernel, movable.mask):
            raise ValueError(
                f"`{rule}` moves single weights. Received: the mask of "
                f"{movable.kernel.path}, of {pattern}. Train it with masks that stay, "
                "or begin with a model that was pruned with what='weights'."
            )
