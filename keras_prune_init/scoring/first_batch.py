"""Try the first batch before any work: do data, model and loss fit?"""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_prune_init._arguments import parts
from keras_prune_init.layers.walk import is_graph
from keras_prune_init.scoring.inferred_loss import inferred, runs_its_graph
from keras_prune_init.scoring.objective import Objective, has_own, known_objective


def objective_of(model: keras.Model, loss: Any, batch: tuple) -> Objective:
    """Return the objective to differentiate, after a trial on a batch of tensors.

    The loss is as in `compile`, or the `Objective` of a `Network`. `None`: the one that
    the model was compiled with or computes itself, else one that is inferred from
    labels and outputs. The batch is `(x, y or None, sample_weight or None)`.

    Raises:
        ValueError: If the batch does not fit the model or the loss, or if no loss is
            known.
    """
    if isinstance(loss, Objective):
        return loss
    x, y, sample_weight = batch
    if any(np.ndim(v) == 0 for v in keras.tree.flatten(y) if v is not None):
        raise ValueError(
            "The dataset must be batched: the first axis of y counts samples. "
            "Received: a scalar label. Call `dataset.batch(128)`."
        )
    found = known_objective(model, loss)
    if found is None and has_own(model, "train_step"):
        raise ValueError(
            "The loss must be known. Received: a "
            f"{type(model).__name__}, which has a `train_step` of its own, no compiled "
            "loss and no `compute_loss`. Pass `loss=`, as in `compile`."
        )
    outputs = None
    if not has_own(model, "compute_loss"):
        # What layers add takes the place of a loss only where none is known.
        known = found is not None or (y is not None and not model.compiled)
        outputs = _outputs_without_running(model, x) if known else None
    with keras.StatelessScope(collect_losses=True) as scope:
        if outputs is None:
            outputs = run(model, x)
        if found is None:
            added = bool(scope.losses) and (y is None or model.compiled)
            found = Objective() if added else _inferred(model, x, y, outputs)
        outputs = _tried(found, model, x, y, outputs, sample_weight)
    if not found.was_used:
        logging.warning("%s: its own `compute_loss` ignores `loss=`.", model.name)
    found.example = model, batch, outputs
    return found


def check_others(objective: Objective, batches: list[tuple]) -> None:
    """Check that batches after the first, which `objective_of` tried, fit the model."""
    model, _, outputs = objective.example
    for number, (x, y, sample_weight) in enumerate(batches[1:], 2):
        try:
            if is_graph(model):
                _check_ranks(model, x)
            # Only labels that look wrong are tried, as this runs the model.
            if y is not None and _out_of_range(y, outputs):
                with keras.StatelessScope(collect_losses=True):
                    _tried(objective, model, x, y, run(model, x), sample_weight)
        except ValueError as e:
            raise ValueError(f"{e} This is batch {number} of the dataset.") from e


def _tried(objective, model, x, y, outputs, sample_weight):
    """Return the outputs of which there is a loss: the given ones, or real ones."""
    try:
        value = objective(model, x, y, outputs, sample_weight)
    except Exception:  # the model may make other shapes than the given ones
        outputs = run(model, x)
        try:
            value = objective(model, x, y, outputs, sample_weight)
        except Exception as e:
            if y is None:
                raise _no_labels() from e
            _check_keys("loss", objective.user_loss, model, outputs, e)
            _check_keys("labels", y, model, outputs, e)
            raise _misfit(y, outputs, e) from e
    if not np.isfinite(value).all() and _out_of_range(y, outputs):
        raise _misfit(y, outputs, "There is no loss for these labels.")
    return outputs


def _check_keys(what, given, model, outputs, error):
    """Raise a ValueError if a dict has keys that are no names of outputs."""
    if not isinstance(given, dict):
        return
    names = list(outputs) if isinstance(outputs, dict) else []
    names += [n for n in getattr(model, "output_names", ()) if n not in names]
    unknown = [str(key) for key in given if key not in names]
    if unknown:
        raise ValueError(
            f"A dict of {what} has the names of outputs as keys: "
            f"{', '.join(names) or 'none here'}. Received: {what} for "
            f"{', '.join(unknown)}. Use these names; for a single output pass no dict."
        ) from error


def _inferred(model, x, y, outputs):
    if y is None:
        raise _no_labels()
    return known_objective(model, inferred(model, x, y, outputs))


def _no_labels():
    return ValueError(
        "The dataset must give (x, y) or (x, y, sample_weight), unless layers of the "
        "model add losses. Received: x alone. Labels are needed to differentiate the "
        "loss."
    )


def _outputs_without_running(model, x):
    """Return positive numbers of the outputs' shape; `None` if it is not known."""
    if not (runs_its_graph(model) and len(model.inputs) == 1 and tf.is_tensor(x)):
        return None
    _check_input(tuple(x.shape), tuple(model.inputs[0].shape))
    shapes = [tuple(v.shape) for v in keras.tree.flatten(model.outputs)]
    if any(s[:1] not in ((None,), x.shape[:1]) or None in s[1:] for s in shapes):
        return None

    def like(symbol):
        # Valid as logits, values and probabilities, and not all alike.
        row = np.arange(1.0, symbol.shape[-1] + 1) if len(symbol.shape) > 1 else 1.0
        row = row / (np.sum(row) + (np.size(row) == 1))
        filled = np.broadcast_to(row, (x.shape[0], *symbol.shape[1:]))
        return tf.convert_to_tensor(filled, symbol.dtype)

    return keras.tree.map_structure(like, _structure(model))


