"""Runs that only show that all works: `config.smoke`."""

import ml_collections

from keras_prune_init.rounds.settings import LEARNING_RATE
from keras_prune_init.train import during, moving, prune_config
from keras_prune_init.train.systems import SYSTEMS


def shortened(
    config: ml_collections.ConfigDict, replicas: int
) -> ml_collections.ConfigDict:
    """Return a configuration of two small steps, or two for each part of a training."""
    config = config.copy_and_resolve_references()
    config.train.epochs = 2 if config.train.quantize_aware else 1
    config.train.quantize_epochs = 1
    config.train.steps = None
    # Large images take long on whatever machine one tries things.
    most = max(4 if config.data.image_size else 32, replicas)
    config.train.batch_size = min(config.train.batch_size, most)
    # One image of every class would be many of 1000 classes.
    config.prune.samples_per_class = None
    config.prune.scoring_batch_size = None
    config.prune.batches = min(config.prune.batches or 2, 2)
    config.prune.rounds = config.prune.rounds and min(config.prune.rounds, 2)
    if prune_config.rewind(config) not in (0, LEARNING_RATE):
        config.prune.rewind = "1"
    _shorten_method(config)
    return config


def _shorten_method(config):
    """Let a method that works in the training do all of it in these steps."""
    options = config.prune.options
    if config.prune.method in moving.RULES:
        options.every, options.end = 1, None
        options.begin = None if options.begin is None else 0
    if config.prune.method in SYSTEMS:
        options.every = None
        options.update(dict(SYSTEMS[config.prune.method].shortest))
        parts = [min(n, 1) for n in during.epochs(config)]
        options.dense_epochs, options.tune_epochs = parts
        config.train.epochs += sum(parts)
