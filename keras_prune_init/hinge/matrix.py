"""The sparsity-inducing matrix: a 1x1 convolution that trains by proximal steps."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_prune_init.hinge.proximal import proximal
from keras_prune_init.layers.masked import PACKAGE
from keras_prune_init.surgery import exchange

L = keras.layers


class ProximalStep(keras.constraints.Constraint):
    """What a `HingeMatrix` makes of its kernel after each step of an optimizer."""

    def __init__(self, layer: HingeMatrix):
        self.layer = layer

    def __call__(self, kernel):
        return self.layer.stepped(ops.convert_to_tensor(kernel))


@keras.saving.register_keras_serializable(PACKAGE)
class HingeMatrix(keras.layers.Conv2D):
    """The 1x1 convolution A behind a convolution, with groups that become zero.

    `add_hinges` puts it into a model. Its kernel has the shape (1, 1, inputs, outputs).
    Row i of it reads filter i of the convolution before. Column j makes output j.

    The optimizer moves the kernel p by d. Keras then calls the constraint of the
    kernel, which takes the accelerated proximal step in its place:

        z = prox(p + gain d),  b <- momentum b + (z - p),  p <- z + momentum b

    With plain SGD, gain d is the step along the gradient at gain times its rate. The
    callback `Hinge` sets `settings`; while gain is 0, the optimizer's step stands.

    Args:
        filters: Number of outputs.
        sparse: The groups: `"rows"` or `"columns"`.
        penalty: As in `proximal.PENALTIES`.
        **kwargs: Arguments of `keras.layers.Conv2D`.
    """

    def __init__(self, filters: int, sparse: str, penalty: str = "l1", **kwargs: Any):
        kwargs.pop("kernel_size", None)
        super().__init__(filters, 1, **kwargs)
        self.sparse, self.penalty = sparse, penalty

    def build(self, input_shape):
        super().build(input_shape)
        shape = self.kernel.shape
        # Gain, strength of the proximal step, momentum.
        self.settings = self._fixed("settings", (3,))
        self.before = self._fixed("before", shape)
        self.buffer = self._fixed("buffer", shape)
        self.kernel.constraint = ProximalStep(self)

    def _fixed(self, name, shape):
        # Replicas compute the same, as gradients are summed before.
        return self.add_weight(
            name=name,
            shape=shape,
            initializer="zeros",
            trainable=False,
            dtype=self.variable_dtype,
            aggregation="only_first_replica",
        )

    def start(self) -> None:
        """Begin proximal steps at the kernel as it is."""
        self.before.assign(self.kernel.value)

    def stepped(self, kernel):
        """Return the kernel after a proximal step, from that of the optimizer."""
        gain, strength, momentum = ops.unstack(self.settings.value)
        before, buffer = self.before.value, self.buffer.value
        moved = kernel - before
        # A step that only accumulates gradients moves nothing.
        works = ops.logical_and(gain > 0, ops.any(moved != 0))
        matrix = (before + gain * moved)[0, 0]
        z = proximal(matrix, strength, self.penalty, self.sparse)[None, None]
        new_buffer = momentum * buffer + (z - before)
        new = ops.where(works, z + momentum * new_buffer, kernel)
        self.buffer.assign(ops.where(works, new_buffer, buffer))
        self.before.assign(new)
        return new

    def ordinary(self) -> keras.layers.Conv2D:
        """Return an ordinary convolution of the same name and weights."""
        config = super().get_config()
        new = L.Conv2D.from_config(config)
        new.build(self._input_shape())
        new.kernel.assign(self.kernel.value)
        if self.use_bias:
            new.bias.assign(self.bias.value)
        return new

    def _input_shape(self):
        return channels_only(self.kernel.shape[-2], self.data_format)

    # Those of convolutions know the kernel and bias only.
    def save_own_variables(self, store):
        L.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        L.Layer.load_own_variables(self, store)

    def get_config(self):
        config = {**super().get_config(), "sparse": self.sparse}
        return {**config, "penalty": self.penalty}


exchange.PASSING[HingeMatrix] = "hinges", "merge_hinges(model, sparsity)"


def channels_only(count: int, data_format: str) -> tuple[int | None, ...]:
    """Return the shape of images of any size with a number of channels."""
    if data_format == "channels_first":
        return None, count, None, None
    return None, None, None, count
