"""The last epochs of a run: with the rounding of int8, and then the file for phones."""

import math
import pathlib
import time
import warnings

import keras
import numpy as np
from absl import logging

import keras_prune_init as kpi
from keras_prune_init.train import run_folder
from keras_prune_init.train.checkpoints import peak_gib
from keras_prune_init.train.data import feed
from keras_prune_init.train.optimizer import float_steps, learning_rate


def finish(folder: pathlib.Path, config, data, plain: keras.Model) -> dict:
    """Train with the rounding of int8, on one device, and write int8.tflite.

    A run that was stopped goes on after the last whole epoch.

    Args:
        folder: The folder of the run, whose history has a line for each epoch so far.
        config: The configuration of the run.
        data: Its images.
        plain: The stripped model after the epochs in floats.

    Returns:
        The accuracy of the file on the test images, and its size in bytes.

    Raises:
        FloatingPointError: If a loss is NaN or infinite.
        ValueError: If the state of a stopped run is damaged, or the file computes
            something else than the model.
        OSError: If something cannot be written.
    """
    quantized = kpi.tfmot.quantize_aware(plain)
    steps = data.steps(config.train.batch_size)
    first = float_steps(config.train, steps) // steps
    state = _State(folder / run_folder.QUANTIZING, quantized)
    done = max(first, state.restore())
    rows = run_folder.read_history(folder, done)
    for epoch in range(done, config.train.epochs):
        rows.append(_epoch(config, data, quantized, epoch, steps))
        with run_folder.saving(
            folder, f"after epoch {epoch + 1}", "Epochs before are."
        ):
            run_folder.write_history(folder, rows)
            state.save(epoch + 1)
    with run_folder.saving(folder, "at its end", "Its training is."):
        with run_folder.atomic(folder / run_folder.QUANTIZED) as path:
            with warnings.catch_warnings():
                # tfmot's layers cannot be loaded from the format that Keras 2 prefers.
                warnings.filterwarnings("ignore", ".*HDF5")
                quantized.save(path, save_format="h5")
        images = next(iter(feed.testing(config, data)))[0]
        report = kpi.tfmot.export_int8(
            quantized, folder / run_folder.INT8, representative_data=images
        )
    logging.info("\n%s", report)
    accuracy = _accuracy(folder / run_folder.INT8, feed.testing(config, data))
    return {"int8_test_accuracy": accuracy, "int8_bytes": report.size.plain}


def _epoch(config, data, quantized, epoch, steps):
    """Train one epoch; return its line of the history."""
    size, started = config.train.batch_size, time.perf_counter()
    optimizer, rate = quantized.optimizer, 0.0
    history: dict = {}
    batches = feed.training(config, data, epoch * steps)
    quantized.reset_metrics()
    for step, (x, y) in enumerate(batches.take(steps), epoch * steps):
        rate = learning_rate(config.train, steps, step)
        optimizer.learning_rate.assign(rate)
        history = quantized.train_on_batch(x, y, reset_metrics=False, return_dict=True)
    trained = time.perf_counter()
    test = quantized.evaluate(feed.testing(config, data), return_dict=True, verbose=0)
    history |= {f"val_{key}": value for key, value in test.items()}
    for name in ("loss", "val_loss"):
        if not math.isfinite(history[name]):
            raise FloatingPointError(
                "Training stops at a loss that is no number. Received: "
                f"{name}={history[name]} in epoch {epoch + 1}, with the rounding of "
                "int8. Begin another run with a lower --config.train.learning_rate."
            )
    seconds = (trained - started) / steps
    row = {
        "epoch": epoch + 1,
        **{key: float(value) for key, value in history.items()},
        "learning_rate": rate,
        "seconds": time.perf_counter() - started,
        "step_seconds": seconds,
        "images_per_second": size / seconds,
        "peak_gib": peak_gib(),
    }
    told = "Epoch %d, int8: loss %.4f, test accuracy %.4f"
    logging.info(told, epoch + 1, row["loss"], row["val_accuracy"])
    return row


class _State:
    """Weights and optimizer of an unfinished training, in one file."""

    def __init__(self, path: pathlib.Path, model):
        self.path = path
        model.optimizer.build(model.trainable_variables)
        self.variables = [*model.variables, *model.optimizer.variables]

    def save(self, epochs: int) -> None:
        arrays = [v.numpy() for v in self.variables]
        with run_folder.atomic(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, np.array(epochs), *arrays)

    def restore(self) -> int:
        """Return how many epochs the state in the file has seen; 0 without a file."""
        if not self.path.exists():
            return 0
        try:
            with np.load(self.path) as file:
                epochs, *arrays = (file[f"arr_{i}"] for i in range(len(file.files)))
            for variable, array in zip(self.variables, arrays, strict=True):
                variable.assign(array)
        except Exception as e:  # whatever zip files and arrays of others raise
            raise run_folder.damaged(self.path, e) from e
        return int(epochs)


def _accuracy(path, batches):
    """Return the accuracy of a file, in the runtime for phones."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(path)).get_signature_runner()
    [name] = run.get_input_details()
    right = []
    for x, y in batches:
        [outputs] = run(**{name: np.asarray(x)}).values()
        labels = np.asarray(y) if len(y.shape) == 1 else np.argmax(y, -1)
        right.append(outputs.argmax(-1) == labels)
    return float(np.mean(np.concatenate(right)))
