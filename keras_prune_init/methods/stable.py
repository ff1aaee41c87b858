"""SBP-SR and GraSP-SR: score, prune and train the Stable ResNet of a residual network.

SNIP or GraSP as they are, on a model whose residual branches are multiplied by
1 / sqrt(number of blocks). The factor stays in the network that is trained. A model
whose branches are scaled already is taken as it is.
"""

from __future__ import annotations

from keras_prune_init.graph.residual import residual_additions
from keras_prune_init.graph.wiring import flat_graph
from keras_prune_init.methods.base import Recipe
from keras_prune_init.methods.grasp import GraSP
from keras_prune_init.methods.snip import SNIP
from keras_prune_init.theory.stable import is_stable, stabilize


class _OnStableResNet:
    """Mixin: what the method does, on the Stable ResNet."""

    def recipe(self, model):
        nodes = flat_graph(model)
        additions = residual_additions(nodes)
        blocks = len(additions)
        if blocks and is_stable(nodes, additions):
            note = f"Stable ResNet: the {blocks} residual branches were scaled already."
            return Recipe(model, note)
        note = f"Stable ResNet: {blocks} residual branches scaled by 1/sqrt({blocks})."
        return Recipe(stabilize(model), note)


class SBPSR(_OnStableResNet, SNIP):
    """SNIP on the Stable ResNet: deep residual networks at 98 % sparsity and more.

    Args:
        **options: See `DataMethod`.

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", arXiv 2002.08797.
    """


class GraSPSR(_OnStableResNet, GraSP):
    """GraSP on the Stable ResNet; the authors saw no gain over GraSP.

    Args:
        **options: See `GraSP`.

    Reference:
        Hayou, Ton, Doucet, Teh, arXiv 2002.08797; Wang et al., arXiv 2002.07376.
    """
