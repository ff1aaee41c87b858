"""Why a network does not train: the signals and gradients of its layers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_prune_init._arguments import check_choice, check_model, some
from keras_prune_init._lock import one_at_a_time
from keras_prune_init.layers.kernels import scoring_dtype
from keras_prune_init.reports.table import aligned
from keras_prune_init.scoring import checks, first_batch
from keras_prune_init.scoring.batches import take
from keras_prune_init.surgery import layouts, rebuild
from keras_prune_init.theory import signal_plot, signals
from keras_prune_init.theory.signals import LayerSignal

# Rules of thumb: factors between the gradients of first and last hidden layer, which
# plain SGD, with one learning rate for all layers, levels out or does not.
ALIKE, FAR = 10.0, 100.0
# Signals of different samples so close to parallel are called equal. ReLU networks on
# the edge of chaos come that close after 600 layers, ordered ones after some ten.
EQUAL = 1e-4
# Below this, numbers of float32 may be lost: TensorFlow takes those below 1e-38 for 0.
SAFE = 1e-30
# Gradients that are smaller are multiplied by this.
GAIN = 2.0**80


@dataclasses.dataclass(frozen=True)
class SignalReport:
    """The signals and gradients of a model's layers; `str()` gives a table.

    Attributes:
        rows: One `LayerSignal` for each call of a layer, in the order of the calls.
        missing: Paths of layers with a kernel that this batch did not pass, or passed
            inside a `tf.function`.
        samples: Number of samples in the batch.
        dtype: Dtype of the computation: `"float64"` if float32 lost numbers.
    """

    rows: list[LayerSignal]
    missing: list[str]
    samples: int
    dtype: str

    @property
    def gradient_ratio(self) -> float:
        """`gradient` of the first row, divided by that of the last hidden row.

        The last hidden row is the last but one that is not all dead. Near 1 is ideal.
        If the ratio is small, gradients vanish on their way back; if it is large, they
        explode. NaN if both are 0.
        """
        first, last = self.rows[0].gradient, self._last_hidden.gradient
        if last == 0:
            return math.nan if first == 0 else math.inf
        return first / last

    @property
    def _last_hidden(self):
        alive = [row for row in self.rows[:-1] if row.dead < 1]
        return alive[-1] if alive else self.rows[-2:][0]

    @property
    def empty(self) -> list[str]:
        """Paths of layers of which pruning left nothing."""
        return list(dict.fromkeys(r.layer for r in self.rows if r.density == 0))

    @property
    def diagnosis(self) -> str:
        """One or two sentences: whether the network can train, and why not.

        Gradients of first and last hidden layer are called alike within a factor of 10,
        and vanishing or exploding beyond 100. Samples are hardly told apart from a mean
        correlation of 0.9999. These are rules of thumb.
        """
        for row in self.rows:
            if not np.isfinite([row.q, row.gradient, row.m]).all():
                return f"Signals or gradients at {row.name} are not finite numbers."
        told = []
        if self.empty:
            told.append(f"Of {some(self.empty)} nothing is kept.")
        first, hidden, last = self.rows[0], self._last_hidden, self.rows[-1]
        if first.gradient == 0:
            return " ".join([*told, f"No gradient reaches {first.name}."])
        if last.dead == 1:
            return " ".join([*told, f"{last.name} is the same for all samples."])
        silent = [r.name for r in self.rows if r.dead == 1 and r.density != 0]
        if silent:
            told.append(f"Nothing passes {some(silent)}.")
        if hidden.gradient > 0:
            told.append(self._conditioning())
        if hidden.correlation > 1 - EQUAL:
            told.append(
                f"{hidden.name} hardly tells samples apart: correlation 1 - "
                f"{1 - hidden.correlation:.1g}."
            )
        return " ".join(told)

    def _conditioning(self):
        ratio = self.gradient_ratio
        sizes = (
            f"at the first layer they are {ratio:.2g} of those at the last hidden layer"
        )
        if 1 / ALIKE <= ratio <= ALIKE:
            return f"Well-conditioned: gradients are alike, {sizes}."
        if 1 / FAR <= ratio <= FAR:
            return f"Uneven: gradients differ, {sizes}."
        what, phase, better = "vanish", "ordered", "larger"
        if ratio > 1:
            what, phase, better = "explode", "chaotic", "smaller"
        remedy = (
            "Start from the edge of chaos (`initializers.reinitialize`), here "
            f"with {better} weights."
        )
        if any(r.density is not None and r.density < 1 for r in self.rows):
            remedy = "`rescale` the pruned model, or prune it from the edge of chaos."
        return f"Gradients {what}: {sizes}, as in the {phase} phase. {remedy}"

    def __str__(self) -> str:
        cells = [("layer", "q", "correlation", "gradient", "m", "dead", "density")]
        for r in self.rows:
            flow = f"{r.gradient:.2e}", f"{r.m:.2e}", f"{r.dead:.1%}"
            density = "" if r.density is None else f"{r.density:.2%}"
            cells.append((r.name, f"{r.q:.2e}", f"{r.correlation:.4f}", *flow, density))
        lines = aligned(cells)
        if self.missing:
            lines.append(f"not seen: {', '.join(self.missing)}")
        ratio = f"gradient of first / last hidden layer {self.gradient_ratio:.2e}"
        lines.append(f"{self.samples} samples, {self.dtype}, {ratio}")
        return "\n".join([*lines, self.diagnosis])

    def to_json(self) -> str:
        """Return all numbers as JSON text; `null` replaces NaN and infinity."""
        content = {
            "gradient_ratio": self.gradient_ratio,
            "diagnosis": self.diagnosis,
            "empty": self.empty,
            **dataclasses.asdict(self),
            "rows": [r._asdict() for r in self.rows],
        }
        finite = keras.tree.map_structure(
            lambda v: None if isinstance(v, float) and not math.isfinite(v) else v,
            content,
        )
        return json.dumps(finite, indent=2)

    def plot(self, path: str | os.PathLike) -> None:
        """Draw q, correlation, gradient and m over the layers into a file.

        The ending of its `path` gives the format.
        """
        signal_plot.draw(self, path)


@one_at_a_time
def signal_report(
    model: keras.Model, batch, loss: Any = None, *, batch_norm: str = "train"
) -> SignalReport:
    """Show why a network does not train: its signals and gradients, layer by layer.

    Use it before training, on a dense or a pruned model. One batch runs forward and
    backward, and the model is not changed. For every layer with a kernel the report has
    the size and correlation of the pre-activations, the size of the gradients, the
    sensitivity of the weights, and the dead units; see `LayerSignal`. Attention has a
    row for each projection, a shared layer one for each call. For recurrent and
    time-distributed layers and embeddings, outputs stand for pre-activations.

    Args:
        model: A built Keras model of any kind, pruned or not.
        batch: `(x, y)` or `(x, y, sample_weight)`, arrays with the batch axis first, of
            which the first 128 samples are used. Or a batched dataset, of which the
            first batch is used. At least two samples are needed.
        loss: The loss to differentiate, as in `compile`. Default: the model's own, or
            one that is inferred from labels and outputs.
        batch_norm: Statistics that batch normalization uses: `"train"` those of the
            batch, `"eval"` the running ones. All other layers run in inference mode.

    Returns:
        A `SignalReport`. Signals are computed in float32. If gradients get too small
        for it, the loss is multiplied first. If that is not enough, or signals get too
        large, all is computed again in float64, if the model runs in it. A 0 then means
        0, or less than 1e-308.

    Raises:
        TypeError: If `model` is no Keras model, or `batch` is none of the above.
        ValueError: If the model is not built or has no layer with a kernel, or the
            batch does not fit it.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), 2, depth=8, activation="tanh", init="ordered")
    >>> x, y = np.random.rand(32, 4), np.arange(32) % 2
    >>> print(kpi.signal_report(model, (x, y)).diagnosis)
    Gradients vanish: at the first layer they are ... of those at the last ...

    Reference:
        Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, 2017, arXiv 1611.01232; Hayou, Ton,
        Doucet, Teh, 2021, arXiv 2002.08797, definition 1 (m).
    """
    check_choice("batch_norm", batch_norm, ("train", "eval"))
    check_model(model)
    if not rebuild.masked_layers(model):
        checks.prunable_kernels(model)
    model = layouts.as_masked(model)
    places = signals.sites(model)
    dtype = scoring_dtype(places)
    [batch] = take(batch, lambda first: None, dtype=dtype)
    objective = first_batch.objective_of(model, loss, batch)
    samples = len(keras.tree.flatten(batch[0])[0])
    if samples < 2:
        raise ValueError(
            "A correlation needs two samples or more. "
            f"Received: a batch of {samples}. Pass a larger batch, such as 128."
        )

    def rows(dtype, gain=1.0):
        if all(site.layer.compute_dtype == dtype for site in places):
            used, its_places = model, places
        else:
            used = rebuild.copy_model(model, dtype)
            # The paths stay those of the given model.
            its_places = [
                site._replace(path=place.path)
                for site, place in zip(signals.sites(used), places, strict=True)
            ]
        return signals.record(used, its_places, batch, objective, batch_norm, gain)

    found = rows(dtype)
    if dtype == "float32" and not all(_fits_float32(row) for row in found):
        # A larger loss has larger gradients, which are divided again.
        larger = rows(dtype, GAIN)
        if all(_fits_float32(row, GAIN) and row.q > SAFE**2 for row in larger):
            found = larger
        else:
            try:
                found, dtype = rows("float64"), "float64"
            except Exception as e:  # users' own layers may compute in float32 only
                logging.warning("Numbers may be lost in float32: %s", e)
    seen = {row.layer for row in found}
    missing = [site.path for site in places if site.path not in seen]
    return SignalReport(found, missing, samples, dtype)


def _fits_float32(row, gain=1.0):
    finite = np.isfinite([row.q, row.gradient, row.m]).all()
    return finite and row.gradient * gain > SAFE
