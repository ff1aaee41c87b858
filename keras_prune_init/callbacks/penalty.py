"""The penalty of learning-compression in a model: put in, moved, taken out."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init._arguments import check_weights
from keras_prune_init.callbacks.compressions import Compression
from keras_prune_init.distribute import replicas, workers
from keras_prune_init.layers.filters import Filters
from keras_prune_init.layers.kernels import Kernel, find_kernels, scoring_dtype
from keras_prune_init.layers.penalized import PenalizedLayer
from keras_prune_init.masks.c_steps import Arrays
from keras_prune_init.scoring import checks
from keras_prune_init.surgery import exchange, rebuild
from keras_prune_init.surgery.agreement import check_copy


class Learned(NamedTuple):
    """A kernel that is compressed, with what its wrapper holds for that."""

    kernel: Kernel
    mask: np.ndarray
    target: keras.Variable
    multiplier: keras.Variable

    @property
    def path(self) -> str:
        return self.kernel.path

    def value(self, variable: keras.Variable | None = None) -> np.ndarray:
        """Return the value of a variable, or of the kernel, in the dtype of scores."""
        found = self.kernel.value if variable is None else _array(variable)
        return found.astype(scoring_dtype([self.kernel]))


def penalized_layers(model: keras.Model) -> list[PenalizedLayer]:
    """Return the layers of a model that have a penalty."""
    return [v for v in exchange.masked_layers(model) if isinstance(v, PenalizedLayer)]


def progress(model: keras.Model) -> tuple[int, int]:
    """Return the number of compression steps, and when the last of them was."""
    layer = penalized_layers(model)[0]
    return int(_array(layer.lc_done)), int(_array(layer.lc_begun))


def note(model: keras.Model, done: int, begun: int, mu: float) -> None:
    """Set what `progress` returns, and the weight of the penalty."""
    with replicas.scope(model):
        for layer in penalized_layers(model):
            layer.lc_done.assign(done)
            layer.lc_begun.assign(begun)
            layer.lc_mu.assign(mu)


def attached(
    model: keras.Model, compression: Compression, filters: Filters
) -> keras.Model:
    """Return a copy with a penalty of weight 0, whose targets are compressed weights.

    A model that is pruned keeps its zeros.
    """
    exchange.check_finished("LearningCompression", model)
    marks = [(k.path, k.mask) for k in find_kernels(model)]
    before = {path: mask for path, mask in marks if mask is not None}
    plain = rebuild.without_masks(model) if before else model
    learned = {k.path: k for k in _chosen(plain, filters)}
    others = {k.path: k for k in find_kernels(plain) if k.path in before}
    kernels = {**others, **learned}
    masks = {p: before.get(p, np.ones(k.shape, bool)) for p, k in kernels.items()}
    penalized = {id(k.layer) for k in learned.values()}
    layouts = {
        p: "penalized" if id(k.layer) in penalized else "masked"
        for p, k in kernels.items()
    }
    compression.check({p: masks[p] for p, k in learned.items() if k.variable.trainable})
    text = "Learning-compression, in training: `finish` removes weights."
    new = rebuild.wrap(plain, kernels.values(), text, layouts)
    rebuild.set_masks(new, kernels.values(), masks)
    check_copy(plain, new, None, kernels.values(), masks)
    # Before the first step of training the penalty has no weight.
    weights = {k.path: k.value() for k in _learned(new)}
    _set_targets(new, compression.nearest(weights, 0))
    return new


def _chosen(model, filters):
    """Return the kernels of all layers that have one to compress."""
    found = checks.prunable_kernels(model, filters)
    trained = {id(k.layer) for k in found if k.variable.trainable}
    if not trained:
        raise _frozen(model)
    return [k for k in found if id(k.layer) in trained]


def _frozen(model):
    return ValueError(
        "Learning-compression trains what it compresses. Received: "
        f"{model.name}, whose kernels are all frozen. Set `trainable = True`."
    )


def compress(
    model: keras.Model, compression: Compression, mu: float, augmented: bool
) -> dict[str, float]:
    """Take a compression step, and return how many weights it keeps, and how far off.

    The targets become the compressed weights, and the multipliers follow.
    """
    learned = _learned(model)
    weights = {k.path: k.value() for k in learned}
    check_weights("LearningCompression", weights)
    old = {k.path: k.value(k.multiplier) for k in learned}
    moved = {path: w - old[path] / mu for path, w in weights.items()}
    theta = _set_targets(model, compression.nearest(moved, mu))
    off = {path: w - theta[path] for path, w in weights.items()}
    with replicas.scope(model):
        for k in learned if augmented else ():
            k.multiplier.assign(old[k.path] - mu * off[k.path])
    kept = sum(int(np.count_nonzero(t)) for t in theta.values())
    return {"kept": kept, "distance": _distance(off, weights)}


def distance(model: keras.Model) -> float:
    """Return how far the weights are from their targets, |w - theta| / |w|."""
    learned = _learned(model)
    weights = {k.path: k.value() for k in learned}
    off = {k.path: weights[k.path] - k.value(k.target) for k in learned}
    return _distance(off, weights)


def _distance(off, weights):
    return _norm(off) / max(_norm(weights), 1e-30)


def finished(model: keras.Model, compression: Compression, text: str) -> keras.Model:
    """Return a copy with the targets as weights, their masks, and no penalty."""
    learned = _learned(model)
    theta = {k.path: k.value(k.target) for k in learned}
    masks = compression.support(theta, {k.path: k.mask for k in learned})
    new = rebuild.copy_model(model, change=exchange.to_layout("masked"))
    with replicas.scope(new):
        for k in find_kernels(new):
            if k.path in theta and k.wrapper:
                k.wrapper.install(k.name, masks[k.path], theta[k.path])
                k.wrapper.note = text
    return new


def _learned(model) -> list[Learned]:
    """Return the kernels that are compressed together."""
    found = []
    for k in find_kernels(model):
        if isinstance(k.wrapper, PenalizedLayer) and k.variable.trainable:
            parts = k.wrapper.targets[k.name], k.wrapper.multipliers[k.name]
            found.append(Learned(k, k.wrapper.kept_mask(k.name), *parts))
    if not found:
        raise _frozen(model)
    return found


def _set_targets(model, theta: Arrays) -> Arrays:
    theta = workers.from_chief(model.distribute_strategy, theta)
    with replicas.scope(model):
        for k in _learned(model):
            k.target.assign(theta[k.path])
    return theta


def _array(variable):
    return keras.ops.convert_to_numpy(variable)


def _norm(arrays):
    squares = (np.sum(np.square(v, dtype="float64")) for v in arrays.values())
    return float(np.sqrt(sum(squares)))
