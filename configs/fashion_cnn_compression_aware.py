"""A small plain convolutional net on Fashion-MNIST, trained towards low rank.

Alvarez and Salzmann (2017, arXiv 1711.02638): after each epoch every singular value of
a kernel falls by a price, and at the end layers of low rank become two smaller ones
each, which keep 90 % of the energy. Both are trained for the last 3 of 15 epochs.

    python -m keras_prune_init.train --config=configs/fashion_cnn_compression_aware.py

Time: 26 minutes on two very busy cores. Result,
one seed: 86.9 % test accuracy, 47,905 of 93,728 weights.
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.model = ConfigDict({"name": "cnn", "depth": 3, "width": 32})
    config.prune.method = "compression_aware"
    config.prune.options.nuclear = 0.05
    config.prune.options.energy = 0.9
    config.prune.options.tune_epochs = 3
    config.train.epochs = 15
    config.train.learning_rate = 0.05
    return config
