"""What "Robust Pruning at Initialization" recommends for the given model.

Residual networks get SBP-SR. Plain networks without normalization get SBP and the
rescaling trick, and a look at whether they were initialized on the edge of chaos. All
others get SBP alone: normalization undoes what rescaling does.
"""

from __future__ import annotations

from absl import logging

from keras_prune_init.core import selection
from keras_prune_init.core.graph import flat_graph, residual_additions
from keras_prune_init.methods.base import Recipe
from keras_prune_init.methods.snip import SNIP
from keras_prune_init.methods.stable import SBPSR
from keras_prune_init.signal import rescaling
from keras_prune_init.signal.phase import phase_of


class Robust(SNIP):
    """SBP-SR, SBP with rescaling, or SBP: whichever the paper recommends.

    `report` says which was picked, and why.

    Args:
        **options: See `DataMethod`.

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", arXiv 2002.08797.
    """

    def recipe(self, model):
        if not selection.is_graph(model):
            why = f"how the layers of a {type(model).__name__} connect is not known"
            return Recipe(model, note=f"Robust: SBP alone, as {why}.")
        nodes = flat_graph(model)
        if residual_additions(nodes):
            recipe = SBPSR().recipe(model)
            note = f"Robust: SBP-SR, as the network is residual. {recipe.note}"
            return recipe._replace(note=note)
        if reason := rescaling.obstacle(nodes):
            return Recipe(
                model, note=f"Robust: SBP alone; the network is one {reason}."
            )
        finding = phase_of(nodes)
        if finding.off:
            logging.warning("%s: %s", model.name, finding)
        note = f"Robust: SBP and rescaling, as the network is plain. {finding}"
        return Recipe(model, rescale=True, note=note)
