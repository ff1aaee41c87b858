"""`shrink`: what pruning disconnected is cut out of a model."""

from __future__ import annotations

import dataclasses
import functools
import time

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.core import agreement, channels, copying, surgery
from keras_prune_init.core.cost import cost
from keras_prune_init.core.given import check_model, check_whole
from keras_prune_init.core.lock import one_at_a_time

L = keras.layers


@one_at_a_time
def shrink(model: keras.Model) -> keras.Model:
    """Cut out units and channels that no path from input to output uses any more.

    Use it after `prune_at_init`, for cheaper training, or after training, for a smaller
    file. Channels go together with those that they are added to; what a cut channel
    still emits in inference (a bias, an activation of 0) goes into the biases of the
    layers that read it, or it stays, where padding would make that uneven. Layers of
    which nothing is known keep all channels they read and make. In training mode the
    outputs are the same only while the batch statistics of what is cut are those of a
    fresh model: biases have what its running statistics made of it.

    Args:
        model: A Sequential or Functional model, pruned or not. It is not changed.

    Returns:
        A smaller model with the same outputs in inference, to float rounding, and the
        same layers and wrappers, compiled if `model` was, its optimizer as new.

    Raises:
        ValueError: If the model is neither Sequential nor Functional.

    Example:

    >>> small = shrink(pruned)
    >>> print(shrink_report(pruned, small, x))
    """
    check_model(model)
    small = cut(model, channels.analyse(model))
    agreement.check(model, small)
    return small


def cut(model: keras.Model, plan: channels.Plan) -> keras.Model:
    """A copy of a model without the channels that a plan does not keep."""
    changes = dict(_changes(plan))

    def change(layer, copier):
        make = changes.get(id(layer))
        return make(copier) if make else None

    return surgery.change_layers(model, change, call=_with_new_shapes)


def _with_new_shapes(model, layer, *args, **kwargs):
    return layer(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class ShrinkReport:
    """What shrinking changed; `str()` gives a text. All pairs are before and after.

    Attributes:
        weights: Trainable weights of the models, zeros included.
        macs: Multiply-adds of a sample, zeros included; `None` if not known.
        seconds: Median time of a forward and backward pass; `None` if not measured.
        stays: `{reason: number of channels}` of those without use that stay.
    """

    weights: tuple[int, int]
    macs: tuple[int | None, int | None]
    seconds: tuple[float, float] | None
    stays: dict[str, int]

    def __str__(self) -> str:
        lines = ["weights {:,} to {:,}".format(*self.weights)]
        if None not in self.macs:
            ratio = self.macs[1] / max(self.macs[0], 1)
            lines.append("multiply-adds {:,} to {:,}".format(*self.macs))
            lines[-1] += f" ({ratio:.2f})"
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
    """Compare a model with what `shrink` made of it.

    Args:
        model: What was shrunk.
        small: What became of it.
        inputs: A batch of inputs, to time forward and backward passes on.
        repeats: How often; the models take turns.
    """
    costs = cost(model), cost(small)
    check_whole("repeats", repeats, 1)
    seconds = None
    if inputs is not None:
        _check_inputs(model, inputs)
        passes = [_pass(m, inputs) for m in (model, small)]
        times = [[_seconds(run) for run in passes] for _ in range(repeats + 2)][2:]
        seconds = tuple(float(v) for v in np.median(times, axis=0))
    stays = {why: len(g) for why, g in channels.analyse(model).reasons.items() if g}
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
        with tf.GradientTape() as tape:
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


def _changes(plan):
    """How to make the layers that have weights for channels: `(id, function)`."""
    for i, node in enumerate(plan.nodes):
        if i in plan.kernels:
            [parent] = node.parents
            kernel = plan.kernels[i]
            given = plan.channels[parent].constant
            keeps = plan.keeps(parent), plan.keeps(i)
            shape = _smaller_input(plan, i)
            make = functools.partial(_smaller_kernel, kernel, given, *keeps, shape)
            yield id(node.operation), make
        elif isinstance(node.operation, L.BatchNormalization):
            keep = plan.keeps(i)
            if len(keep) == node.operation.moving_mean.shape[0]:
                shape = _smaller_input(plan, i)
                make = functools.partial(_smaller_vectors, node.operation, keep, shape)
                yield id(node.operation), make
        elif isinstance(node.operation, L.Reshape) and not plan.keeps(i).all():
            make = functools.partial(_smaller_shape, node.operation, plan.keeps(i))
            yield id(node.operation), make


def _smaller_input(plan, i):
    """The shape of what a layer reads, without the channels that are cut out."""
    node = plan.nodes[i]
    shape = list(node.given[0])
    shape[plan.axis(shape)] = int(plan.keeps(node.parents[0]).sum())
    return tuple(shape)


def _smaller_vectors(layer, keep, shape, copier):
    new = copier.unbuilt(layer)
    new.build(shape)
    for old, variable in zip(layer.variables, new.variables, strict=True):
        variable.assign(old.numpy()[keep])
    return new


def _smaller_shape(layer, keep, copier):
    new = copier.unchanged(layer)
    new.target_shape = *layer.target_shape[:-1], int(keep.sum())
    return new


def _smaller_kernel(kernel, given, keep_in, keep_out, shape, copier):
    layer, masked = kernel.layer, kernel.masked
    depthwise = isinstance(layer, L.DepthwiseConv2D)
    bias = layer.bias.numpy() if layer.use_bias else np.zeros(len(keep_out))
    # What channels that are cut out emit.
    emitted = np.where(keep_in | np.isnan(given), 0, given)
    if not depthwise:
        bias = bias + np.einsum("pio,i->o", kernel.weights, emitted)
    bias = bias[keep_out]
    new = copier.unbuilt(layer)
    new.use_bias = layer.use_bias or bool(bias.any())
    if not depthwise:
        size = "units" if isinstance(layer, L.Dense) else "filters"
        setattr(new, size, int(keep_out.sum()))
    new.build(shape)
    if new.use_bias:
        new.bias.assign(bias)

    def cut(values):
        values = np.asarray(values)
        if values.shape[-2] > 1:
            values = values[..., keep_in, :]
        return values if depthwise else values[..., keep_out]

    if masked is None:
        new.kernel.assign(cut(layer.kernel.numpy()))
        return new
    wrapper = copying.wrapped_like(masked, new)
    mask, value = masked.kept_mask("kernel"), masked.kernel_value("kernel")
    wrapper.install("kernel", cut(mask), cut(value))
    wrapper.scales["kernel"].assign(cut(masked.scales["kernel"].value))
    return wrapper
