"""The argument `filters`: which layers may be pruned."""

from __future__ import annotations

import re
from collections.abc import Callable

import keras

from keras_prune_init._arguments import called, check_pattern

L = keras.layers

Filters = str | list[str] | Callable[[keras.layers.Layer], bool] | None


def check_filters(filters: Filters) -> None:
    """Raise a TypeError or ValueError unless `filters` is a valid argument."""
    if filters is None or callable(filters):
        return
    patterns = [filters] if isinstance(filters, str) else filters
    listed = isinstance(patterns, (list, tuple))
    if not listed or not all(isinstance(p, str) for p in patterns):
        raise TypeError(
            "`filters` must be a regular expression, a list of them, or a function "
            f"from layer to bool. Received: filters={filters!r}. Pass a part of the "
            "names of layers, such as filters='dense'."
        )
    for pattern in patterns:
        rule = "`filters` must be a regular expression that Python can read"
        check_pattern(rule, pattern)


def passes_filters(layer: keras.layers.Layer, filters: Filters) -> bool:
    """Whether a layer with kernels may be pruned.

    `"trainable"` is true for every layer here, because it is about single kernels.
    """
    if filters is None or filters == "trainable":
        return True
    if filters == "pointwise":
        return is_pointwise(layer)
    if callable(filters):
        return bool(called("filters", filters, layer))
    patterns = [filters] if isinstance(filters, str) else filters
    names = (layer.name, layer.path or layer.name)
    return any(re.search(p, name) for p in patterns for name in names)


def is_pointwise(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a 1x1 convolution of images, and not of single pixels."""
    if not isinstance(layer, L.Conv2D) or any(n != 1 for n in layer.kernel_size):
        return False
    made = getattr(layer, "output", None)  # not known of layers in subclassed models
    first = layer.data_format == "channels_first"
    pixels = None if made is None else made.shape[2:] if first else made.shape[1:3]
    return pixels is None or any(n != 1 for n in pixels)
