"""ResNet-20 on CIFAR-10, 95 % removed, with all weights in every other phase (AC/DC).

Peste, Iofinova, Vladu, Alistarh (2021, arXiv 2106.12379). The phases are those of their
Wide ResNet: all weights for 10 epochs, then phases of 33 epochs, sparse and dense in
turn, and sparse from epoch 142 to the end. 390 batches of 128 are an epoch.

    python -m keras_prune_init.train --config=configs/cifar10_resnet20_acdc.py

Needs CIFAR-10: a download by Keras, or --config.data.source=npz:FILE.
Time: 200 epochs, made for a GPU. Result: none yet, as nobody has run it whole; the
tests run two steps.
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.data.source = "keras:cifar10"
    config.data.augment = "crop+flip"
    config.model = ConfigDict({"name": "resnet", "depth": 20, "width": 16})
    config.prune.method = "acdc"
    config.prune.sparsity = 0.95
    config.prune.options.begin = 10 * 390
    config.prune.options.every = 33 * 390
    config.prune.options.end = 170 * 390
    config.train.epochs = 200
    config.train.learning_rate = 0.1
    return config
