"""ResNet-32, 50 and 104 on CIFAR-100: table 3 of the paper.

Hayou et al. (arXiv 2002.08797): widths 32-64-128, scoring on ten augmented images of
every class, 250 epochs. The argument of the file is the depth.

    python -m keras_prune_init.train --config=configs/paper/cifar100_resnet.py:104

Methods random, magnitude, snip, grasp, grasp_sr, synflow and sbp_sr, sparsities 0.9,
0.95, 0.98; three seeds each. One of each method, and the dense net:

    ... --config.prune.method=sbp_sr --config.prune.sparsity=0.98
    ... --config.prune.method=snip --config.prune.sparsity=0.95
    ... --config.prune.method=grasp --config.train.epochs=160
    ... --config.prune.method=grasp_sr --config.train.epochs=160
    ... --config.prune.method=synflow
    ... --config.prune.method=magnitude --config.seed=1
    ... --config.prune.method=random --config.seed=2
    ... --config.prune.method=snip --config.prune.sparsity=0

Needs CIFAR-100: a download by Keras, or --config.data.source=npz:FILE.
Time: not measured; an epoch is that of cifar10_resnet.py, and there are 250.
Result: not measured.
"""

from keras_prune_init.train import paper_config


def get_config(depth="32"):
    config = paper_config.get_config()
    config.data.source = "keras:cifar100"
    config.data.augment = "crop+flip"
    config.model = {"name": "resnet", "depth": int(depth), "width": 32}
    config.prune.samples_per_class = 10
    config.train.epochs = 250
    return config
