"""What the experiments of the paper share; the files in configs/paper/ start here."""

from ml_collections import ConfigDict

from keras_prune_init.train import default_config


def get_config() -> ConfigDict:
    """Return SBP-SR at 90 %, and SGD with rate 0.1, times 0.1 at 50 % and 75 %.

    Reference:
        Hayou, Ton, Doucet, Teh, "Robust Pruning at Initialization", 2021,
        arXiv 2002.08797.
    """
    config = default_config.get_config()
    config.prune.method = "sbp_sr"
    config.prune.sparsity = 0.9
    config.train.batch_size = 128
    config.train.learning_rate = 0.1
    config.train.schedule = "step"
    config.train.warmup_epochs = 0.0
    config.train.nesterov = False
    # The authors' 1e-4 goes through the momentum; see default_config.py.
    config.train.weight_decay = 1e-3
    return config


def get_plain_config() -> ConfigDict:
    """Return SBP with rescaling on MNIST, and plain SGD at a constant rate of 1e-3.

    It is for deep nets without normalization; momentum and weight decay are 0.
    """
    config = get_config()
    config.data.source = "keras:mnist"
    config.prune.method = "snip"
    config.prune.rescale = True
    config.prune.samples_per_class = 10
    config.train.steps = 10_000
    config.train.batch_size = 100
    config.train.learning_rate = 1e-3
    config.train.schedule = "constant"
    config.train.momentum = 0.0
    config.train.weight_decay = 0.0
    return config
