"""ResNet-32, 50 and 104 on Tiny-ImageNet: table 2 of the paper.

Hayou et al. (arXiv 2002.08797): the nets of CIFAR on images of 64x64 pixels, scoring on
one augmented image of every class, 300 epochs. The argument of the file is the depth.

    python -m keras_prune_init.train --config=configs/paper/tiny_imagenet_resnet.py:32

Methods snip, grasp, synflow and sbp_sr, sparsities 0.85, 0.9, 0.95; three seeds each:

    ... --config.prune.method=sbp_sr --config.prune.sparsity=0.95
    ... --config.prune.method=snip --config.prune.sparsity=0.85
    ... --config.prune.method=grasp --config.prune.samples_per_class=10
    ... --config.prune.method=synflow

Needs Tiny-ImageNet, unpacked as ./tiny-imagenet-200 or where --config.data.source=
folder:PATH says. All images are decoded first and stay in memory, 1.4 GB.
Time: not measured. An epoch has 8 times the multiplications of cifar10_resnet.py.
Result: not measured.
"""

from keras_prune_init.train import paper_config


def get_config(depth="32"):
    config = paper_config.get_config()
    config.data.source = "folder:tiny-imagenet-200"
    config.data.augment = "crop+flip"
    config.model = {"name": "resnet", "depth": int(depth), "width": 32}
    config.prune.samples_per_class = 1
    config.train.epochs = 300
    return config
