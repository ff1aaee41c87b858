"""OBD, Optimal Brain Damage: score = w^2 h / 2, h the diagonal of the Hessian.

It is the increase of the mean loss when the weight alone is removed, to second order,
where the gradient is 0: at the end of training. h comes from one of three sources.

- `"hutchinson"`: the mean of v (H v) over vectors v of random signs. Its expectation is
  h, and the products are exact.
- `"fisher"`: the mean of squared gradients of single examples. Its expectation is h if
  the loss is a log-likelihood and the model gives the probabilities of the labels.
- `"recursion"`: second derivatives that are propagated back from layer to layer, as in
  the paper; see `scoring.recursion`.

Differences from the paper: scores are signed, as the curvature of networks that are not
at a minimum may be negative. Biases are not pruned.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_prune_init._arguments import check_choice, check_whole
from keras_prune_init.methods.base import DataMethod
from keras_prune_init.scoring import recursion
from keras_prune_init.scoring.fisher import fisher_diagonal

MOST_PROBES = 1_000_000


class OBD(DataMethod):
    """Keep the weights whose removal raises the loss most, to second order.

    Use it on trained models, whose gradient is about 0.

    Args:
        curvature: Where second derivatives come from. `"hutchinson"`: exact products of
            the Hessian and random vectors, for every model. `"fisher"`: squared
            gradients of single examples, which are never negative; for cross-entropies.
            `"recursion"`: the paper's own, without random numbers, for chains of plain
            layers. The last two need `batch_norm="eval"`.
        probes: Number of random vectors for `"hutchinson"`.
        batch_norm: The statistics that batch normalization uses, as in `DataMethod`.
        **options: `iterations` and `schedule`, as in `Method`.

    Raises:
        ValueError: If an option has no such value, or if `curvature` does not fit the
            model or `batch_norm`.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> method = kpi.methods.OBD(curvature="fisher")
    >>> pruned = kpi.prune(model, (x, y), method, sparsity=0.5, batches=1)
    >>> kpi.report(pruned).kept
    24

    Reference:
        LeCun, Denker, Solla, "Optimal Brain Damage", NIPS 2, 1990.
    """

    batches = 8

    def __init__(
        self,
        *,
        curvature: str = "hutchinson",
        probes: int = 10,
        batch_norm: str = "eval",
        **options,
    ):
        super().__init__(batch_norm=batch_norm, **options)
        check_choice("curvature", curvature, ("hutchinson", "fisher", "recursion"))
        check_whole("probes", probes, 1, MOST_PROBES)
        if curvature != "hutchinson" and batch_norm != "eval":
            raise ValueError(
                "Only curvature='hutchinson' works with the statistics of a batch, "
                "which tie its examples together. Received: curvature="
                f"{curvature!r}, batch_norm={batch_norm!r}. Use batch_norm='eval', or "
                "curvature='hutchinson'."
            )
        self.curvature, self.probes = curvature, int(probes)

    def remark(self, network):
        if self.curvature != "recursion":
            return ""
        return recursion.remark(network)

    def scores(self, network, weights):
        diagonals = {
            "hutchinson": self._hutchinson,
            "fisher": fisher_diagonal,
            "recursion": recursion.diagonal,
        }
        found = diagonals[self.curvature](network, weights)
        return [w * w * h / 2 for w, h in zip(weights, found, strict=True)]

    def _hutchinson(self, network, weights):
        """Return the mean of v * (H v), H of the loss as a mean over the batches."""
        generators = [k.generator(network.seed) for k in network.kernels]
        total = [tf.zeros_like(w) for w in weights]
        for _ in range(self.probes):
            vectors = [
                tf.constant(
                    g.choice(np.array([-1, 1], w.dtype.as_numpy_dtype), w.shape)
                )
                for g, w in zip(generators, weights, strict=True)
            ]
            products = network.hessian_vector(
                weights, vectors, self.batch_norm, times=self.probes
            )
            total = [
                t + v * p for t, v, p in zip(total, vectors, products, strict=True)
            ]
        count = self.probes * len(network.batches)
        return [t / count for t in total]
