"""LeNet-300-100 on MNIST, 98 % removed all the time, by RigL.

Evci, Gale, Menick, Castro, Elsen (2020, arXiv 1911.11134): it begins with random masks,
more of them in small layers (erk); every 100 steps 30 % of the smallest weights, fewer
and fewer along a cosine, make room for those with the largest gradients.

    python -m keras_prune_init.train --config=configs/lenet300_rigl.py

Needs MNIST: a download by Keras, or your files with --config.data.source=idx:FOLDER.
Time: 2 minutes on two busy cores. Result, one seed: 97.1 % test accuracy, 5,324 of
266,200 weights.
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.data.source = "keras:mnist"
    config.model = ConfigDict({"name": "mlp", "depth": 3, "width": (300, 100)})
    config.prune.method = "rigl"
    config.prune.sparsity = 0.98
    config.prune.allocation = "erk"
    config.prune.options.every = 100
    config.prune.options.fraction = 0.3
    config.train.epochs = 10
    config.train.learning_rate = 0.1
    return config
