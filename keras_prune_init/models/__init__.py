"""Architectures to prune: plain Functional Keras models whose outputs are logits."""

from keras_prune_init.models.cnn import cnn
from keras_prune_init.models.mlp import mlp
from keras_prune_init.models.mobilenet import mobilenet
from keras_prune_init.models.resnet import resnet
from keras_prune_init.models.vcnn import vcnn
from keras_prune_init.models.vgg import vgg
from keras_prune_init.models.wide_resnet import wide_resnet

__all__ = ["cnn", "mlp", "mobilenet", "resnet", "vcnn", "vgg", "wide_resnet"]
