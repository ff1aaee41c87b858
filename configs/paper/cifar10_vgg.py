"""VGG-34 without batch normalization on CIFAR-10, from the edge of chaos.

Hayou et al. (arXiv 2002.08797) and the code of its authors: circular padding, 250
epochs, weight decay 5e-4. They score such a net as it is, and then add batch
normalization before training it with learning rate 0.1. Here there is none
in training either, so the rate is 0.01, which was not tuned. The argument of the file
is the depth; 11, 13, 16 and 19 work as well, the authors' 49 does not exist here.

    python -m keras_prune_init.train --config=configs/paper/cifar10_vgg.py:34

Methods random, magnitude, snip, grasp, synflow; three seeds each:

    ... --config.prune.method=snip --config.prune.sparsity=0.98
    ... --config.prune.method=grasp --config.prune.sparsity=0.95
    ... --config.prune.method=synflow
    ... --config.prune.method=magnitude --config.seed=1
    ... --config.prune.method=random --config.model.init=ordered

Not rescaled: with ReLU and SNIP that makes signals explode, see
benchmarks/results/paper_gradient_ratio_relu.png.

Needs CIFAR-10: a download by Keras, or --config.data.source=npz:FILE.
Time: not measured.
Result: not measured.
"""

from keras_prune_init.train import paper_config


def get_config(depth="34"):
    config = paper_config.get_config()
    config.data.source = "keras:cifar10"
    config.data.augment = "crop+flip"
    config.model = {
        "name": "vgg",
        "depth": int(depth),
        "width": 64,
        "batch_norm": False,
        "circular": True,
        "init": "eoc",
    }
    config.prune.method = "snip"
    config.prune.samples_per_class = 10
    config.train.epochs = 250
    config.train.learning_rate = 0.01
    config.train.weight_decay = 5e-3  # 5e-4 through the momentum; see default_config.py
    return config
