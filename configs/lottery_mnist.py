"""Lottery tickets of LeNet-300-100 on MNIST, 20 % of what is left in each of 15 rounds.

Frankle and Carbin (2019, arXiv 1803.03635): the net is trained whole, the smallest
weights of each layer are removed (of the output layer 10 % of what is left), the others
go back to their initial values, and so on, down to 3.6 % of the weights. As in their
code: Glorot normal weights, SGD without momentum at a rate of 0.1, batches of 64.
Scaled for a processor: 10,000 steps a round in place of 50,000, and images are
normalized all alike, in place of one by one.

    python -m keras_prune_init.train --config=configs/lottery_mnist.py

    ... --config.train.steps=50000

Needs MNIST: a download by Keras, or your files with --config.data.source=idx:FOLDER.
With --config.prune.rounds=3 the same 96.4 % go in three rounds, so each takes more.
Time: 14 minutes on two busy cores. Result, one seed: 98.36 % for the dense net, 98.11 %
with 21.1 % of the weights, 97.96 % with 3.6 %. With Adam tickets are better than the
dense net, see docs/benchmarks.md (benchmarks/lottery.py).
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config

ROUNDS = 15


def get_config():
    config = default_config.get_config()
    config.data.source = "keras:mnist"
    config.model = ConfigDict(
        {"name": "mlp", "depth": 3, "width": (300, 100), "init": "glorot_normal"}
    )
    hidden, output = 1 - 0.8**ROUNDS, 1 - 0.9**ROUNDS
    config.prune.method = "magnitude"
    config.prune.rounds = ROUNDS
    config.prune.rewind = "0"
    config.prune.allocation = f"logits={output:.6f},*={hidden:.6f}"
    # That of both together; the two above decide.
    config.prune.sparsity = (265_200 * hidden + 1_000 * output) / 266_200
    config.train.steps = 10_000
    config.train.batch_size = 64
    config.train.learning_rate = 0.1
    config.train.schedule = "constant"
    config.train.warmup_epochs = 0.0
    config.train.momentum = 0.0
    config.train.nesterov = False
    config.train.weight_decay = 0.0
    return config
