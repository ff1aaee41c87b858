"""L-OBS, layer-wise Optimal Brain Surgeon: each layer keeps its outputs, one by one.

The error of a layer is the mean squared norm of the change of its outputs, before the
activation and for the inputs that it has in the given network. Its Hessian is the same
for all rows that read the same inputs: their second moments, plus a damping. In each
row the weight q with the smallest w_q^2 / (2 [H^-1]_qq) goes, the others and the bias
make up for it, row and column q leave the inverse, and so on (`scoring.elimination`).

Differences from the paper and its code: H^-1 is down-dated exactly after each removal,
as in ExactOBS, so that later choices see earlier ones. `downdate=False` is the
published way: sensitivities of the first H^-1 decide, and each removal adds its change
with that H^-1. Costs are divided by the squared norm of the layer's outputs (without
the bias), because those of layers are compared if `allocation` is global; the order
within a layer is the published one. What is looked up (embeddings) has a diagonal
Hessian, the frequencies of tokens, so nothing makes up for anything.
"""

from __future__ import annotations

import keras
import numpy as np

from keras_prune_init._arguments import check_flag, is_number
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.methods.base import Method, Recipe
from keras_prune_init.scoring import checks, elimination, layer_inputs
from keras_prune_init.scoring.network import Network
from keras_prune_init.scoring.products import product

# Larger inverses are in single precision for the choice: twice as fast, and the same
# but for near ties. The new weights are computed in double precision.
WIDEST_DOUBLE = 256
BYTES_OF_A_PAIR = 8


class LOBS(Method):
    """Keep the outputs of each layer of a trained model, and move the weights left.

    Needs inputs only, no labels and no gradients; sample weights do not count.
    Afterwards call `recalibrate` if the model has batch normalization, and train a
    little.

    Args:
        damping: Part of the mean of the Hessian's diagonal that is added to it, a
            positive number. It is what makes weights of inputs that are always 0 cost
            something.
        downdate: `False`: as published, without down-dates of the inverse.
        **options: `iterations` and `schedule`, as in `Method`. In each iteration the
            inputs of the layers are those in the network so far.

    Raises:
        ValueError: If an option has no such value. While pruning: if a kernel is of a
            layer that is not known to multiply its inputs with it.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> pruned = kpi.prune(model, (x, y), "lobs", sparsity=0.5)
    >>> print(kpi.report(pruned).notes[0])
    dense1/kernel: the squared norm of its outputs is ... on average, that of ...

    Reference:
        Dong, Chen, Pan, 2017, arXiv 1705.07565. Frantar, Singh, Alistarh, 2022,
        arXiv 2208.11580 (ExactOBS).
    """

    needs_loss = False
    batches = 8

    def __init__(self, *, damping: float = 0.01, downdate: bool = True, **options):
        super().__init__(**options)
        if not is_number(damping) or damping <= 0:
            raise ValueError(
                "`damping` must be a positive number. Received: damping="
                f"{damping!r}. Pass for example 0.01."
            )
        check_flag("downdate", downdate)
        self.damping, self.downdate = float(damping), bool(downdate)

    def recipe(self, model):
        return Recipe(model, tell=_told)

    def remark(self, network):
        known = (product, layer_inputs.is_looked_up)
        unknown = [k for k in network.kernels if not any(f(k) for f in known)]
        if unknown:
            names = (f"{k.path} of a {type(k.owner).__name__}" for k in unknown)
            raise ValueError(
                "Method 'lobs' must know how a layer multiplies its inputs. Received: "
                f"{', '.join(names)}. Leave these layers out by `filters`, or use "
                "method 'obd'."
            )
        _check_memory(network)
        return ""

    def scores(self, network, weights):
        layers = self._layers(network, weights)
        return [v.costs() for v in network.progress(layers, "removing")]

    def update(self, network, weights, masks):
        layers = self._layers(network, weights)
        values = []
        for kernel, layer in network.progress(
            [*zip(network.kernels, layers, strict=True)], "compensating"
        ):
            if layer.product is not None:
                new, change = layer.compensated(masks[kernel.path])
                values.append((kernel.variable, new))
                if change is not None:
                    before = np.asarray(network.value_of(layer.bias))
                    values.append((layer.bias, before + change.reshape(before.shape)))
        return values

    def _layers(self, network, weights):
        moments = network.once("inputs", lambda: collected(network, weights))
        options = self.damping, self.downdate
        pairs = zip(weights, moments, strict=True)
        return [_Layer(np.asarray(w, float), m, *options) for w, m in pairs]


