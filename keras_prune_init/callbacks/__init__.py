"""Callbacks that prune while `fit` trains."""

from keras_prune_init.callbacks.acdc import ACDC
from keras_prune_init.callbacks.compression_aware import CompressionAware
from keras_prune_init.callbacks.drop_and_grow import DropAndGrow
from keras_prune_init.callbacks.gradual import GradualMagnitude
from keras_prune_init.callbacks.granet import GraNet
from keras_prune_init.callbacks.learning_compression import LearningCompression
from keras_prune_init.callbacks.moment import Moment
from keras_prune_init.callbacks.moving import MovingMasks
from keras_prune_init.callbacks.rigl import RigL
from keras_prune_init.callbacks.set import SET
from keras_prune_init.hinge.callback import Hinge

__all__ = [
    "ACDC",
    "SET",
    "CompressionAware",
    "DropAndGrow",
    "GraNet",
    "GradualMagnitude",
    "Hinge",
    "LearningCompression",
    "Moment",
    "MovingMasks",
    "RigL",
]
