"""What `shrink` changed: weights, multiply-adds and seconds."""

from __future__ import annotations

import dataclasses
import time

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init._arguments import check_whole
from keras_prune_init.channels import analysis
from keras_prune_init.reports.cost import cost, savings


@dataclasses.dataclass(frozen=True)
class ShrinkReport:
    """What `shrink` changed; `str()` gives a text. All pairs are before and after.

    Attributes:
        weights: Number of trainable weights, zeros included.
        macs: Multiply-adds of one sample, zeros included; `None` if not known.
        seconds: Median time of a forward and backward pass in seconds; `None` if it was
            not measured.
        stays: `{reason: number of channels}` for the unused channels that stay.
    """

    weights: tuple[int, int]
    macs: tuple[int | None, int | None]
    seconds: tuple[float, float] | None
    stays: dict[str, int]

    def __str__(self) -> str:
        lines = savings(self.weights, self.macs)
        if self.seconds:
            before, after = self.seconds
            lines.append(
                f"seconds a pass {before:.3g} to {after:.3g} ({after / before:.2f})"
            )
        lines += [f"{n} channels stay: {why}" for why, n in self.stays.items()]
        return "\n".join(lines)


def shrink_report(
    model: keras.Model, small: keras.Model, inputs=None, repeats: int = 7
) -> ShrinkReport:
    """Compare a model with the smaller model that `shrink` made of it.

    Args:
        model: The model before `shrink`.
        small: The model that `shrink` returned.
        inputs: A batch of inputs, to time forward and backward passes on. `None`: no
            times are measured.
        repeats: Number of timed passes of each model; the models take turns.

    Returns:
        A `ShrinkReport`.

    Raises:
        ValueError: If a model is neither Sequential nor Functional, if it does not take
            `inputs`, or if `repeats` is no whole number of 1 or more.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=3, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.9)
    >>> before, after = kpi.shrink_report(pruned, kpi.shrink(pruned)).weights
    >>> before, after < before
    (130, True)
    """
    costs = cost(model), cost(small)
    check_whole("repeats", repeats, 1)
    seconds = None
    if inputs is not None:
        _check_inputs(model, inputs)
        passes = [_pass(m, inputs) for m in (model, small)]
        times = [[_seconds(run) for run in passes] for _ in range(repeats + 2)][2:]
        before, after = np.median(times, axis=0)
        seconds = float(before), float(after)
    stays = {why: len(g) for why, g in analysis.analyse(model).reasons.items() if g}
    return ShrinkReport(
        tuple(c.weights for c in costs), tuple(c.macs for c in costs), seconds, stays
    )


def _check_inputs(model, inputs):
    try:
        with keras.StatelessScope():
            model(inputs, training=False)
    except Exception as e:
        raise ValueError(
            "`inputs` must be a batch that the models take. Received: "
            f"{type(inputs).__name__}, and {model.name} says: {e}. Pass an array with "
            "samples along its first axis."
        ) from e


def _pass(model, inputs):
    def run():
        # Statistics and seeds of the models stay as they are.
        with tf.GradientTape() as tape, keras.StatelessScope():
            outputs = keras.tree.flatten(model(inputs, training=True))
            total = tf.add_n([tf.reduce_sum(tf.square(v)) for v in outputs])
        return tape.gradient(total, model.trainable_variables)

    return tf.function(run, autograph=False, jit_compile=False)


def _seconds(run):
    start = time.perf_counter()
    for gradient in run():
        if gradient is not None:
            tf.convert_to_tensor(gradient).numpy()  # until all is done
    return time.perf_counter() - start
