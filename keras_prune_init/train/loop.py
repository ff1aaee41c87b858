"""What happens during training: the optimizer, and what is saved after each epoch."""

import itertools
import time

import keras
import tensorflow as tf

from keras_prune_init.train import run_folder
from keras_prune_init.train import strategy as strategies

SCHEDULES = ("constant", "cosine", "step")


def check(config) -> None:
    """Raises ValueError if the `train` part of a configuration makes no training."""
    for name in ("epochs", "steps", "batch_size"):
        if config[name] is not None and config[name] < 1:
            raise ValueError(
                f"`train.{name}` must be at least 1. Received: train.{name}="
                f"{config[name]}. Pass for example --config.train.{name}=8."
            )
    if config.schedule not in SCHEDULES:
        raise ValueError(
            f"`train.schedule` must be one of {SCHEDULES}. Received: "
            f"train.schedule={config.schedule!r}. Choose one of them."
        )
    if config.precision not in strategies.PRECISIONS:
        raise ValueError(
            f"`train.precision` must be one of {strategies.PRECISIONS}. Received: "
            f"train.precision={config.precision!r}. Choose one of them."
        )
    if config.warmup_epochs and config.schedule != "cosine":
        raise ValueError(
            "`train.warmup_epochs` works only with train.schedule='cosine'. Received: "
            f"train.warmup_epochs={config.warmup_epochs} with "
            f"train.schedule={config.schedule!r}. Set --config.train.warmup_epochs=0."
        )
    bounds = (0, *config.drops, 1)
    if not all(low < high for low, high in itertools.pairwise(bounds)):
        raise ValueError(
            "`train.drops` must be rising fractions of the training, between 0 and 1. "
            f"Received: train.drops={config.drops}. Pass for example "
            "--config.train.drops='(0.5, 0.75)'."
        )


def total_steps(config, steps: int) -> int:
    """Batches of the whole training, with `steps` batches in an epoch."""
    return config.steps or config.epochs * steps


def steps_taken(model: keras.Model) -> int:
    """Batches that the optimizer of a model has seen, also in earlier processes."""
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def optimizer(config, steps: int) -> keras.optimizers.Optimizer:
    """SGD as the `train` part of the configuration describes it.

    Args:
        config: The `train` part; default_config.py explains its keys.
        steps: Batches in an epoch.
    """
    return keras.optimizers.SGD(
        _learning_rate(config, steps),
        momentum=config.momentum,
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


class SaveEpoch(keras.callbacks.Callback):
    """After each epoch: a line of history.csv, TensorBoard scalars, and the model.

    The model file comes last and in one move. It holds masks, weights, optimizer and
    step count, so it alone decides where a stopped run goes on.

    Args:
        folder: The folder of the run.
        rows: The lines of the epochs already done.
    """

    def __init__(self, folder, rows):
        super().__init__()
        self.folder = folder
        self.rows = rows

    def on_train_begin(self, logs=None):
        events = str(self.folder / run_folder.EVENTS)
        self.events = tf.summary.create_file_writer(events)

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **logs}
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        row["learning_rate"] = float(rate)
        row["seconds"] = time.perf_counter() - self.started
        self.rows.append(row)
        run_folder.write_history(self.folder, self.rows)
        with self.events.as_default():
            for name, value in logs.items():
                _write_scalar(name, value, epoch + 1)
        self.events.flush()
        with run_folder.atomic(self.folder / run_folder.MODEL) as path:
            self.model.save(path)

    def on_train_end(self, logs=None):
        self.events.close()


class StopAfter(keras.callbacks.Callback):
    """Ends training after so many batches, also in the middle of an epoch."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            self.model.stop_training = True


def _write_scalar(name, value, step):
    # What tf.summary.scalar does, without its need for the tensorboard package, which
    # TensorFlow no longer installs; only whoever looks at the curves needs it.
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
        data_class="DATA_CLASS_SCALAR",
    )
    tf.summary.write(name, tf.constant(value, tf.float32), step, metadata)
