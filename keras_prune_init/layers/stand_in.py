"""What stands in for parts of a wrapped layer: its kernel, regularizers, methods."""

from __future__ import annotations

import keras

from keras_prune_init.layers.kernel_paths import get_kernel


class OnKept:
    """A regularizer that sees only the kept weights."""

    def __init__(self, regularizer, mask):
        self.regularizer, self.mask = regularizer, mask

    def __call__(self, kernel):
        # Not a product: the gradient of a norm is NaN at zeros and would spread.
        return self.regularizer(keras.ops.where(self.mask, kernel, 0.0))


def refuse_quantization(guarded: keras.layers.Layer, name: str) -> None:
    """Let `quantize` and `enable_lora` of a layer or model say what to do first."""

    def refuse(*args, **kwargs):
        raise ValueError(
            "A pruned model cannot be quantized or get LoRA weights. "
            f"Received: {name}, which is pruned. Call keras_prune_init.strip(model) "
            "first, and this on what it returns."
        )

    for method in ("quantize", "enable_lora"):
        if hasattr(type(guarded), method):
            vars(guarded)[method] = refuse


class KernelInUse(keras.Variable):
    """A stand-in for a kernel where users' own code reads or assigns it.

    Its value is the kernel that the forward pass uses. Assigning to it sets the kept
    weights.
    """

    @classmethod
    def of(cls, wrapper, name):
        kernel = object.__new__(cls)
        vars(kernel).update(vars(get_kernel(wrapper.layer, name)))
        kernel._wrapper, kernel._attribute = wrapper, name
        return kernel

    @property
    def value(self):
        return self._wrapper.masked_kernel(self._attribute)

    def assign(self, value):
        scale = self._wrapper.scales[self._attribute].value
        value = keras.ops.convert_to_tensor(value, self.dtype)
        self._wrapper.set_kernel(self._attribute, value / scale)
        return value


class UpdatesNoted(keras.StatelessScope):
    """A scope that notes which variables were assigned in it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.updated = {}

    def add_update(self, update):
        self.updated[id(update[0])] = update[0]
        super().add_update(update)
