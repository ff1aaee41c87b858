"""LeNet-300-100 on MNIST, 95 % removed by learning-compression, as published.

Carreira-Perpinan and Idelbayev (CVPR 2018; 2017, arXiv 1707.01209), with the numbers of
their code: tanh, 13,310 weights kept of all layers together, mu = 9e-5 * 1.1^n over 40
compression steps of 20 epochs (40 the first), batches of 256, SGD with Nesterov
momentum 0.9 at a rate of 0.1. Their trained net is not published: here it is 30 epochs,
and 20 epochs of fine-tuning follow. Other than theirs: the rate falls along a cosine
over all of it in place of 0.98^n, and images are normalized all alike in place of by
pixel. Published: 2.18 % error, from 2.13 % dense.

    python -m keras_prune_init.train --config=configs/lenet300_learning_compression.py

Needs MNIST: a download by Keras, or your files with --config.data.source=idx:FOLDER.
Time: 870 epochs, an hour or more on two cores. Result: none yet, as nobody has run this
file whole; benchmarks/learning_compression.py has the recipe with its own rates.
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.data.source = "keras:mnist"
    config.model = ConfigDict(
        {"name": "mlp", "depth": 3, "width": (300, 100), "activation": "tanh"}
    )
    config.prune.method = "learning_compression"
    config.prune.sparsity = 0.95
    config.prune.options.dense_epochs = 30
    config.prune.options.steps = 40
    config.prune.options.every = 20 * 234  # batches: 20 epochs
    config.prune.options.mu = 9e-5
    config.prune.options.growth = 1.1
    config.prune.options.tune_epochs = 20
    config.train.epochs = 30 + 41 * 20 + 20
    config.train.batch_size = 256
    config.train.learning_rate = 0.1
    config.train.warmup_epochs = 0.0
    config.train.weight_decay = 0.0
    return config
