"""SBP-SR and GraSP-SR: score, prune and train the Stable ResNet of a residual network.

A model whose residual branches are scaled already is used as it is.
"""

from keras_prune_init.graph.residual import residual_additions
from keras_prune_init.graph.wiring import flat_graph
from keras_prune_init.methods.base import Recipe
from keras_prune_init.methods.grasp import GraSP
from keras_prune_init.methods.snip import SNIP
from keras_prune_init.theory.stable import is_stable, stabilize


class _OnStableResNet:
    """Mixin that makes a method work on the Stable ResNet of the given model."""

    def recipe(self, model):
        nodes = flat_graph(model)
        additions = residual_additions(nodes)
        blocks = len(additions)
        if is_stable(nodes, additions):
            note = f"Stable ResNet: the {blocks} residual branches were scaled already."
            return Recipe(model, note)
        note = f"Stable ResNet: {blocks} residual branches scaled by 1/sqrt({blocks})."
        return Recipe(stabilize(model), note)


class SBPSR(_OnStableResNet, SNIP):
    """SNIP on the Stable ResNet, for deep residual networks at 98 % sparsity and more.

    Residual branches are multiplied by 1 / sqrt(number of blocks), as by `stabilize`.
    The factor stays in the network that is trained.

    Args:
        **options: `batch_norm`, `iterations` and `schedule`, as in `DataMethod`.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.resnet((8, 8, 1), classes=2, depth=8, width=2)
    >>> x, y = np.random.rand(8, 8, 8, 1), np.arange(8) % 2
    >>> pruned = kpi.prune_at_init(model, (x, y), "sbp_sr", sparsity=0.5)
    >>> kpi.report(pruned).sparsity
    0.5

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797.
    """


class GraSPSR(_OnStableResNet, GraSP):
    """GraSP on the Stable ResNet; the authors saw no gain over GraSP.

    Args:
        **options: `temperature`, as in `GraSP`; `batch_norm`, `iterations` and
            `schedule`, as in `DataMethod`.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.methods.GraSPSR(temperature=1.0).temperature
    1.0

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797; Wang, Zhang, Grosse, 2020,
        arXiv 2002.07376.
    """
