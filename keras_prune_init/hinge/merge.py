"""`merge_hinges`: cut small groups out, and make one layer of two where it pays."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from keras_prune_init._arguments import check_weights
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.channels import shrinking
from keras_prune_init.hinge import limits
from keras_prune_init.hinge.attach import check_hinged
from keras_prune_init.hinge.groups import Hinges
from keras_prune_init.hinge.matrix import channels_only
from keras_prune_init.layers.walk import walk
from keras_prune_init.surgery import rebuild
from keras_prune_init.surgery.agreement import check_copy


@one_at_a_time
def merge_hinges(
    model: keras.Model, sparsity: float, *, least: float = 0.2
) -> keras.Model:
    """Make an ordinary smaller model of one with hinges.

    Use it after training with `callbacks.Hinge`. Rows and columns are removed whose
    norm is up to a threshold, which bisection finds. The convolution before loses a
    filter with each row. Each column goes with everything that reads its output. Then
    each matrix is multiplied into its convolution, or stays behind it as a 1x1
    convolution where that is cheaper. (A convolution that becomes one layer again gets
    all rows back, because they cost nothing then.) Train the result further. If it has
    batch normalization, `recalibrate` alone often brings back much of the accuracy.

    Args:
        model: A model from `add_hinges`, trained or not. It is not changed.
        sparsity: The fraction of multiply-adds to remove at least, 0 to below 1, of
            those of the model before `add_hinges`.
        least: The fraction of groups that each matrix keeps, above 0 to 1, at least
            one group.

    Returns:
        A model of ordinary layers. It is compiled if `model` was, with a fresh
        optimizer. In inference its outputs are those of `model` without the removed
        rows and columns, up to rounding.

    Raises:
        ValueError: If the model has no hinges, an argument is out of its range, or so
            much cannot be removed; the error says how much can.
        FloatingPointError: If a weight is NaN or infinite.
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.cnn((8, 8, 3), classes=2, depth=3, width=4)
    >>> small = kpi.merge_hinges(kpi.add_hinges(model), sparsity=0.3)
    >>> kpi.cost(small).macs <= 0.7 * kpi.cost(model).macs
    True

    Reference:
        Li, Gu, Mayer, Van Gool, Timofte, 2020, arXiv 2003.08935.
    """
    check_hinged("merge_hinges", model)
    limits.check(sparsity=sparsity, least=least)
    check_weights("merge_hinges", {v.path: v for v in model.trainable_variables})
    hinges = Hinges(model)
    kept = hinges.choose(float(sparsity), float(least))
    plan = hinges.channels.plan._replace(kept=kept)
    cut = shrinking.cut(hinges.plain, plan)
    layers = dict(walk(cut))
    pairs = {
        id(layers[pair.conv_at]): layers[pair.matrix_at]
        for pair in hinges.pairs
        if hinges.merges(pair, kept)
    }
    small = _as_one(cut, pairs)
    check_copy(cut, small)
    return small


def _as_one(
    model: keras.Model, pairs: Mapping[int, keras.layers.Conv2D]
) -> keras.Model:
    """Return a copy in which convolutions, by id, are one with the layer behind."""
    behind = {id(matrix) for matrix in pairs.values()}
    gone: dict[int, keras.layers.Layer] = {}

    def change(layer, copier):
        if id(layer) in behind:
            new = copier.unchanged(layer)
            gone[id(new)] = new
            return new
        matrix = pairs.get(id(layer))
        return None if matrix is None else _product(layer, matrix, copier)

    def call(model, layer, *args, **kwargs):
        return args[0] if id(layer) in gone else layer(*args, **kwargs)

    return rebuild.copy_model(model, change=change, call=call)


def _product(conv, matrix, copier):
    """Return one convolution in place of two."""
    kernel = conv.kernel.numpy().astype(np.float64)
    new = copier.unbuilt(conv)
    new.filters = matrix.filters
    # What `add_hinges` took from the convolution.
    for name in ("use_bias", "bias_initializer"):
        setattr(new, name, getattr(matrix, name))
    for name in ("activation", "bias_regularizer", "bias_constraint"):
        setattr(new, name, copier(getattr(matrix, name)))
    new.activity_regularizer = copier(matrix.activity_regularizer)
    new.build(channels_only(kernel.shape[-2], conv.data_format))
    new.kernel.assign(kernel @ matrix.kernel.numpy()[0, 0].astype(np.float64))
    if matrix.use_bias:
        new.bias.assign(matrix.bias.numpy())
    return new
