"""Callbacks of `fit` that prune while a model trains."""

from keras_prune_init.callbacks.learning_compression import LearningCompression

__all__ = ["LearningCompression"]
