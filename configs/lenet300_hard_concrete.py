"""LeNet-300-100 on MNIST with a gate for each input of a layer, by L0 penalty.

Louizos, Welling, Kingma (2018, arXiv 1712.01312): gates are drawn anew in each step,
and what is open in expectation costs. How much is removed is an outcome of the penalty;
the one here is ours. Batches of 100 as in their code. Other than theirs: SGD in place
of Adam with averaged weights, 20 epochs in place of 200, and the last test in place of
the best.

    python -m keras_prune_init.train --config=configs/lenet300_hard_concrete.py

Needs MNIST: a download by Keras, or your files with --config.data.source=idx:FOLDER.
TIME
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.data.source = "keras:mnist"
    config.model = ConfigDict({"name": "mlp", "depth": 3, "width": (300, 100)})
    config.prune.method = "hard_concrete"
    config.prune.options.gates = "inputs"
    config.prune.options.penalty = 0.1
    config.train.epochs = 20
    config.train.batch_size = 100
    config.train.learning_rate = 0.1
    config.train.weight_decay = 0.0  # which would pull gates to 1/2
    return config
