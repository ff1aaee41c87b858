"""The edge of chaos of each layer of a model, from the activations that it reads."""

from __future__ import annotations

import keras
import numpy as np

from keras_prune_init.graph.activations import activations
from keras_prune_init.graph.wiring import flat_graph
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.theory.mean_field import Edge, edge_of_chaos
from keras_prune_init.theory.quadrature import with_slopes

# Points at which activations are compared with each other and their multiples.
PROBE = np.concatenate([side * np.geomspace(1e-3, 1e3, 19) for side in (-1, 1)])


def edges(
    model: keras.Model, kernels: list[Kernel], sigma_b: float | None = None
) -> list[Edge]:
    """Return the edge of chaos for each kernel.

    `sigma_b` is by default 0 for activations with phi(2x) = 2 phi(x), else 0.2.
    """
    nodes = flat_graph(model)
    known: dict[bytes, Edge] = {}
    read: dict[int, set] = {}  # a shared layer is called in several places
    for i, activation in activations(nodes).items():
        found = activation and _edge(activation, sigma_b, known)
        read.setdefault(id(nodes[i].layer), set()).add(found)
    result = [_one(read, kernel) for kernel in kernels]
    unknown = [k.path for k, v in zip(kernels, result, strict=True) if v is None]
    if unknown:
        raise ValueError(
            "The activation that a layer's inputs went through must be known, to find "
            f"the edge of chaos. Received: {model.name}, where these layers read "
            f"several, or an unknown operation: {', '.join(unknown)}. Name it: pass "
            '`reinitialize` an object such as EdgeOfChaos("relu"), `rescale` "relu".'
        )
    return result


def _one(read, kernel):
    found = read.get(id(kernel.layer), set())
    if len(found) != 1 or kernel.layer is not kernel.owner:
        return None  # several, none, or inside an attention or a wrapper
    (edge,) = found
    if edge is not None and kernel.name == "pointwise_kernel":
        # It reads what the depthwise kernel made, and nothing lies between.
        return edge._replace(sigma_w=edge_of_chaos("linear").sigma_w)
    return edge


def _edge(activation, sigma_b, known):
    """Return the edge of chaos of an activation; `None` if it takes no single numbers.

    Two ReLU layers are different functions, but equal ones, and share one result.
    """
    try:
        function = with_slopes(activation)
    except ValueError:  # a softmax, say, or a layer that wants more than numbers
        return None
    values, _ = function(PROBE)
    key = values.tobytes()
    if key not in known:
        if sigma_b is None:
            doubled, _ = function(2 * PROBE)
            sigma_b = 0.0 if np.allclose(doubled, 2 * values, rtol=1e-6) else 0.2
        known[key] = edge_of_chaos(activation, sigma_b)
    return known[key]
