"""`add_hinges`: a matrix behind each convolution, at first without any effect."""

from __future__ import annotations

import functools

import keras
import numpy as np
from absl import logging

from keras_prune_init._arguments import check_choice, check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.channels import analysis
from keras_prune_init.channels.rules import is_depthwise
from keras_prune_init.hinge.matrix import HingeMatrix, channels_only
from keras_prune_init.hinge.proximal import PENALTIES
from keras_prune_init.layers.filters import Filters, check_filters, passes_filters
from keras_prune_init.layers.walk import flatten
from keras_prune_init.surgery import exchange, rebuild
from keras_prune_init.surgery.agreement import check_copy

L = keras.layers
GROUPS = ("alternating", "rows", "columns")
CONVOLUTIONS = (L.Conv1D, L.Conv2D, L.Conv3D)


@one_at_a_time
def add_hinges(
    model: keras.Model,
    filters: Filters = None,
    *,
    groups: str = "alternating",
    regularizer: str = "l1",
    init: str = "svd2",
) -> keras.Model:
    """Put a 1x1 convolution A behind every convolution, whose groups can become zero.

    Use it on a trained network that is to become smaller and is trained further:
    train the model that it returns with `callbacks.Hinge`, then call `merge_hinges`.
    The outputs are the same at first. Bias and activation come after A, and A has the
    name of its convolution with `_hinge`.

    A kernel of shape (height, width, inputs, outputs), as a matrix W with a column for
    each output, is the product of a new kernel and A. Row i of A reads filter i of
    the convolution. If it becomes zero, this filter goes, and the two layers are a
    decomposition of lower rank. Column j of A makes output j. If it becomes zero, the
    output goes with everything that reads it: the filters of W are pruned.

    Args:
        model: A Sequential or Functional model. It is not changed.
        filters: Which convolutions get a hinge: a regular expression for names, a list
            of them, or a function from layer to bool. `None`: every plain Conv2D. The
            authors leave the first one out.
        groups: `"alternating"`: columns and rows take turns, so that of two layers the
            first loses outputs and the second rank; `"columns"`: where they can go,
            else rows; `"rows"`: decomposition only. Outputs that are added to others,
            as at the end of a residual branch, cannot go alone: these are rows.
        regularizer: The penalty on the norms of groups: `"l1"`, `"l1/2"`, `"l1-2"`
            (l1 minus l2) or `"logsum"`.
        init: How W = U S V^T is divided: `"svd2"`: U and S V^T; `"svd"`: U S and V^T;
            `"identity"`: W and the identity.

    Returns:
        A new model of the same class with the weights of `model`. It is compiled if
        `model` was, with a fresh optimizer. Depthwise and grouped convolutions, and
        those that are called several times, are left alone; the log says so.

    Raises:
        ValueError: If an argument is none of these, no convolution can have a hinge,
            or the model is pruned, has hinges, or is neither Sequential nor Functional.
        TypeError: If `model` is no Keras model, or `filters` no filter.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.cnn((8, 8, 3), classes=2, depth=3, width=4)
    >>> hinged = kpi.add_hinges(model)
    >>> [v.sparse for v in hinged.layers if v.name.endswith("_hinge")]
    ['columns', 'rows', 'columns']

    Reference:
        Li, Gu, Mayer, Van Gool, Timofte, 2020, arXiv 2003.08935.
    """
    check_model(model)
    check_filters(filters)
    check_choice("groups", groups, GROUPS)
    check_choice("regularizer", regularizer, PENALTIES)
    check_choice("init", init, DIVISIONS)
    _check_plain(model)
    plan = analysis.analyse(model)
    chosen = _chosen(model, plan, filters, groups)
    matrices: dict[int, HingeMatrix] = {}

    def change(layer, copier):
        if id(layer) not in chosen:
            return None
        new, matrix = _divided(layer, copier, chosen[id(layer)], regularizer, init)
        matrices[id(new)] = matrix
        return new

    def call(model, layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        matrix = matrices.get(id(layer))
        return outputs if matrix is None else matrix(outputs)

    hinged = rebuild.copy_model(model, change=change, call=call)
    check_copy(model, hinged)
    return hinged


def hinge_matrices(model: keras.Model) -> list[HingeMatrix]:
    """Return the matrices of a model that `add_hinges` made."""
    return [v for v in flatten(model) if isinstance(v, HingeMatrix)]


def check_hinged(function: str, model: keras.Model) -> None:
    """Raise an error unless the argument of a function is a model with hinges."""
    check_model(model)
    if not hinge_matrices(model):
        raise ValueError(
            f"`{function}` takes a model that `add_hinges` returned. Received: "
            f"{model.name}, which has no hinges. Call `add_hinges` first."
        )


def _check_plain(model):
    exchange.check_finished("add_hinges", model)
    if exchange.masked_layers(model):
        raise ValueError(
            "`add_hinges` takes an ordinary model. Received: "
            f"{model.name}, which is pruned. Begin with the model before."
        )


def _chosen(model, plan, filters, groups):
    """Return the groups of the matrix of each convolution, by the layer's id."""
    positions = {id(k.layer): i for i, k in plan.kernels.items()}
    layers = {id(n.layer): n.layer for n in plan.nodes}.values()
    reasons = {
        layer.name: _obstacle(layer, positions, filters)
        for layer in layers
        if isinstance(layer, (*CONVOLUTIONS, L.DepthwiseConv2D))
    }
    chosen, last = {}, "rows"
    for layer in layers:
        if reasons.get(getattr(layer, "name", None), "no convolution") is None:
            free = groups != "rows" and _may_go(plan, positions[id(layer)])
            turn = groups == "columns" or last == "rows"
            last = chosen[id(layer)] = "columns" if free and turn else "rows"
    left = [f"{name}, {reason}" for name, reason in reasons.items() if reason]
    if not chosen:
        raise ValueError(
            "A hinge needs a Conv2D. Received: "
            f"{model.name}, in which there is none that can have one"
            + "".join(f"; {line}" for line in left[:3])
            + ". Use `prune` for other layers."
        )
    for line in left:
        logging.info("No hinge: %s", line)
    return chosen


def _obstacle(layer, positions, filters):
    """Return why a convolution has no hinge; `None` if it gets one."""
    if is_depthwise(layer):
        return "which is depthwise"
    if type(layer) is not L.Conv2D:
        return f"which is a {type(layer).__name__}"
    if layer.groups > 1:
        return "which is grouped"
    if id(layer) not in positions:
        return "which is called several times, or in a way that is not known"
    if layer.kernel_constraint is not None:
        return "whose kernel has a constraint"
    return None if passes_filters(layer, filters) else "which `filters` leave out"


def _may_go(plan, position):
    """Whether a layer alone makes its outputs, and each of them can be cut out."""
    mine = plan.groups[position]
    others = [
        plan.groups[i]
        for i, kernel in plan.kernels.items()
        if i != position and not is_depthwise(kernel.layer)
    ]
    taken = np.concatenate([*others, np.zeros(0, int)])
    return not plan.fixed[mine].any() and not np.isin(mine, taken).any()


def _divided(layer, copier, sparse, regularizer, init):
    """Return a copy of a convolution without its end, and the matrix that has it."""
    kernel = layer.kernel.numpy()
    first, second = DIVISIONS[init](kernel.reshape(-1, kernel.shape[-1]))
    new = copier.unbuilt(layer)
    new.filters, new.use_bias = first.shape[1], False
    new.activation = keras.activations.linear
    if layer.use_bias:
        del new.bias  # a checkpoint cannot have a `None` that was a variable
    new.build(channels_only(kernel.shape[-2], layer.data_format))
    new.kernel.assign(first.reshape(*kernel.shape[:-1], -1))
    matrix = HingeMatrix(
        layer.filters,
        sparse,
        regularizer,
        name=f"{layer.name}_hinge",
        data_format=layer.data_format,
        use_bias=layer.use_bias,
        activation=layer.activation,
        kernel_regularizer=copier(layer.kernel_regularizer),
        bias_initializer=layer.bias_initializer,
        bias_regularizer=copier(layer.bias_regularizer),
        bias_constraint=copier(layer.bias_constraint),
        activity_regularizer=copier(layer.activity_regularizer),
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )
    new.activity_regularizer = None
    matrix.build(channels_only(new.filters, layer.data_format))
    matrix.kernel.assign(second[None, None])
    if layer.use_bias:
        matrix.bias.assign(layer.bias.numpy())
    return new, matrix


def _by_svd(matrix, values_first):
    u, values, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (u * values, v) if values_first else (u, values[:, None] * v)


DIVISIONS = {
    "svd2": functools.partial(_by_svd, values_first=False),
    "svd": functools.partial(_by_svd, values_first=True),
    "identity": lambda matrix: (matrix, np.eye(matrix.shape[1])),
}
