"""The optimizer of a training, its schedule, and the number of steps."""

import keras

SCHEDULES = ("constant", "cosine", "step")


def total_steps(config, steps: int) -> int:
    """Return the number of batches of the whole training, from that of an epoch."""
    return config.steps or config.epochs * steps


def steps_taken(model: keras.Model) -> int:
    """Return how many batches a model was trained on, also in earlier processes."""
    counts = [_counter(model.optimizer), model.optimizer.iterations]
    return max(int(keras.ops.convert_to_numpy(count)) for count in counts)


def note_steps(model: keras.Model, steps: int) -> None:
    """Store in the model how many batches it was trained on."""
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        _counter(model.optimizer).assign(steps)


def _counter(optimizer):
    """Return the step counter of the optimizer itself.

    An optimizer that scales the loss of float16 shows the counter of the inner one,
    which leaves out skipped steps. Its own counter stays at 0.
    """
    return keras.optimizers.Optimizer.iterations.fget(optimizer)


def optimizer(config, steps: int) -> keras.optimizers.Optimizer:
    """Make SGD as `config.train` describes it, for epochs of so many steps."""
    return keras.optimizers.SGD(
        _learning_rate(config, steps),
        momentum=float(config.momentum),
        nesterov=config.nesterov,
        weight_decay=config.weight_decay or None,
    )


def _learning_rate(config, steps):
    # A function of the optimizer's step count, so it needs nothing else to resume.
    schedules = keras.optimizers.schedules
    total, peak = total_steps(config, steps), config.learning_rate
    if config.schedule == "constant":
        return peak
    if config.schedule == "step":
        # Keras changes the rate after the boundary step, and counts from 0.
        boundaries = [round(total * drop) - 1 for drop in config.drops]
        rates = [peak * 0.1**count for count in range(len(boundaries) + 1)]
        return schedules.PiecewiseConstantDecay(boundaries, rates)
    warmup = min(round(config.warmup_epochs * steps), total - 1)
    if not warmup:
        return schedules.CosineDecay(peak, total)
    return schedules.CosineDecay(
        0.0, total - warmup, warmup_target=peak, warmup_steps=warmup
    )