def _check_memory(network):
    sizes = {}
    for kernel in network.kernels:
        if found := product(kernel):
            groups, _, inputs = found.sizes
            sizes[kernel.path] = groups * inputs**2 * BYTES_OF_A_PAIR
    widest = max(sizes, key=sizes.__getitem__, default="")
    checks.check_memory(
        # All moments, and what is made of the largest.
        sum(sizes.values()) + 3 * sizes.get(widest, 0),
        "Method 'lobs' holds a matrix of the inputs of each layer. Received: "
        f"{network.model.name}, with {widest} as its widest",
        "Leave out wide layers by `filters`, or use method 'obd'.",
    )


def collected(network, weights):
    """Return the moments of the inputs of all kernels."""

    def run(x):
        network.forward(x, weights)

    return layer_inputs.collect(network.model, run, network.batches, network.kernels)


class _Layer:
    """One kernel as rows of weights, each group of rows with its Hessian."""

    def __init__(self, weights, moments, damping, downdate):
        self.weights, self.moments, self.damping = weights, moments, damping
        self.product, self.bias = moments.product, moments.bias
        self.downdate = downdate

    def costs(self):
        """Return what the removal of each weight costs, in the kernel's shape."""
        energy = self.moments.energy(self.weights) or 1.0
        if self.product is None:
            diagonal = self.moments.matrix + self._added(self.moments.matrix)
            return self.weights**2 * diagonal / energy
        inverses, rows = np.linalg.inv(self.hessians), self.rows
        inputs = self.product.sizes[2]
        if self.downdate:
            if rows.shape[-1] > WIDEST_DOUBLE:
                inverses = inverses.astype(np.float32)
            removable = np.arange(rows.shape[-1]) < inputs
            costs = elimination.removal_costs(inverses, rows, removable)
        else:
            diagonals = np.diagonal(inverses, axis1=1, axis2=2)
            costs = rows**2 / diagonals[:, None] / 2
        costs = self.product.join(costs[..., :inputs], self.weights.shape)
        return 2 * costs / energy

    def compensated(self, mask):
        """Return the weights that a mask leaves, moved, and the change of the bias."""
        kept = self._with_bias(self.product.split(mask), True)
        groups = zip(self.hessians, self.rows, kept, strict=True)
        new = np.stack([self._moved(*group) for group in groups])
        inputs = self.product.sizes[2]
        values = self.product.join(new[..., :inputs], self.weights.shape)
        return values, None if self.bias is None else new[..., inputs]

    @property
    def rows(self):
        """The weights, of shape (groups, outputs, inputs)."""
        return self._with_bias(self.product.split(self.weights), 0.0)

    @property
    def hessians(self):
        """The damped Hessian of each group."""
        found = self.moments.matrix.copy()
        for matrix in found:
            matrix.flat[:: len(matrix) + 1] += self._added(np.diag(matrix))
        return found

    def _added(self, diagonal):
        return self.damping * (np.mean(diagonal) or 1.0)

    def _with_bias(self, values, value):
        """Append an entry for the bias, of which only the change is of interest."""
        if self.bias is None:
            return values
        return np.pad(values, [(0, 0), (0, 0), (0, 1)], constant_values=value)

    def _moved(self, hessian, rows, kept):
        if self.downdate:
            return elimination.compensated(hessian, rows, kept)
        return elimination.published(np.linalg.inv(hessian), rows, kept)


def output_errors(
    pruned: keras.Model, network: Network
) -> dict[str, tuple[float, float]]:
    """Return the mean squared norm of each layer's outputs, and of their change.

    They are by the path of the kernel, before the activation, and for the inputs that
    the layer has in the network before pruning.
    """
    if network.others:  # inputs were collected on the way
        network.set_others([])
    moments = network.once("inputs", lambda: collected(network, network.weights))
    found = {}
    layers = {k.path: k for k in find_kernels(pruned)}
    for kernel, w, m in zip(network.kernels, network.weights, moments, strict=True):
        new = layers[kernel.path]
        w = np.asarray(w, float)
        change = new.value - w
        moved = 0.0
        if m.bias is not None:
            bias = np.asarray(new.owner.bias.value, float)
            moved = bias - np.asarray(m.bias.value, float)
        found[kernel.path] = m.energy(w), m.energy(change, moved)
    return found


def _told(pruned, network):
    return {
        path: f"{path}: the squared norm of its outputs is {energy:.4g} on average, "
        f"that of their change {error:.4g} ({error / (energy or 1):.2%})."
        for path, (energy, error) in output_errors(pruned, network).items()
    }
