"""LeNet-300-100 on MNIST, 98 % removed bit by bit, by magnitude.

Zhu and Gupta (2017, arXiv 1710.01878): every 100 steps the smallest weights of all
layers together go, along a polynomial of power 3. The first epoch trains all weights,
and nothing changes in the last quarter of the training.

    python -m keras_prune_init.train --config=configs/lenet300_gradual_magnitude.py

Needs MNIST: a download by Keras, or your files with --config.data.source=idx:FOLDER.
Time: 4 minutes on two busy cores. Result, one seed: 97.7 % test accuracy, 5,324 of
266,200 weights.
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.data.source = "keras:mnist"
    config.model = ConfigDict({"name": "mlp", "depth": 3, "width": (300, 100)})
    config.prune.method = "gradual_magnitude"
    config.prune.sparsity = 0.98
    config.prune.options.begin = 468  # an epoch
    config.prune.options.every = 100
    config.train.epochs = 10
    config.train.learning_rate = 0.1
    return config
