"""The optimizer of a training, its schedule, and the number of steps."""

import math
from collections.abc import Callable

import keras

from keras_prune_init.rounds.rewinding import own_counter

SCHEDULES = ("constant", "cosine", "step")


def total_steps(config, steps: int) -> int:
    """Return the number of batches of the whole training, from that of an epoch."""
    return config.steps or config.epochs * steps


def float_steps(config, steps: int) -> int:
    """Return the number of batches before those of quantization-aware training."""
    quantized = config.quantize_epochs if config.quantize_aware else 0
    return total_steps(config, steps) - quantized * steps


def note_steps(model: keras.Model, steps: int) -> None:
    """Store in the model how many batches it was trained on."""
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        own_counter(model.optimizer).assign(steps)


def optimizer(config) -> keras.optimizers.Optimizer:
    """Make SGD as `config.train` describes it; `LearningRate` sets its rate."""
    return keras.optimizers.SGD(
        config.learning_rate,
        momentum=float(config.momentum),
        nesterov=config.nesterov,
        weight_decay=config.weight_decay or None,
    )


def learning_rate(config, steps: int, step: int) -> float:
    """Return the learning rate of a step, counted from 0, for epochs of `steps`."""
    total, peak = total_steps(config, steps), config.learning_rate
    if config.schedule == "constant":
        return peak
    if config.schedule == "step":
        return peak * 0.1 ** sum(step >= round(total * drop) for drop in config.drops)
    warmup = min(round(config.warmup_epochs * steps), total - 1)
    if step < warmup:
        return peak * step / warmup
    done = min((step - warmup) / (total - warmup), 1.0)
    return peak * (1 + math.cos(math.pi * done)) / 2


class LearningRate(keras.callbacks.Callback):
    """Set the learning rate before each step.

    A schedule of Keras would be a part of the step, once for each variable with weight
    decay. That takes almost as long to trace as the network.

    Args:
        rate: A function from the number of a step, counted from 0, to its rate.
        taken: Number of steps that were taken before.
    """

    def __init__(self, rate: Callable[[int], float], taken: int):
        super().__init__()
        self.rate, self.taken = rate, taken

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rate(self.taken)
        self.taken += 1
