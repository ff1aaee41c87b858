"""Callbacks that prune a model while it trains."""

from keras_prune_init.hinge.callback import Hinge

__all__ = ["Hinge"]
