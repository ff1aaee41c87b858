"""Does a method choose weights, or only how many each layer keeps? Three checks.

Shuffle the masks within each layer, draw the weights anew, or keep what the method
would remove. If accuracy after training stays, the method did not find good weights.
"""

from __future__ import annotations

import zlib

import keras
import numpy as np

from keras_prune_init._arguments import check_model, check_whole, some
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.distribute import replicas
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.methods import Method, get_method
from keras_prune_init.surgery import rebuild, redraw
from keras_prune_init.surgery.agreement import check_copy
from keras_prune_init.surgery.exchange import (
    check_finished,
    check_pruned,
    masked_layers,
)
from keras_prune_init.theory import rescaling

__all__ = ["inverted", "reinitialize", "shuffle"]


@one_at_a_time
def shuffle(
    model: keras.Model, initial: keras.Model | None = None, seed: int = 0
) -> keras.Model:
    """Move the kept weights of each kernel to random places, and keep their number.

    Use it before training, to see whether it matters which weights of a layer a method
    keeps. The paper leaves the initialization as it is and moves only the mask: pass
    the unpruned model as `initial` for that. Without it the kept values move together
    with the mask, so each kernel keeps its values. Blocks and N of M are not kept.

    Args:
        model: A model from `prune_at_init`, in any layout. It is not changed.
        initial: The model that was pruned. Kept weights get its values.
        seed: Seed of all draws, together with the paths of the kernels.

    Returns:
        A new model with other masks. All weights but those of masked kernels, and all
        scales, are those of `model`. It is compiled as `model` is, with a fresh
        optimizer.

    Raises:
        ValueError: If `model` is not pruned, `initial` does not have its kernels or has
            masks, or `seed` is no whole number.
        TypeError: If `model` or `initial` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.75)
    >>> shuffled = kpi.sanity.shuffle(pruned, initial=model)
    >>> kpi.report(shuffled).kept == kpi.report(pruned).kept
    True

    Reference:
        Frankle, Dziugaite, Roy, Carbin, 2021, arXiv 2009.08576.
    """
    check_pruned("shuffle", model)
    check_finished("shuffle", model)
    check_whole("seed", seed, 0)
    values = {} if initial is None else _values_of(initial, model)
    new = _copy(model, f"Shuffled within kernels, seed {seed}.")
    with replicas.scope(new):
        for kernel in find_kernels(new):
            if (wrapper := kernel.wrapper) is None:
                continue
            generator = np.random.default_rng([seed, zlib.crc32(kernel.path.encode())])
            both = wrapper.kept_mask(kernel.name), kernel.value
            order = generator.permutation(both[0].size)
            mask, moved = (np.reshape(v.ravel()[order], kernel.shape) for v in both)
            wrapper.install(kernel.name, mask, values.get(kernel.path, moved))
    return new


@one_at_a_time
def reinitialize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Draw all weights of a model anew, under the same masks.

    Use it before training, to see whether masks fit the weights that they were chosen
    for. Every layer is made once more from its config: kernels, biases, embeddings,
    recurrent layers, attention and your own layers get another draw from their own
    initializers. Statistics of normalization go back to their start. An initializer
    with a fixed seed gives other weights too, as the check needs it; only seeds inside
    the code of a layer are not seen. What `adapt` learned stays. Scales go back to 1,
    because they belong to the old weights; call `rescale` again.

    `initializers.reinitialize` draws dense and convolution layers from an initializer
    that you choose, in place.

    Args:
        model: A built Keras model, pruned or not. It is not changed.
        seed: Seed of all draws, together with the places of the layers. Global random
            states stay as they are.

    Returns:
        A new model. It is compiled as `model` is, with a fresh optimizer.

    Raises:
        ValueError: If a layer cannot be made from its config (the message names it),
            the model is not built, or `seed` is no whole number.
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.75)
    >>> other = kpi.sanity.reinitialize(pruned, seed=1)
    >>> bool((other.layers[1].mask.numpy() == pruned.layers[1].mask.numpy()).all())
    True

    Reference:
        Frankle, Dziugaite, Roy, Carbin, 2021, arXiv 2009.08576.
    """
    check_model(model)
    check_finished("reinitialize", model)
    check_whole("seed", seed, 0)
    values = redraw.new_weights(model, seed)
    new = _copy(model, f"Weights drawn anew, seed {seed}.")
    with replicas.scope(new):
        for layer, made in zip(masked_layers(model), masked_layers(new), strict=True):
            for name in layer.kernels:
                value = values.pop(id(get_kernel(layer.layer, name)))
                made.install(name, made.kept_mask(name), value)
        for variable, made in zip(model.weights, new.weights, strict=True):
            if id(variable) in values:
                made.assign(values[id(variable)])
        rescaling.undo(new)
    return new


def inverted(method: str | Method, **options) -> Method:
    """Return a method that keeps what another one would remove first.

    Use it to see whether scores say anything: the least important weights should train
    worse than those that the method keeps.

    Args:
        method: A name of `method_names()`, or a method object.
        **options: Options of the method of this name, as in `get_method`.

    Returns:
        A method with the negative scores of the other, and all else of it.

    Raises:
        ValueError: If there is no such method or option.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> largest = kpi.score(model, method="magnitude")["logits/kernel"]
    >>> smallest = kpi.score(model, method=kpi.sanity.inverted("magnitude"))
    >>> bool((smallest["logits/kernel"] == -largest).all())
    True

    Reference:
        Frankle, Dziugaite, Roy, Carbin, 2021, arXiv 2009.08576.
    """
    return _Inverted(get_method(method, **options))


class _Inverted(Method):
    """The negative scores of another method."""

    def __init__(self, method: Method):
        super().__init__(iterations=method.iterations, schedule=method.schedule)
        self.method, self.batches = method, method.batches
        self.needs_data, self.needs_loss = method.needs_data, method.needs_loss

    def recipe(self, model):
        recipe = self.method.recipe(model)
        note = f"Inverted {type(self.method).__name__}. {recipe.note}".rstrip()
        return recipe._replace(note=note)

    def remark(self, network):
        return self.method.remark(network)

    def start(self, network):
        return self.method.start(network)

    def scores(self, network, weights):
        return [-s for s in self.method.scores(network, weights)]

    def update(self, network, weights, masks):
        return self.method.update(network, weights, masks)

    def channel_scores(self, network, weights, channels):
        return -self.method.channel_scores(network, weights, channels)


def _copy(model, remark):
    """Return a copy of a model, whose report has a remark more."""
    new = rebuild.copy_model(model)
    check_copy(model, new)
    for layer in masked_layers(new):
        layer.note = f"{layer.note} {remark}".lstrip()
    return new


def _values_of(initial, model):
    """Return the weights of an unpruned model for the masked kernels of another."""
    check_model(initial)
    found = {k.path: k for k in find_kernels(initial) if k.wrapper is None}
    wanted = [k for k in find_kernels(model) if k.wrapper is not None]
    wrong = [
        k.path for k in wanted if k.path not in found or found[k.path].shape != k.shape
    ]
    if wrong:
        raise ValueError(
            "`initial` must be the model that was pruned, with the same kernels and "
            f"without masks. Received: initial={initial.name}, which lacks "
            f"{some(wrong)}. Pass that model, or leave it out to move the kept values."
        )
    return {k.path: found[k.path].value for k in wanted}
