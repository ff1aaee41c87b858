"""ResNet-32, 50 and 104 on CIFAR-10: tables 1 and 3 and figure 2 of the paper.

Hayou et al. (arXiv 2002.08797): widths 32-64-128, scoring on ten augmented images of
every class, 160 epochs, 250 for ResNet-104. The argument of the file is the depth.

    python -m keras_prune_init.train --config=configs/paper/cifar10_resnet.py:104

Table 1: methods snip and sbp_sr, sparsities 0.9, 0.95, 0.98, 0.995, 0.999.
Table 3: also random, magnitude, grasp, grasp_sr, synflow; 0.9, 0.95, 0.98. Three seeds
each. One of each method, and the dense net:

    ... --config.prune.method=snip --config.prune.sparsity=0.995
    ... --config.prune.method=sbp_sr --config.prune.sparsity=0.999
    ... --config.prune.method=grasp --config.train.epochs=160
    ... --config.prune.method=grasp_sr --config.train.epochs=160
    ... --config.prune.method=synflow --config.prune.sparsity=0.98
    ... --config.prune.method=magnitude --config.seed=1
    ... --config.prune.method=random --config.seed=2
    ... --config.prune.method=snip --config.prune.sparsity=0

Figure 2, kept weights per layer, is report.png of 32 with snip and with sbp_sr.

Needs CIFAR-10: a download by Keras, or --config.data.source=npz:FILE.
Time: made for a GPU, not measured there. On two cores an epoch of ResNet-32 took 11
min, 30 hours in all; 50 and 104 have 1.6 and 3.6 times the multiplications.
Result: not measured.
"""

from keras_prune_init.train import paper_config


def get_config(depth="32"):
    config = paper_config.get_config()
    config.data.source = "keras:cifar10"
    config.data.augment = "crop+flip"
    config.model = {"name": "resnet", "depth": int(depth), "width": 32}
    config.prune.samples_per_class = 10
    config.train.epochs = 250 if int(depth) == 104 else 160
    return config
