"""OBS, Optimal Brain Surgeon: remove one weight, move all others to make up for it.

The weight q with the smallest L_q = w_q^2 / (2 [H^-1]_qq) goes, which is the predicted
increase of the loss. The others change by -w_q / [H^-1]_qq H^-1 e_q, row and column q
leave H^-1, and so on. H is the Gauss-Newton matrix of the mean loss, for all weights
together. Its inverse starts as 1/alpha and takes in the vectors X of
`scoring.output_gradients` by

    H^-1 <- H^-1 - H^-1 X (I + X' H^-1 X)^-1 X' H^-1,

a block of them at a time. All is computed in float64, by a copy of the network.

Differences from the paper: the loss may be any; for a cross-entropy the matrix is that
of logits. Biases and normalization are moved like the rest, but not removed. The paper
removes weights until the predicted increase is too large and then trains; here
`sparsity` says how many go.
"""

from __future__ import annotations

import numpy as np

from keras_prune_init._arguments import is_number
from keras_prune_init.layers.kernels import is_float
from keras_prune_init.methods.base import Method, Recipe
from keras_prune_init.scoring import checks
from keras_prune_init.scoring.elimination import made_up_for, removal_costs
from keras_prune_init.scoring.output_gradients import curvature_vectors

# The inverse, its copy that shrinks, and what is computed from them.
BYTES_OF_A_PAIR = 32
LEAST_ALPHA = 1e-12
# Vectors that the inverse takes in together.
BLOCK = 256


class OBS(Method):
    """Remove the weights whose removal, made up for by all others, costs least.

    For small trained networks: the inverse of a matrix of all weights is in memory, 32
    bytes for each pair of weights (10,000 weights take 3.2 GB).

    Args:
        alpha: What the diagonal of the Hessian has at least, 1e-12 or more. The authors
            take 1e-8 to 1e-4.
        **options: `iterations` and `schedule`, as in `Method`. The Hessian is computed
            anew in each iteration.

    Raises:
        ValueError: If an option has no such value. While pruning: if memory is too
            small for so many weights.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> pruned = kpi.prune(model, (x, y), "obs", sparsity=0.5)
    >>> print(kpi.report(pruned).notes[0])
    OBS: the loss is predicted to rise by ...

    Reference:
        Hassibi, Stork, "Second Order Derivatives for Network Pruning: Optimal Brain
        Surgeon", NIPS 5, 1993.
    """

    batches = 8

    def __init__(self, *, alpha: float = 1e-8, **options):
        super().__init__(**options)
        if not is_number(alpha) or alpha < LEAST_ALPHA:
            raise ValueError(
                f"`alpha` must be a number, {LEAST_ALPHA:g} or more, for rounding. "
                f"Received: alpha={alpha!r}. Pass for example 1e-6."
            )
        self.alpha = float(alpha)

    def recipe(self, model):
        return Recipe(model, tell=_predicted)

    def remark(self, network):
        if not any(network.loss.kinds):
            raise ValueError(
                "Method 'obs' differentiates a loss of the outputs. Received: "
                f"{network.model.name}, whose loss does not depend on them: layers add "
                "all losses, or all sample weights are 0. Pass `loss=` or other "
                "weights, or use method 'obd'."
            )
        count = sum(int(np.prod(v.shape)) for v in _variables(network))
        checks.check_memory(
            count**2 * BYTES_OF_A_PAIR,
            "Method 'obs' inverts a matrix of all weights together, which takes 32 "
            f"bytes for each pair. Received: {network.model.name} of {count:,} weights",
            "Use method 'lobs', which does it layer by layer.",
        )
        return ""

    def scores(self, network, weights):
        inverse, w = self._quadratic(network, weights)
        kernels = sum(int(np.prod(k.shape)) for k in network.kernels)
        removable = np.arange(len(w)) < kernels
        [[costs]] = removal_costs(inverse[None], w[None, None], removable)
        return _split(costs, network.kernels)

    def update(self, network, weights, masks):
        inverse, w = self._quadratic(network, weights)
        kept = [masks[k.path].ravel() for k in network.kernels]
        kept = np.concatenate([*kept, np.ones(len(w), bool)])[: len(w)]
        new, increase = made_up_for(inverse, w, kept)
        network.once("predicted", lambda: increase)
        variables = _variables(network)
        return [*zip(variables, _split(new, variables), strict=True)]

    def _quadratic(self, network, weights):
        """Return the inverse of the Hessian, and the weights as a vector."""
        if network.dtype != "float64":
            # Rounding of gradients would be more than `alpha`.
            network.recast("float64")
        others = _others(network)
        values = [*weights, *(network.value_of(v) for v in others)]
        w = np.concatenate([np.ravel(v).astype("float64") for v in values])
        return network.once("inverse", lambda: self._inverse(network, weights, w)), w

    def _inverse(self, network, weights, w):
        inverse, seen = np.eye(len(w)) / self.alpha, False
        for vectors in curvature_vectors(network, weights, _others(network)):
            seen = seen or bool(np.any(vectors))
            for first in range(0, vectors.shape[1], BLOCK):
                x = vectors[:, first : first + BLOCK]
                product = inverse @ x
                inner = x.T @ product + np.eye(x.shape[1])
                root = np.linalg.cholesky((inner + inner.T) / 2)
                half = np.linalg.solve(root, product.T)
                inverse -= half.T @ half
        if not seen:
            raise ValueError(
                "The loss must depend on the weights. Received: second derivatives of "
                f"0 for all weights of {network.model.name}. Check that labels and "
                "sample weights are not all 0, and that the loss is not linear."
            )
        return inverse


def _predicted(_, network):
    increase = network.once("predicted", lambda: None)
    return f"OBS: the loss is predicted to rise by {increase:.4g}."


def _others(network):
    """Return the variables that are moved, but not removed."""
    kernels = {id(k.variable) for k in network.kernels}
    trained = network.model.trainable_variables
    return [v for v in trained if id(v) not in kernels and is_float(v)]


def _variables(network):
    return [*(k.variable for k in network.kernels), *_others(network)]


def _split(vector, parts):
    ends = np.cumsum([int(np.prod(v.shape)) for v in parts])
    pieces = zip(np.split(vector, ends), parts, strict=False)
    return [piece.reshape(v.shape) for piece, v in pieces]
