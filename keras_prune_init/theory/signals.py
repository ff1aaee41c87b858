"""What passes each layer with a kernel: one forward and one backward pass, recorded.

The model itself runs. For this pass each kernel layer's activation notes its input, the
pre-activation, and the loss is differentiated with respect to it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.layers.kernels import Kernel, find_kernels, is_float, unique
from keras_prune_init.layers.patching import listener, patched
from keras_prune_init.layers.types import Trait, has
from keras_prune_init.scoring.exact_layers import scoring_layers
from keras_prune_init.scoring.network import zeros_for_none
from keras_prune_init.scoring.objective import Objective

# These apply kernels inside a loop over time, so their outputs are recorded.
LOOPS = Trait.LOOP | Trait.REPEATS


class LayerSignal(NamedTuple):
    """What one call of a layer did to a batch.

    Attributes:
        layer: Path of the layer; for attention, with the name of the projection.
        call: Number of the call, 1 unless the layer is shared.
        q: Mean square of the pre-activations y, over samples, positions and units.
        correlation: Mean over pairs of samples of the cosine of the angle between their
            y, uncentred as in mean field theory. NaN if all but one y are 0.
        gradient: Root mean square of dL/dy, where L is the mean loss of the batch. This
            is the gradient of one sample's loss, divided by the number of samples.
        m: Mean of (w dL/dw)^2 over all weights of the layer's kernels; removed weights
            count as 0. It is the same for all calls of a layer.
        dead: Fraction of the units (channels, entries of the last axis) that carry
            nothing in this batch: y is constant, or dL/dy is 0 for all samples.
        density: Fraction of weights that are kept; `None` if the layer is not pruned.
        kernels: Paths of the layer's kernels, as in `score` and `report`.
    """

    layer: str
    call: int
    q: float
    correlation: float
    gradient: float
    m: float
    dead: float
    density: float | None
    kernels: tuple[str, ...]

    @property
    def name(self) -> str:
        """The path of the layer, and the number of the call if it is not the first."""
        return self.layer if self.call == 1 else f"{self.layer}, call {self.call}"


class Site(NamedTuple):
    """Where to listen: an attribute (`activation` or `call`) of a layer."""

    path: str
    layer: keras.layers.Layer
    attribute: str
    kernels: list[Kernel]


def sites(model: keras.Model) -> list[Site]:
    """Return a site for each layer with a kernel and each projection of attention."""
    found: dict[int, Site] = {}
    taken: dict[str, int] = {}
    for kernel in find_kernels(model):
        if not is_float(kernel.variable):
            continue  # quantized
        runner = kernel.runner(LOOPS)
        if id(runner) not in found:
            path = kernel.layer.path or kernel.layer.name
            if runner is not kernel.layer:
                path = f"{path}/{runner.name}"
            activates = callable(getattr(runner, "activation", None))
            attribute = "activation" if activates and not has(runner, LOOPS) else "call"
            found[id(runner)] = Site(unique(path, taken), runner, attribute, [])
        found[id(runner)].kernels.append(kernel)
    return list(found.values())


def _density(kernels):
    masks = [k.mask for k in kernels if k.wrapper]
    total = sum(m.size for m in masks)
    return sum(np.count_nonzero(m) for m in masks) / total if total else None


def record(
    model: keras.Model,
    places: list[Site],
    batch: tuple,
    loss: Objective,
    batch_norm: str,
    gain: float = 1.0,
) -> list[LayerSignal]:
    """Run a batch forward and backward; return a row for each call of a layer.

    `gain` is a factor of the loss, so that small gradients fit into float32.
    """
    x, y, sample_weight = batch
    heard: list[tuple[Site, tf.Tensor]] = []
    site_of = {id(site.layer): site for site in places}

    def hear(layer, args, kwargs, outputs):
        site = site_of[id(layer)]
        signal = keras.tree.flatten(outputs if site.attribute == "call" else args)[0]
        # Inside a `tf.function` of the user's there are no numbers to note.
        if not tf.is_symbolic_tensor(signal):
            heard.append((site, signal))

    # A kernel may be tied to several layers.
    variables = [k.variable for site in places for k in site.kernels]
    kernels = {id(v): v.value for v in variables}
    with tf.GradientTape() as tape:
        tape.watch(list(kernels.values()))
        listening = [listener(site.layer, hear, site.attribute) for site in places]
        with (
            scoring_layers(model, batch_norm),
            patched(listening),
            keras.StatelessScope(collect_losses=True),
        ):
            outputs = model(x, training=False)
            value = loss(model, x, y, outputs, sample_weight) * gain
    sources = [*kernels.values(), *(signal for _, signal in heard)]
    gradients = zeros_for_none(tape.gradient(value, sources), sources)
    gradients = [_wide(g) / gain for g in gradients]
    slopes = dict(zip(kernels, gradients, strict=False))
    m = {site.layer: _sensitivity(site, slopes) for site in places}
    calls, rows = dict.fromkeys(m, 0), []
    for (site, signal), slope in zip(heard, gradients[len(kernels) :], strict=True):
        calls[site.layer] += 1
        q, correlation, gradient, dead = _statistics(site, _wide(signal), slope)
        row = (q, correlation, gradient, m[site.layer], dead, _density(site.kernels))
        paths = tuple(k.path for k in site.kernels)
        rows.append(LayerSignal(site.path, calls[site.layer], *row, paths))
    return rows


def _wide(tensor) -> np.ndarray:
    return np.asarray(tensor, "float64")  # squares of float32 may underflow


def _sensitivity(site, slopes):
    # Of effective weights: a factor (mask, scale) goes from dL/dw to w.
    variables = [k.variable for k in site.kernels]
    parts = [(_wide(v.value) * slopes[id(v)]).ravel() for v in variables]
    return _rms(np.concatenate(parts)) ** 2


def _statistics(site, signal, slope):
    axis = 1 if getattr(site.layer, "data_format", "") == "channels_first" else -1
    others = tuple(np.delete(np.arange(signal.ndim), axis))
    carries = (np.ptp(signal, others) != 0) & slope.any(others)
    dead = 1 - np.mean(carries)
    return _rms(signal) ** 2, _correlation(signal), _rms(slope), float(dead)


def _correlation(signal):
    """Return the mean cosine of all pairs of rows, from the sum of their directions."""
    rows = signal.reshape(len(signal), -1)
    norms = np.linalg.norm(rows, axis=1)
    n = np.count_nonzero(norms)
    if n < 2:
        return math.nan
    total = np.divide(1, norms, out=np.zeros_like(norms), where=norms != 0) @ rows
    return float((total @ total - n) / (n * (n - 1)))


def _rms(values):
    """Return the root mean square of values of any size."""
    peak = max(values.max(), -values.min())
    if peak == 0 or not np.isfinite(peak):
        return float(peak)
    return float(peak * np.sqrt(np.mean((values / peak) ** 2)))
