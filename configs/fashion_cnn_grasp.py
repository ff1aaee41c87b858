"""A small plain convolutional net on Fashion-MNIST, 80 % removed by GraSP.

Scored on ten images of every class, as the authors of GraSP do.

    python -m keras_prune_init.train --config=configs/fashion_cnn_grasp.py

Time: 55 s on two cores. Result: 86.0 % test accuracy, 18,746 of 93,728 weights.
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.model = ConfigDict({"name": "cnn", "depth": 3, "width": 32})
    config.prune.method = "grasp"
    config.prune.sparsity = 0.8
    config.prune.samples_per_class = 10
    config.train.epochs = 15
    config.train.learning_rate = 0.05
    return config
