"""Change the mask of a kernel that is in training, with what the optimizer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init.layers.compact import CompactLayer
from keras_prune_init.layers.kept_weights import KeptWeights
from keras_prune_init.layers.kernels import Kernel, find_kernels
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.surgery import layouts


class Movable(NamedTuple):
    """A pruned kernel that is trained, in any layout."""

    kernel: Kernel
    wrapper: MaskedLayer
    kept: KeptWeights | None  # in the layout `"compact"`
    slots: Sequence[layouts.Slot]  # of the optimizer, a number for each weight

    @property
    def mask(self) -> np.ndarray:
        """Which weights are kept, a bool array."""
        return self.wrapper.kept_mask(self.kernel.name)

    def move(self, mask: np.ndarray) -> None:
        """Set another mask. New weights start at 0, and their slots anew."""
        kernel, kept, stays = self.kernel, self.kept, self.mask & mask
        slots = [
            slot.where(
                stays, kept.dense(slot.variable.value) if kept else slot.variable
            )
            for slot in self.slots
        ]
        values = keras.ops.convert_to_numpy(kernel.value)
        zero = np.zeros((), values.dtype)
        self.wrapper.install(kernel.name, mask, np.where(stays, values, zero))
        for slot, value in zip(self.slots, slots, strict=True):
            slot.variable.assign(kept.gather(value) if kept else value)


def find_movable(model: keras.Model) -> list[Movable]:
    """Return the pruned kernels of a compiled model that are trained."""
    slots = layouts.slots_of(model.optimizer, model.trainable_variables)
    trained = {id(v) for v in model.trainable_variables}
    found = []
    for kernel in find_kernels(model):
        wrapper, kept = kernel.wrapper, None
        if isinstance(wrapper, CompactLayer):
            kept = wrapper.kept[kernel.name]
        variable = kept.values if kept else kernel.variable
        if wrapper is not None and id(variable) in trained:
            own = [s for s in slots[id(variable)] if s.variable.shape == variable.shape]
            found.append(Movable(kernel, wrapper, kept, own))
    return found
