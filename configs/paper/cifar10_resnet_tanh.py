"""ResNet-32 and 50 with tanh on CIFAR-10: the appendix of the paper.

As cifar10_resnet.py, with tanh for ReLU. The argument of the file is the depth.

    python -m keras_prune_init.train --config=configs/paper/cifar10_resnet_tanh.py:32

Methods snip and sbp_sr, sparsities 0.9, 0.98, 0.995, 0.999; three seeds each:

    ... --config.prune.method=snip --config.prune.sparsity=0.995 --config.seed=1

Needs CIFAR-10: a download by Keras, or --config.data.source=npz:FILE.
Time: not measured; about that of cifar10_resnet.py.
Result: not measured.
"""

from keras_prune_init.train import paper_config


def get_config(depth="32"):
    config = paper_config.get_config()
    config.data.source = "keras:cifar10"
    config.data.augment = "crop+flip"
    config.model = {
        "name": "resnet",
        "depth": int(depth),
        "width": 32,
        "activation": "tanh",
    }
    config.prune.samples_per_class = 10
    config.train.epochs = 250 if int(depth) == 104 else 160
    return config