def _structure(model):
    """Return the model's outputs, nested as the model returns them."""
    if isinstance(model, keras.Sequential):
        return model.outputs[0]
    outputs = model.output
    single = isinstance(outputs, (list, tuple)) and len(outputs) == 1
    return outputs[0] if single else outputs


def run(model: keras.Model, x: Any) -> Any:
    """Return the outputs in inference; a ValueError says how a batch does not fit."""
    try:
        return model(x, training=False)
    except NotImplementedError as e:
        raise ValueError(
            "A model must have a `call` to be scored. Received: a "
            f"{type(model).__name__}, which has none. Write one.{parts(model)}"
        ) from e
    except Exception as e:
        if is_graph(model):
            _check_ranks(model, x)
        raise ValueError(
            "The model must take the first batch of the dataset. Received: x of "
            f"{_told(x)}. {_first_line(e)}. Pass data of the shape that it takes."
        ) from e


def _check_ranks(model, x):
    if isinstance(x, dict):
        x = [x[v.name] for v in model.inputs if v.name in x]
    given = [v.shape for v in keras.tree.flatten(x) if hasattr(v, "shape")]
    wanted = [tuple(v.shape) for v in model.inputs]
    if len(given) != len(wanted):
        raise ValueError(
            "The dataset must give one array for each input of the model. "
            f"Received: {len(given)} arrays for {len(wanted)} inputs. Pass "
            "several as a tuple or dict."
        )
    for a, b in zip(given, wanted, strict=True):
        _check_input(tuple(a), b)


def _check_input(shape, wanted):
    # Keras drops or adds a last axis of 1.
    rank = len(shape) - len(wanted)
    if rank == -1 and wanted[-1] == 1:
        shape = (*shape, 1)
    elif rank == 1 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == len(wanted) - 1:
        raise ValueError(
            "The dataset must be batched: the first axis of x counts samples. "
            f"Received: x of shape {shape} for an input of shape {wanted}. "
            "Call `dataset.batch(128)`."
        )
    fits = len(shape) == len(wanted) and all(
        n is None or m == n for m, n in zip(shape, wanted, strict=True)
    )
    if not fits:
        raise ValueError(
            "x must have the shape of the model's input. "
            f"Received: x of shape {shape} for an input of shape {wanted}. Reshape it."
        )


def _misfit(y, outputs, error) -> ValueError:
    bounds = _out_of_range(y, outputs) if "label" in str(error).lower() else None
    if bounds:
        low, high, classes = bounds
        return ValueError(
            f"Labels must be class indices from 0 to {classes - 1}, as the model has "
            f"{classes} outputs. Received: labels from {low} to {high}. "
            "Check the number of classes."
        )
    return ValueError(
        "The loss must take the labels and the outputs of the model. Received: labels "
        f"of {_told(y)} for outputs of {_told(outputs)}. {_first_line(error)}. "
        "Pass `loss=`, or labels that fit."
    )


def _out_of_range(y, outputs):
    """Return (least, largest, number of classes) if class indices are out of range."""
    labels, outputs = keras.tree.flatten(y), keras.tree.flatten(outputs)
    for label, output in zip(labels, outputs, strict=False):
        shape = tuple(output.shape)
        classes = shape[-1] if shape else 0
        label = np.asarray(label)
        # Of any number of samples: a last batch may be smaller.
        sparse = label.shape[1:] in (shape[1:-1], (*shape[1:-1], 1))
        if label.dtype.kind in "iuf" and sparse and classes > 1 and label.size:
            low, high = label.min(), label.max()
            if low < 0 or high >= classes:
                return low, high, classes
    return None


def classes(outputs: Any, y: Any) -> int:
    """Return how many classes a classifier's labels have, for `samples_per_class`."""
    outputs = keras.tree.flatten(outputs)
    labels = [np.asarray(v) for v in keras.tree.flatten(y) if v is not None]
    shape = tuple(outputs[0].shape)
    if len(outputs) == len(labels) == 1 and len(shape) <= 2:
        label = labels[0]
        one_hot = label.shape == shape and shape[-1] > 1
        one_hot = one_hot and np.allclose(label.sum(-1), 1, atol=1e-3)
        if one_hot or label.shape in (shape[:1], (shape[0], 1)):
            return shape[-1] if shape[-1] > 1 else 2
    raise ValueError(
        "`samples_per_class` needs one class label a sample. Received: labels of "
        f"{_told(y)} for outputs of {_told(outputs)}. Use `batches` instead."
    )


def _told(values) -> str:
    """Describe the shapes, dtypes and ranges of arrays in words."""

    def one(value):
        if value is None:
            return "None"
        value = np.asarray(value)
        text = f"shape {value.shape} and dtype {value.dtype}"
        if value.dtype.kind in "iuf" and value.size:
            text += f", from {value.min():.4g} to {value.max():.4g}"
        return text

    return "; ".join(map(one, keras.tree.flatten(values)))


def _first_line(error) -> str:
    """Return the message of Keras or TensorFlow without introduction and colours."""
    text = re.sub(r"\x1b\[[0-9;]*m|\{\{.*?\}\}", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [v for v in lines if not v.startswith("Exception encountered")]
    return (lines or [type(error).__name__])[0][:300].rstrip(".")
