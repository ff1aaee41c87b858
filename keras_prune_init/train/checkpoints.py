"""What is saved during training, and when: after epochs, some steps, and SIGTERM."""

import contextlib
import math
import resource
import signal
import threading
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_prune_init.distribute import replicas
from keras_prune_init.train import run_folder
from keras_prune_init.train.optimizer import note_steps


class Checkpoints(keras.callbacks.Callback):
    """Save history.csv, TensorBoard scalars and the model after each epoch.

    The model file comes last and in one move. It holds masks, weights, optimizer and
    step count, so it alone decides where a stopped run continues. A file beside it,
    named after the step, has the state of an unfinished epoch.

    Args:
        folder: The folder of the run.
        done: Number of steps that were taken before.
        total: Number of steps of the whole training, which may end within an epoch.
        steps: Number of steps of an epoch.
        batch_size: Number of images in a step.
        every: Save after so many steps too; `None`: only after epochs.
        writes: Whether this process writes; of several processes, one does. A process
            that gets SIGTERM always saves.
        first: The step with which the training in this folder began; nothing is known
            of its epoch before.

    Raises:
        OSError: While training, if the run cannot be saved.
        FloatingPointError: While training, if a loss or a weight is NaN or infinite;
            such a state is never saved.
    """

    def __init__(
        self,
        folder,
        done,
        total,
        *,
        steps,
        batch_size,
        every=None,
        writes=True,
        first=0,
    ):
        super().__init__()
        self.folder, self.taken, self.saved = folder, done, done
        self.total, self.steps, self.batch_size = total, steps, batch_size
        self.every, self.writes = every, writes
        self.rows = run_folder.read_history(folder, done // steps)
        # What an earlier process saw of the epoch that this one begins with.
        within = done % steps and done != first
        self.earlier = run_folder.read_progress(folder, done) if within else None
        self.stopping = False

    @contextlib.contextmanager
    def on_sigterm(self):
        """Let SIGTERM save and end the training after the current step."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may ask for signals
            return

        def stop(*_):
            self.stopping = True

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        except KeyboardInterrupt:
            told = "Interrupted at step %d; --resume goes on from step %d"
            logging.info(told, self.taken, self.saved)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_train_begin(self, logs=None):
        variables = [*self.model.variables, *self.model.optimizer.variables]
        # A constant of the model may be infinite by intent, such as that of a mask.
        self.finite = [v for v in variables if _is_finite(v)]
        self.events = tf.summary.create_noop_writer()
        if self.writes:
            events = str(self.folder / run_folder.EVENTS)
            with self._saving():
                self.events = tf.summary.create_file_writer(events)

    def on_epoch_begin(self, epoch, logs=None):
        self.started = self.trained = time.perf_counter()
        self.batches = 0

    def on_test_begin(self, logs=None):
        replicas.average_statistics(self.model)  # so the file holds what is tested

    def on_train_batch_end(self, batch, logs=None):
        self.taken += 1
        self.batches += 1
        self.trained = time.perf_counter()
        self._check("training", logs["loss"])
        due = self.every and self.taken % self.every == 0
        self.model.stop_training = last = self.taken == self.total
        # After the last step of an epoch, its line in the history comes first.
        if (due or self.stopping) and self.taken % self.steps and not last:
            if due:  # of several workers, SIGTERM may have reached one
                replicas.average_statistics(self.model)
            if self.writes or self.stopping:
                self._save(self._so_far(logs))

    def on_epoch_end(self, epoch, logs=None):
        self._check("test", logs["val_loss"])
        training = self._so_far({k: v for k, v in logs.items() if k[:4] != "val_"})
        self.earlier = None
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        seconds = (self.trained - self.started) / self.batches
        row = {
            "epoch": epoch + 1,
            **logs,
            **training["logs"],
            "learning_rate": float(rate),
            "seconds": time.perf_counter() - self.started,
            "step_seconds": seconds,
            "images_per_second": self.batch_size / seconds,
            "peak_gib": peak_gib(),
        }
        self.rows.append(row)
        if self.writes or self.stopping:
            self._save(training, row)

    def on_train_end(self, logs=None):
        with self._saving():
            self.events.close()

    def _so_far(self, logs):
        """Return means over the epoch, including what an earlier process saw of it."""
        batches = self.batches
        if self.earlier:
            before, now = self.earlier["batches"], self.batches
            batches = before + now
            logs = {
                k: (before * self.earlier["logs"][k] + now * v) / batches
                for k, v in logs.items()
            }
        logs = {k: float(v) for k, v in logs.items()}
        return {"step": self.taken, "batches": batches, "logs": logs}

    def _check(self, what, loss):
        if not math.isfinite(loss):
            raise self._went_wrong(f"a {what} loss of {loss}")

    def _went_wrong(self, what):
        return FloatingPointError(
            f"Training stops at a loss that is no number. Received: {what} after step "
            f"{self.taken} of the run in {self.folder}, whose last good state, of step "
            f"{self.saved}, stays saved. Begin another run with a lower "
            "--config.train.learning_rate or more --config.train.warmup_epochs, or "
            "look for wrong values in the images or in the initial weights."
        )

    def _saving(self):
        kept = f"What is saved is step {self.saved}."
        return run_folder.saving(self.folder, f"after step {self.taken}", kept)

    def _save(self, progress, row=None):
        # The loss of this step was that of the weights before it.
        wrong = [v.path for v in self.finite if not _is_finite(v)]
        if wrong:
            raise self._went_wrong(f"NaN or infinite values in {', '.join(wrong[:3])}")
        note_steps(self.model, self.taken)
        with self._saving():
            if row:
                run_folder.write_history(self.folder, self.rows)
                self._log(row)
            if self.taken % self.steps:
                name = run_folder.PROGRESS.format(self.taken)
                run_folder.write_json(self.folder / name, progress)
            with run_folder.atomic(self.folder / run_folder.MODEL) as path:
                self.model.save(path)
        run_folder.forget_progress(self.folder, self.taken)
        self.saved = self.taken
        if self.stopping:
            logging.info("SIGTERM: saved after step %d; --resume goes on", self.taken)
            raise SystemExit(128 + signal.SIGTERM)

    def _log(self, row):
        with self.events.as_default():
            for name, value in row.items():
                if name != "epoch":
                    _write_scalar(name, value, row["epoch"])
        self.events.flush()


def _is_finite(variable):
    if not keras.backend.is_float_dtype(variable.dtype):
        return True
    return bool(np.isfinite(keras.ops.convert_to_numpy(variable)).all())


def peak_gib():
    """Return the largest memory so far: of the first GPU, or of this process."""
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _write_scalar(name, value, step):
    # What tf.summary.scalar does, without its need for the tensorboard package, which
    # TensorFlow no longer installs; only whoever looks at the curves needs it.
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
        data_class="DATA_CLASS_SCALAR",
    )
    tf.summary.write(name, tf.constant(value, tf.float32), step, metadata)
