"""Keras 2 models and tensorflow-model-optimization (tfmot), which are imported late."""

from keras_prune_init.tfmot.convert import from_keras3, to_keras3
from keras_prune_init.tfmot.int8 import export_int8
from keras_prune_init.tfmot.pruning import prune_at_init
from keras_prune_init.tfmot.quantize import quantize_aware, quantize_scope

__all__ = [
    "export_int8",
    "from_keras3",
    "prune_at_init",
    "quantize_aware",
    "quantize_scope",
    "to_keras3",
]
