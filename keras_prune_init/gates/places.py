"""Where gates stand in a kernel: which weights one gate opens and closes."""

from __future__ import annotations

from typing import NamedTuple

import keras

from keras_prune_init.layers.kernel_paths import (
    get_kernel,
    input_axes,
    kernel_names,
    output_axes,
    owner,
    role,
)
from keras_prune_init.layers.roles import DEPTHWISE, EINSUM, einsum_parts

L, ops = keras.layers, keras.ops

WHAT = ("inputs", "channels", "weights")


def gate_axes(layer: keras.layers.Layer, name: str, what: str) -> tuple[int, ...]:
    """Return the axes of a kernel along which each entry has a gate of its own.

    Raises:
        ValueError: If the kernel has no such gates.
    """
    if isinstance(layer, L.SpectralNormalization):
        raise ValueError(
            "Gates multiply a kernel in each step, which spectral normalization sets. "
            f"Received: `{layer.name}` (SpectralNormalization). Leave the layer out "
            "with `filters`."
        )
    rank = len(get_kernel(layer, name).shape)
    if what == "weights":
        return tuple(range(rank))
    if what == "channels":
        axes = output_axes(layer, name)
    elif role(layer, name) is DEPTHWISE:
        axes = (rank - 2,)
    else:
        axes = input_axes(layer, name)
    groups = getattr(owner(layer, name), "groups", 1)
    if what == "inputs" and groups > 1:
        why = f"has {groups} groups with inputs of their own"
        raise _refusal(layer, name, what, why)
    if not axes:
        raise _refusal(layer, name, what, f"has no axis that is known to count {what}")
    return axes


class Bias(NamedTuple):
    """The bias of the channels that gates of a kernel open and close."""

    path: str  # attribute path in the layer
    axes: tuple[int, ...]  # the axes of the kernel that count channels, in its order

    def from_gates(self, gates, shape):
        """Return gates, a tensor of the kernel's rank, in the shape of the bias."""
        others = [i for i in range(len(gates.shape)) if i not in self.axes]
        return ops.reshape(ops.transpose(gates, [*self.axes, *others]), shape)

    def as_gates(self, values, shape):
        """Return values of the bias in the shape of the gates."""
        values = ops.reshape(values, [shape[i] for i in self.axes])
        order = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return ops.reshape(ops.transpose(values, order), shape)


def bias_of(layer: keras.layers.Layer, name: str) -> Bias | None:
    """Return the bias of a kernel's channels.

    It is `None` if there is no bias, or if it is added after another kernel.

    Raises:
        ValueError: If channels share an entry of the bias.
    """
    holder, (parent, _, own) = owner(layer, name), name.rpartition(".")
    bias = getattr(holder, "bias", None)
    if bias is None or own != kernel_names(holder)[-1]:
        return None
    axes = gate_axes(layer, name, "channels")
    if role(layer, name) is EINSUM:
        _, letters, output = einsum_parts(holder.equation)
        axes = tuple(sorted(axes, key=lambda i: output.index(letters[i])))
        if {letters[i] for i in axes} != set(holder.bias_axes):
            raise _refusal(layer, name, "channels", "has a bias that channels share")
    return Bias(f"{parent}.bias" if parent else "bias", axes)


def _refusal(layer, name, what, why):
    others = " or ".join(repr(v) for v in WHAT if v != what)
    return ValueError(
        f"Gates on {what} need a kernel that has weights of its own for each of them. "
        f"Received: what={what!r}, and {name!r} of `{layer.name}` "
        f"({type(layer).__name__}), which {why}. Leave the layer out with `filters`, "
        f"or try what={others}."
    )
