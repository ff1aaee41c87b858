"""The diagonal of the Hessian by back-propagation, as in "Optimal Brain Damage".

Next to first derivatives, second derivatives of the loss go back through the layers;
`chain_parts` has the formulas. The diagonal at the outputs is exact. Terms with second
derivatives for two different numbers of one layer are dropped. The result is exact
without such terms: for at most one hidden layer of units, if the loss is a sum over
outputs.
"""

from __future__ import annotations

import keras

from keras_prune_init.graph.wiring import graph_with_outputs
from keras_prune_init.layers.kernel_paths import kernel_names
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.layers.patching import listener, patched
from keras_prune_init.layers.types import MEANS, Trait, has
from keras_prune_init.layers.walk import is_graph
from keras_prune_init.scoring.chain_parts import (
    BY_NUMBER,
    LINEAR,
    Function,
    Linear,
    Places,
    at_outputs,
)
from keras_prune_init.scoring.exact_layers import scoring_layers
from keras_prune_init.scoring.network import EAGER_CALLS, Network, Tensors
from keras_prune_init.scoring.objective import has_own
from keras_prune_init.scoring.temperature import LOGITS, SOFTMAX

L = keras.layers


def diagonal(network: Network, weights: Tensors) -> Tensors:
    """Return the diagonal of the Hessian of the loss, a mean over the batches.

    Args:
        network: The model, its data and its gradients. `remark` must have accepted it.
        weights: Kernel values, a list of tensors in the order of `network.kernels`.

    Returns:
        A list of tensors with the shapes of the kernels, in the same order.
    """
    chain = network.once("chain", lambda: _Chain(network))
    # Eager loops over the outputs would be slow.
    sums = network.summed(
        ("recursion", "eval", 1.0), chain.diagonal, weights, times=EAGER_CALLS + 1
    )
    return [s / len(network.batches) for s in sums]


def remark(network: Network) -> str:
    """Return what the recursion leaves out for a model.

    Raises:
        ValueError: If the model is not a chain of layers that it can go through.
    """
    try:
        chain = network.once("chain", lambda: _Chain(network))
    except _Obstacle as e:
        raise ValueError(
            "curvature='recursion' needs a chain of plain layers without branches. "
            f"Received: {network.model.name}, in which {e}. Use "
            "curvature='hutchinson', which works for every model."
        ) from None
    reasons = []
    if chain.hidden > 1:
        reasons.append("the network has more than one hidden layer")
    elif chain.shares:
        reasons.append("a hidden layer uses its weights at several positions")
    if chain.hidden and chain.repeats:
        reasons.append("a layer without weights uses its inputs several times")
    if chain.hidden and {LOGITS, SOFTMAX} & set(network.loss.kinds):
        reasons.append("the loss is no sum over outputs")
    if not reasons:
        return ""
    return (
        "OBD: the recursion is approximate, because it drops cross terms: "
        f"{', and '.join(reasons)}."
    )


class _Obstacle(Exception):
    """Why the recursion does not fit a model, as the end of a sentence."""


class _Chain:
    """The parts of the network from the first kernel on, and the loss after them."""

    def __init__(self, network):
        self.network = network
        layers = _layers(network)
        kernels = {id(k.layer): k for k in find_kernels(network.model)}
        kernels.update({id(k.layer): k for k in network.kernels})
        known = {id(v) for v in layers}
        for kernel in network.kernels:
            if id(kernel.layer) not in known:
                raise _Obstacle(f"{kernel.path} is inside of another layer")
        scored = {id(k.layer) for k in network.kernels}
        first = min(i for i, v in enumerate(layers) if id(v) in scored)
        self.first = layers[first]
        self.parts = [p for v in layers[first:] for p in _parts(v, kernels.get(id(v)))]
        # What follows the last sum belongs to the loss, whose derivatives are exact.
        ends = isinstance(self.parts[-1], Function)
        self.last = self.parts.pop().function if ends else LINEAR
        for part in self.parts:
            if isinstance(part, Function) and not part.by_number():
                raise _Obstacle(f"{part.name} is no function of single numbers")
        held = [p.layer for p in self.parts if isinstance(p, Linear)]
        self.hidden = len(held) - 1
        self.shares = any(len(v.output.shape) > 2 for v in held[:-1])
        self.repeats = any(isinstance(p, Places) and p.repeats() for p in self.parts)

    def diagonal(self, weights, batch):
        network, (x, y, sample_weight) = self.network, batch
        values = {id(k.layer): w for k, w in zip(network.kernels, weights, strict=True)}
        inputs, found = [], {}

        def hear(layer, args, kwargs, outputs):
            inputs.append(args[0])

        def loss(outputs):
            structure = network.loss.example[-1]
            outputs = keras.tree.pack_sequence_as(structure, [self.last(outputs)])
            return network.loss(network.model, x, y, outputs, sample_weight)

        with scoring_layers(network.model, "eval", True), network.scope(weights):
            with patched([listener(self.first, hear)]):
                network.model(x, training=False)
            for part in self.parts:
                inputs.append(part(inputs[-1]))
            g, h = at_outputs(loss, inputs.pop())
            for part, given in zip(reversed(self.parts), reversed(inputs), strict=True):
                if isinstance(part, Linear) and id(part.layer) in values:
                    weight = values[id(part.layer)]
                    found[id(part.layer)] = part.of_kernel(given, weight, h)
                g, h = part.back(given, g, h)
        return [found[id(k.layer)] for k in network.kernels]


def _layers(network):
    """Return the layers of a model in their order."""
    model = network.model
    if not is_graph(model):
        raise _Obstacle(f"a {type(model).__name__} does not say how its layers connect")
    if has_own(model, "compute_loss") or network.loss.user_loss is None:
        raise _Obstacle("the loss is not that of `compile`")
    nodes, outputs = graph_with_outputs(model)
    straight = all(n.parents == ((i - 1,) if i else ()) for i, n in enumerate(nodes))
    if not straight or outputs != [len(nodes) - 1]:
        raise _Obstacle("the graph branches")
    layers = [n.layer for n in nodes if n.parents]
    for layer in layers:
        if layers.count(layer) > 1:
            raise _Obstacle(f"`{layer.name}` is used twice")
        if getattr(layer, "activity_regularizer", None) is not None:
            raise _Obstacle(f"`{layer.name}` adds a loss")
        if isinstance(layer, L.Masking) or getattr(layer, "mask_zero", False):
            raise _Obstacle(f"`{layer.name}` makes a mask")
    return layers


def _parts(layer, kernel):
    """Return what a layer consists of."""
    if kernel and has(layer, Trait.LINEAR, subclasses=False):
        if len(kernel_names(layer)) == 1:
            name = f"the activation of `{layer.name}`"
            activation = layer.activation or LINEAR
            return [Linear(layer, kernel), Function(activation, name)]
    elif type(layer) in (L.Softmax, *BY_NUMBER):
        return [Function(layer, f"`{layer.name}`")]
    elif has(layer, Trait.ACTIVATES, subclasses=False):
        return [Function(layer, f"`{layer.name}`")]
    elif has(layer, Trait.INERT | Trait.SELECTS, subclasses=False):
        return [Places(layer)]
    elif type(layer) in MEANS.values():
        if getattr(layer, "padding", "valid") == "valid":
            return [Places(layer)]
    name = getattr(layer, "name", "an operation")
    raise _Obstacle(f"`{name}` is a {type(layer).__name__}, which it does not know")
