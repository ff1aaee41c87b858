"""Callbacks for `fit` that make a model smaller while it trains."""

from keras_prune_init.callbacks.compression_aware import (
    CompressionAware as CompressionAware,
)
