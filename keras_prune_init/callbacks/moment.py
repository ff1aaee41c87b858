"""What a rule sees when masks change, and what it may say."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_prune_init._arguments import some


class Moment(NamedTuple):
    """What a rule sees when masks change, by the paths of kernels.

    Attributes:
        step: Number of training steps before the change.
        weights: The kernels as the forward pass uses them; removed weights are 0.
        masks: Bool arrays of their shapes, `True` where a weight is kept.
        gradients: Those of the loss for these weights, removed ones too, if the rule
            has `needs_gradients`.
        seed: That of the callback.
    """

    step: int
    weights: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray]
    seed: int = 0

    def check_masks(self, rule: str, masks: Any) -> None:
        """Raise a ValueError unless there is a bool array for each kernel."""
        self._check_paths(rule, "masks", masks)
        for path, mask in self.masks.items():
            new = masks.get(path) if isinstance(masks, Mapping) else None
            dtype, shape = getattr(new, "dtype", None), getattr(new, "shape", None)
            if not isinstance(new, np.ndarray) or (dtype, shape) != (bool, mask.shape):
                raise ValueError(
                    "`masks` must return a bool array of its shape for the path of "
                    f"each kernel. Received from {rule}: {type(new).__name__} of dtype "
                    f"{dtype} and shape {shape} for {path} of shape {mask.shape}. See "
                    "`moment.masks`."
                )

    def checked(self, rule: str, name: str, scores: Any) -> dict[str, np.ndarray]:
        """Return scores, or raise a ValueError unless each weight has a number."""
        self._check_paths(rule, name, scores)
        given = scores if isinstance(scores, Mapping) else {}
        found = {path: np.asarray(given.get(path)) for path in self.masks}
        for path, values in found.items():
            shape, dtype = values.shape, values.dtype
            right = shape == self.masks[path].shape and dtype.kind != "O"
            if not right or np.isnan(values).any():
                raise ValueError(
                    f"`{name}` must return a number for each weight of each kernel, by "
                    f"its path. Received from {rule}: dtype {dtype} and shape {shape}, "
                    f"or NaN, for {path} of shape {self.masks[path].shape}. See "
                    "`moment.weights`."
                )
        return found

    def _check_paths(self, rule, name, given):
        paths = set(given if isinstance(given, Mapping) else ())
        if others := sorted(map(str, paths - set(self.masks))):
            raise ValueError(
                f"`{name}` must return a dict by the paths of kernels that are pruned "
                f"and trained. Received from {rule}: {some(others)} besides. See "
                "`moment.masks`."
            )

    def generator(self, path: str) -> np.random.Generator:
        """Return a source of random numbers for a kernel, the same in every process."""
        name = zlib.crc32(path.encode())
        return np.random.default_rng([self.seed, self.step, name])


class Change(NamedTuple):
    """A change of masks, of all kernels together.

    Attributes:
        step: Number of training steps before it.
        kept: Number of weights that are kept after it.
        grown: Number of those that were not kept before it.
    """

    step: int
    kept: int
    grown: int


class NotAsked(Mapping):
    """No gradients, as the rule did not ask for them."""

    def _refuse(self, *_):
        raise ValueError(
            "Gradients are computed for rules that ask for them. Received: a look at "
            "`moment.gradients`. Write `needs_gradients = True` in the class of the "
            "rule."
        )

    __getitem__ = __iter__ = __len__ = _refuse
