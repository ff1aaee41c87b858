"""ResNet-50 on ImageNet: the table of the paper's appendix.

Hayou et al. (arXiv 2002.08797): scoring on 150 augmented batches of 32 images, 90
epochs, learning rate x 0.1 every 30. Their architecture is not known for certain; here
it is the ResNet50 of keras.applications, with the initial weights Keras gives it.

    python -m keras_prune_init.train --config=configs/paper/imagenet_resnet50.py

Methods snip, grasp, synflow and sbp_sr, sparsities 0.85, 0.9, 0.95:

    ... --config.prune.method=sbp_sr --config.prune.sparsity=0.95
    ... --config.prune.method=snip --config.prune.sparsity=0.85
    ... --config.prune.method=grasp
    ... --config.prune.method=synflow

Needs ImageNet as ./imagenet/train/CLASS/*.JPEG and ./imagenet/val/CLASS/*.JPEG, or
--config.data.source=folder:PATH, or tfds:imagenet2012. The scoring batches take 3 GB.
Time: not measured; days on one GPU.
Result: not measured.
"""

from keras_prune_init.train import paper_config


def get_config():
    config = paper_config.get_config()
    config.data.source = "folder:imagenet"
    config.data.image_size = 224
    config.data.augment = "resized_crop+flip"
    config.model = {"name": "keras_applications:ResNet50"}
    config.prune.batches = 150
    config.prune.scoring_batch_size = 32
    config.train.epochs = 90
    config.train.batch_size = 256
    config.train.drops = (1 / 3, 2 / 3)
    return config
