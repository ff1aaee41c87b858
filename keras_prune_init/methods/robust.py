"""Robust: the pruning that "Robust Pruning at Initialization" recommends for a model.

Residual networks get SBP-SR. Plain networks without normalization get SBP and the
rescaling trick, and it is checked whether they start on the edge of chaos. All other
networks get SBP alone, because normalization undoes what rescaling does.

One thing goes beyond the paper: rescaling is taken back if it makes the gradients of
the scoring batch less even. The theory assumes that weights are removed at random. SBP
keeps the weights that read the strongest units, and where activations do not saturate
(ReLU) signals may then explode.
"""

import math

from absl import logging

from keras_prune_init.graph.residual import residual_additions
from keras_prune_init.graph.wiring import flat_graph
from keras_prune_init.layers.walk import is_graph
from keras_prune_init.methods.base import Recipe
from keras_prune_init.methods.snip import SNIP
from keras_prune_init.methods.stable import SBPSR
from keras_prune_init.theory import rescaling
from keras_prune_init.theory.phase import phase_of
from keras_prune_init.theory.signal_report import signal_report


class Robust(SNIP):
    """Choose SBP-SR, SBP with rescaling, or SBP, as the paper recommends for the model.

    `report` says which one was chosen, and why.

    Args:
        **options: `batch_norm`, `iterations` and `schedule`, as in `DataMethod`.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.resnet((8, 8, 1), classes=2, depth=8, width=2)
    >>> x, y = np.random.rand(8, 8, 8, 1), np.arange(8) % 2
    >>> pruned = kpi.prune_at_init(model, (x, y), "robust", sparsity=0.5)
    >>> print(kpi.report(pruned).notes[0])
    Robust: SBP-SR, as the network is residual. ...

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797.
    """

    def recipe(self, model):
        if not is_graph(model):
            why = f"how the layers of a {type(model).__name__} connect is not known"
            return Recipe(model, f"Robust: SBP alone, as {why}.")
        nodes = flat_graph(model)
        if residual_additions(nodes):
            return _stable(model)
        if reason := rescaling.obstacle(nodes):
            return Recipe(model, f"Robust: SBP alone; the network is one {reason}.")
        return _plain(model)


def _stable(model):
    try:
        recipe = SBPSR().recipe(model)
    except Exception as e:  # users' own layers may refuse to be called once more
        return Recipe(model, f"Robust: SBP alone, as SBP-SR does not fit: {_why(e)}")
    note = f"Robust: SBP-SR, as the network is residual. {recipe.note}"
    return recipe._replace(note=note)


def _plain(model):
    try:
        finding = phase_of(model)
    except ValueError as e:
        return Recipe(model, f"Robust: SBP alone, as rescaling does not fit: {_why(e)}")
    if finding.off:
        logging.warning("%s: %s", model.name, finding)
    note = f"Robust: SBP and rescaling, as the network is plain. {finding}"
    return Recipe(model, note, _rescale_if_it_helps)


def _rescale_if_it_helps(pruned, network):
    try:
        before = _gradient_ratio(pruned, network)
        rescaling.rescale(pruned)
        after = _gradient_ratio(pruned, network)
    except Exception as e:  # users' own layers may do anything
        rescaling.undo(pruned)
        return f"Rescaling was left out, as it does not fit: {_why(e)}"
    change = f"gradients of first over last hidden layer: {before:.2g}, rescaled "
    if _unevenness(after) <= _unevenness(before):
        return f"Rescaling helps: {change}{after:.2g}."
    rescaling.undo(pruned)
    return f"Rescaling was taken back: {change}{after:.2g}."


def _why(error):
    return f"{str(error).split('. ')[0].rstrip('.')}."


def _gradient_ratio(pruned, network):
    return signal_report(pruned, network.batches[0], network.loss).gradient_ratio


def _unevenness(ratio):
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf
