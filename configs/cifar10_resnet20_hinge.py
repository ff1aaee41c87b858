"""ResNet-20 on CIFAR-10, half of the multiply-adds removed by hinges.

Li, Gu, Mayer, Van Gool, Timofte (2020, arXiv 2003.08935), with the numbers of their
script for ResNet-56: l1/2, batches of 64, a strength of 4e-4 for plain SGD, which is
4e-3 with momentum 0.9. They begin with a trained net; here it is trained for 100
epochs, hinges work for 100, and the merged net is trained for 100. The first
convolution stays as it is. Without their distillation and annealing.

    python -m keras_prune_init.train --config=configs/cifar10_resnet20_hinge.py

Needs CIFAR-10: a download by Keras, or --config.data.source=npz:FILE.
Time: 300 epochs, made for a GPU. Result: none yet, as nobody has run it whole; the
tests run two steps of each part.
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.data.source = "keras:cifar10"
    config.data.augment = "crop+flip"
    config.model = ConfigDict({"name": "resnet", "depth": 20, "width": 16})
    config.prune.method = "hinge"
    config.prune.sparsity = 0.5  # of the multiply-adds
    config.prune.filters = "stage"
    config.prune.batches = 100  # for the statistics of the merged net
    config.prune.options.regularizer = "l1/2"
    config.prune.options.strength = 4e-3
    config.prune.options.rate_ratio = 0.1
    config.prune.options.dense_epochs = 100
    config.prune.options.tune_epochs = 100
    config.train.epochs = 300
    config.train.batch_size = 64
    config.train.learning_rate = 0.1
    return config
