"""ResNet-20 on 10,000 images of Fashion-MNIST, 95 % removed all the time, by RigL.

Evci, Gale, Menick, Castro, Elsen (2020, arXiv 1911.11134). As fashion_resnet20_snip.py,
but for masks that move, from random ones with more weights in small layers (erk).

    python -m keras_prune_init.train --config=configs/fashion_resnet20_rigl.py

Time: not measured; that of fashion_resnet20_snip.py and 13 more gradients. Result: none
yet, as nobody has run it whole; the tests run two steps.
"""

from keras_prune_init.train import default_config


def get_config():
    config = default_config.get_config()
    config.prune.method = "rigl"
    config.prune.allocation = "erk"
    config.prune.options.every = 25  # of 468 steps
    config.prune.options.fraction = 0.3
    return config
