"""`shrink`: cut out the channels that pruning disconnected."""

from __future__ import annotations

import keras
import numpy as np

from keras_prune_init._arguments import check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.channels import analysis
from keras_prune_init.channels.rules import channel_axis, is_depthwise
from keras_prune_init.surgery import exchange, rebuild
from keras_prune_init.surgery.agreement import check_copy

L = keras.layers


@one_at_a_time
def shrink(model: keras.Model) -> keras.Model:
    """Cut out units and channels that no path from input to output uses any more.

    Use it after `prune_at_init` for cheaper training, or after training for a smaller
    file. Channels that are added to each other are cut out together. A cut channel may
    still emit a constant in inference, from a bias or an activation of 0. The constant
    is added to the biases of the layers that read it. If padding would make it uneven,
    the channel stays. Unknown layers keep all channels that they read and make.

    In training mode the outputs are the same only as long as the batch statistics of
    the cut channels are those of a fresh model, because the biases contain what the
    running statistics made of these channels.

    Args:
        model: A Sequential or Functional model, pruned or not. It is not changed.

    Returns:
        A smaller model with the same layers and wrappers. In inference its outputs are
        the same up to rounding. It is compiled if `model` was, with a fresh optimizer.

    Raises:
        ValueError: If the model is neither Sequential nor Functional.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=3, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.9)
    >>> small = kpi.shrink(pruned)
    >>> small.count_params() < pruned.count_params()
    True
    """
    check_model(model)
    exchange.check_finished("shrink", model)
    small = cut(model, analysis.analyse(model))
    check_copy(model, small)
    return small


def cut(model: keras.Model, plan: analysis.Analysis) -> keras.Model:
    """Return a copy of a model without the channels that a plan does not keep."""
    positions = {id(node.operation): i for i, node in enumerate(plan.nodes)}

    def change(layer, copier):
        i = positions.get(id(layer))
        if i is None:
            return None
        if i in plan.kernels:
            return _smaller_kernel(plan, i, copier)
        keep = plan.keeps(i)
        if isinstance(layer, L.BatchNormalization):
            if len(keep) == layer.moving_mean.shape[0]:
                return _smaller_vectors(layer, keep, _smaller_input(plan, i), copier)
        elif isinstance(layer, L.Reshape) and not keep.all():
            new = copier.unchanged(layer)
            new.target_shape = *layer.target_shape[:-1], int(keep.sum())
            return new
        return None

    def call(model, layer, *args, **kwargs):
        return layer(*args, **kwargs)

    return rebuild.copy_model(model, change=change, call=call)


def _smaller_input(plan, i):
    """Return the shape that a layer reads, without the channels that are cut out."""
    node = plan.nodes[i]
    shape = list(node.given[0])
    axis = channel_axis(shape, plan.first)
    shape[axis] = int(plan.keeps(node.parents[0]).sum())
    return tuple(shape)


def _smaller_vectors(layer, keep, shape, copier):
    new = copier.unbuilt(layer)
    new.build(shape)
    for old, variable in zip(layer.variables, new.variables, strict=True):
        variable.assign(old.numpy()[keep])
    return new


def _smaller_kernel(plan, i, copier):
    kernel, [parent] = plan.kernels[i], plan.nodes[i].parents
    keep_in, keep_out = plan.keeps(parent), plan.keeps(i)
    given = plan.constants[parent]
    layer, masked = kernel.layer, kernel.record.wrapper
    depthwise = is_depthwise(layer)
    bias = layer.bias.numpy() if layer.use_bias else np.zeros(len(keep_out))
    # What channels that are cut out emit.
    emitted = np.where(keep_in | np.isnan(given), 0, given)
    if not depthwise:
        bias = bias + np.einsum("pio,i->o", kernel.weights, emitted)
    bias = bias[keep_out]
    new = copier.unbuilt(layer)
    new.use_bias = layer.use_bias or bool(bias.any())
    if not depthwise:
        size = "units" if isinstance(layer, L.Dense) else "filters"
        setattr(new, size, int(keep_out.sum()))
    new.build(_smaller_input(plan, i))
    if new.use_bias:
        new.bias.assign(bias)

    def cut(values):
        values = np.asarray(values)
        if values.shape[-2] > 1:
            values = values[..., keep_in, :]
        return values if depthwise else values[..., keep_out]

    if masked is not None:
        return exchange.wrapped_like(masked, new, cut=cut)
    new.kernel.assign(cut(layer.kernel.numpy()))
    return new
