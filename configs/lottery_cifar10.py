"""Lottery tickets of ResNet-20 on CIFAR-10 with rewinding to step 1,000.

Frankle, Dziugaite, Roy and Carbin (2020, arXiv 1912.05671), as in open_lth: the net is
trained whole, 20 % of the smallest weights that are left are removed, all layers
together, the others go back to what they were after 1,000 steps, and so on for 10
rounds, down to 10.7 % of the weights. 160 epochs a round, SGD with momentum 0.9, rate
0.1 and a tenth of it at 80 and at 120 epochs, batches of 128.

    python -m keras_prune_init.train --config=configs/lottery_cifar10.py

Needs CIFAR-10: a download by Keras, or --config.data.source=npz:FILE.
Time: 11 trainings of 160 epochs, made for a GPU. Result: none yet, as nobody has run it
whole; the tests run two steps.
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config

ROUNDS = 10


def get_config():
    config = default_config.get_config()
    config.data.source = "keras:cifar10"
    config.data.augment = "crop+flip"
    config.model = ConfigDict({"name": "resnet", "depth": 20, "width": 16})
    config.prune.method = "magnitude"
    config.prune.sparsity = 1 - 0.8**ROUNDS
    config.prune.rounds = ROUNDS
    config.prune.rewind = "1000"
    config.train.epochs = 160
    config.train.learning_rate = 0.1
    config.train.schedule = "step"
    config.train.warmup_epochs = 0.0
    config.train.nesterov = False
    # Their 1e-4 goes through the momentum; see default_config.py.
    config.train.weight_decay = 1e-3
    return config
