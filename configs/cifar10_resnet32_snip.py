"""ResNet-32 on CIFAR-10, 90 % removed by SNIP: the settings of the paper.

Hayou et al. (arXiv 2002.08797): widths 32-64-128, scoring on ten images of every class,
SGD with learning rate 0.1 divided by 10 after 50 % and 75 % of 160 epochs.

    python -m keras_prune_init.train --config=configs/cifar10_resnet32_snip.py

Needs CIFAR-10: a download by Keras, or --config.data.source=npz:FILE.
Time: made for a GPU; 11 min an epoch, 30 hours in all, on two cores.
Result: not measured.
"""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.data.source = "keras:cifar10"
    config.data.augment = "crop+flip"
    config.model = ConfigDict({"name": "resnet", "depth": 32, "width": 32})
    config.prune.sparsity = 0.9
    config.prune.samples_per_class = 10
    config.train.epochs = 160
    config.train.batch_size = 128
    config.train.learning_rate = 0.1
    config.train.schedule = "step"
    config.train.warmup_epochs = 0.0
    config.train.nesterov = False
    # The authors' 1e-4 goes through the momentum; see default_config.py.
    config.train.weight_decay = 1e-3
    return config
