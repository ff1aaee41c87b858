"""Stable ResNet: scale residual branches down, so that depth does no harm.

A residual network y <- y + F(y) makes the scores of SNIP grow exponentially with depth:
m^l = Theta((1 + sigma_w^2 / 2)^L), and single layers lose all their weights. If the
branches of L blocks are multiplied by 1 / sqrt(L), the network is well-conditioned for
any L.
"""

from __future__ import annotations

import math

import keras

from keras_prune_init._arguments import check_choice, check_model
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.graph.residual import Addition, residual_additions
from keras_prune_init.graph.wiring import Node, flat_graph
from keras_prune_init.surgery import rebuild

VARIANTS = {
    "uniform": lambda k, blocks: 1 / math.sqrt(blocks),
    "decreasing": lambda k, blocks: 1 / (math.sqrt(k) * math.log(k + 1)),
}


@one_at_a_time
def stabilize(model: keras.Model, variant: str = "uniform") -> keras.Model:
    """Multiply every residual branch by a factor that keeps deep networks trainable.

    Use it before scoring, and train the model that it returns; method `"sbp_sr"` does
    both.

    Args:
        model: A built Sequential or Functional model with residual additions, also in
            nested models, such as a `keras.applications.ResNet50`. It is not changed.
        variant: The factor of block k = 1..L: `"uniform"` for 1 / sqrt(L),
            `"decreasing"` for 1 / (sqrt(k) log(k + 1)).

    Returns:
        A new model of ordinary layers with the weights of `model`. Each branch ends in
        a `keras.layers.Rescaling`. It is compiled if `model` was.

    Raises:
        ValueError: If there is no residual addition, the branches are scaled already,
            or the model is neither Sequential nor Functional.
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.resnet((8, 8, 3), depth=8, width=2)
    >>> stable = kpi.stabilize(model)  # of 3 blocks, so 1 / sqrt(3)
    >>> [f"{v.scale:.3f}" for v in stable.layers if type(v) is keras.layers.Rescaling]
    ['0.577', '0.577', '0.577']

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797 (proposition 2); Hayou, Clerico,
        He, Deligiannidis, Doucet, Rousseau, 2021, arXiv 2010.12859 (decreasing).
    """
    check_choice("variant", variant, VARIANTS)
    check_model(model)
    nodes = flat_graph(model)
    additions = residual_additions(nodes)
    if not additions:
        raise ValueError(
            "`stabilize` scales residual branches. "
            f"Received: {model.name}, which has no residual additions. Use it on "
            "residual networks; plain ones need `rescale`."
        )
    if is_stable(nodes, additions):
        raise ValueError(
            "Residual branches are scaled once. "
            f"Received: {model.name}, whose branches end in Rescaling layers already. "
            "Use it as it is."
        )
    changes = {}
    for k, addition in enumerate(additions, start=1):
        node = nodes[addition.position]
        factor = VARIANTS[variant](k, len(additions))
        # A block that is called several times has the factor of its last call.
        changes[id(node.owner), node.operation.name] = addition.branches, factor
    return rebuild.copy_model(model, call=_scaled(changes))


def is_stable(nodes: list[Node], additions: list[Addition]) -> bool:
    """Whether some residual branch ends in a `Rescaling` layer."""
    ends = [
        nodes[nodes[addition.position].parents[i]].operation
        for addition in additions
        for i in addition.branches
    ]
    return any(isinstance(end, keras.layers.Rescaling) for end in ends)


def _scaled(changes):
    def call(model, layer, *args, **kwargs):
        key = id(model), layer.name
        if key not in changes:
            return layer(*args, **kwargs)
        branches, factor = changes[key]
        tensors = keras.tree.flatten(args)  # a layer's are in a list
        for i in branches:
            name = f"{layer.name}_stable" + (f"_{i}" if len(branches) > 1 else "")
            dtype = keras.backend.standardize_dtype(tensors[i].dtype)
            scaling = keras.layers.Rescaling(factor, name=name, dtype=dtype)
            tensors[i] = scaling(tensors[i])
        return layer(*keras.tree.pack_sequence_as(args, tensors), **kwargs)

    return call
