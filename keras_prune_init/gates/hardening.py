"""`harden` and `expected_kept`: what gates leave of a model."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_prune_init._arguments import check_model, check_weights
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.gates import hard_concrete
from keras_prune_init.gates.layer import GatedLayer
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.surgery import exchange, rebuild
from keras_prune_init.surgery.agreement import check_copy


@one_at_a_time
def harden(model: keras.Model) -> keras.Model:
    """Turn gates into masks: multiply weights by open gates, remove the others.

    Use it after training, for a report, for further training with the masks as they
    are, and for export. `shrink` then cuts out units and channels that are closed or no
    longer read.

    Args:
        model: A model from `add_gates`, trained or not. It is not changed.

    Returns:
        A new model with a `MaskedLayer` in place of each `GatedLayer`. In inference its
        outputs are the same up to rounding. It is compiled if `model` was, with a fresh
        optimizer, because the old one knows weights of another size.

    Raises:
        ValueError: If the model has no gates.
        FloatingPointError: If a weight is NaN or infinite.
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> gated = kpi.add_gates(model, "channels", penalty=1.0, data_size=100)
    >>> gate = gated.layers[1].log_alphas["kernel"]  # of 8 units, which read 4 inputs
    >>> _ = gate.assign([[4.0] * 5 + [-4.0] * 3])
    >>> pruned = kpi.harden(gated)
    >>> kpi.report(pruned).kept  # of 4 * 8 + 8 * 2
    36
    >>> kpi.shrink(pruned).layers[1].units
    5

    Reference:
        Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0
        Regularization", 2018, arXiv 1712.01312.
    """
    _check_gated("harden", model)
    check_weights("harden", {v.path: v for v in model.trainable_variables})
    new = rebuild.copy_model(model, change=_hardened)
    check_copy(model, new)
    return new


def _hardened(layer, copier):
    if not isinstance(layer, GatedLayer):
        return None
    kernels = {name: layer.kernel_value(name) for name in layer.kernels}
    inner = exchange.unwrapped(layer, copier, {**layer.in_use(), **kernels})
    return exchange.wrapped_like(layer, inner, layout="masked")


def expected_kept(model: keras.Model) -> dict[str, tf.Tensor]:
    """Return how many weights of each kernel are behind open gates in expectation.

    That is the sum of count * P(open) over the gates of the kernel, in closed form. Use
    it to watch training, or for a loss of your own: it is differentiable, with the
    gradient count * P (1 - P) for each `log_alpha`. What `harden` keeps is another
    number: a gate that is rarely open is closed in inference.

    Args:
        model: A model from `add_gates`.

    Returns:
        `{kernel path: scalar tensor}`. The bias of a channel counts as one of its
        weights.

    Raises:
        ValueError: If the model has no gates.
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> gated = kpi.add_gates(model, "inputs", penalty=1.0, data_size=100)
    >>> {path: round(float(n)) for path, n in kpi.expected_kept(gated).items()}
    {'dense1/kernel': 27, 'logits/kernel': 13}

    Reference:
        Louizos, Welling, Kingma, 2018, arXiv 1712.01312.
    """
    _check_gated("expected_kept", model)
    return {
        kernel.path: kernel.wrapper.expected_kept(kernel.name)
        for kernel in find_kernels(model)
        if isinstance(kernel.wrapper, GatedLayer)
    }


def gated_layers(model: keras.Model) -> list[GatedLayer]:
    """Return the layers of a model that have gates, in definition order."""
    return [v for v in exchange.masked_layers(model) if isinstance(v, GatedLayer)]


def opened(model: keras.Model) -> list[tuple[keras.Variable, tf.Tensor]]:
    """Return pairs of each `log_alpha` and the value with which all gates are open."""
    return [
        (v, keras.ops.full(v.shape, hard_concrete.HIGHEST, v.dtype))
        for layer in gated_layers(model)
        for v in layer.log_alphas.values()
    ]


def _check_gated(function, model):
    # Without `check_model`: a loss of the user's own is computed in a graph.
    if not isinstance(model, keras.Model) or not gated_layers(model):
        check_model(model)
        raise ValueError(
            f"`{function}` takes a model with gates: one that `add_gates` returned. "
            f"Received: model={model.name}, which has no GatedLayer. Call `add_gates` "
            "first, and train."
        )
