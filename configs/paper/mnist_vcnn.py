"""Vanilla CNNs on MNIST, 50 % removed by SBP: table 4 of the paper.

Hayou et al. (arXiv 2002.08797). The argument of the file is the depth. Width and
training are not known for certain; here there are 32 filters in each layer, and the
iterations, batches and learning rate are those of the FFNNs in mnist_ffnn.py.

    python -m keras_prune_init.train --config=configs/paper/mnist_vcnn.py:100

Depths 10, 50, 100, and three initializations: the edge of chaos with rescaling (as
above), without, and ordered; three seeds each:

    ... --config.prune.rescale=False
    ... --config.prune.rescale=False --config.model.init=ordered --config.seed=1

--config.model.stride=2 is about four times faster.

Needs MNIST: a download by Keras, or your files with --config.data.source=idx:FOLDER.
Time: not measured; hours on a CPU.
Result: not measured; benchmarks/paper/vcnn.py trains smaller ones.
"""

from keras_prune_init.train import paper_config


def get_config(depth="50"):
    config = paper_config.get_plain_config()
    config.model = {
        "name": "vcnn",
        "depth": int(depth),
        "width": 32,
        "stride": 1,
        "activation": "tanh",
        "init": "eoc",
    }
    config.prune.sparsity = 0.5
    return config
