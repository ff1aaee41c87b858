"""`export_tflite`: from a pruned Keras model to a checked .tflite file."""

from __future__ import annotations

import gzip
import importlib.util
import os
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np

from keras_prune_init import _files, _gc
from keras_prune_init._arguments import check_choice, check_flag, check_whole
from keras_prune_init.export import convert, int8, mobile, samples
from keras_prune_init.export.report import Comparison, ExportReport, Size
from keras_prune_init.export.sparse import encode
from keras_prune_init.graph.inputs import graph_inputs

# Differences between file and model that pass, as a fraction of the largest output.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "int8": 0.2}


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    precision: str = "float32",
    sparse: bool | str = "auto",
    representative_data: Any = None,
    batch_size: int | None = None,
    check: bool = True,
) -> ExportReport:
    """Write a model as a .tflite file for phones, and check that it computes the same.

    Masks are multiplied into the weights. Sparse tensors make the file smaller. The
    report says whether the phone also computes faster, see `mobile_check`.

    Args:
        model: A built Keras model, pruned or not; it is not changed. Inputs keep their
            names in the signature of the file. Float inputs stay floats, also with
            int8. Outputs are called `output_0`, ..., or have the keys of a dict.
        path: The file; an existing one is replaced.
        precision: `"float32"`, `"float16"` (of kernels; half the size) or `"int8"` (a
            quarter; computes in integers, never with sparse kernels).
        sparse: `"auto"`: each kernel is stored in the smaller way; if the runtime does
            not run that file, all are stored densely. `True`: all kernels with a zero
            are stored sparsely. `False`: none. Dense layers of an int8 file are never
            stored sparsely, because the runtime does not load them.
        representative_data: Batched inputs, to choose the ranges of int8 and to check
            the file: a `tf.data.Dataset` or `keras.utils.PyDataset` of `x` or `(x, y)`,
            or `x` itself. 200 samples are used. It is required for int8 and for
            subclassed models. Default: random numbers.
        batch_size: The only batch size that the file will accept. Default: that of the
            model's inputs, or any.
        check: Whether to load the file in the runtime for phones (ai_edge_litert), run
            it, and compare its outputs with the model's.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If an argument does not fit, TFLite has no operator for a layer, or
            the file computes something else than the model. No file is written then.
        TypeError: If `path` is no path.
        ImportError: If `check` is true and ai_edge_litert is not installed.
        OSError: If the file cannot be written.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.5)
    >>> report = kpi.export_tflite(pruned, "model.tflite", check=False)
    >>> [(k.layer, k.shape) for k in report.kernels]
    [('dense1', (8, 4)), ('logits', (2, 8))]
    """
    path = checked_path(path)
    check_arguments(sparse, batch_size, check)
    check_choice("precision", precision, convert.PRECISIONS)
    if precision == "int8" and representative_data is None:
        raise ValueError(
            "int8 takes its ranges from data. Received: precision='int8', "
            "representative_data=None. Pass some hundred inputs."
        )
    with _gc.old_objects_aside(), tempfile.TemporaryDirectory() as folder:
        model = convert.plain(model, samples.first(representative_data))
        name = model.name
        inputs, wanted = None, None
        if check or precision == "int8":
            nested = convert.specs(graph_inputs(model))
            inputs = samples.Samples(nested, representative_data, batch_size)
            wanted = inputs.predict(model) if check else None
        with saved_to(folder):
            convert.save(model, folder, batch_size)
        del model  # memory for the converter
        dense = convert.convert(folder, precision, inputs.__iter__ if inputs else None)
    return write(path, dense, name, precision, sparse, inputs, wanted)


def saved_to(folder: str):
    """Return a context that explains errors while a SavedModel is written."""
    what = f"The converter's files could not be written to {folder}"
    return _files.explained(what, "Free some space, or set TMPDIR to another folder.")


def write(
    path: pathlib.Path,
    dense: bytes,
    name: str,
    precision: str,
    sparse: bool | str,
    inputs: samples.Samples | None,
    wanted: dict[str, np.ndarray] | None,
) -> ExportReport:
    """Store kernels of a file sparsely, check and write it, and return the report.

    `wanted` are the outputs of model `name` for `inputs`; `None`: it is not checked.
    """
    notes = []
    if precision == "int8":
        dense, silent = int8.silence(dense)
        if silent:
            notes.append(f"always 0 in int8, as for all samples: {', '.join(silent)}")
    content, kernels = encode(dense, sparse)
    if sparse is True and content is dense:
        raise ValueError(
            "Only kernels with zeros can be stored sparsely. Received: sparse=True, "
            f"and {name}, which has no such kernel. Prune it, or use 'auto'."
        )
    encoded, comparison = content, None
    if wanted is not None:
        try:
            comparison = _compare(content, inputs, wanted, precision)
        except ValueError as e:
            if sparse != "auto" or content is dense:
                raise
            notes.append(f"stored densely, because of the sparse file: {e}")
            content, kernels = encode(dense, False)
            comparison = _compare(content, inputs, wanted, precision)
    if comparison and not comparison.largest:
        notes.append("all outputs are 0, so the comparison says little")
    what = f"The .tflite file could not be written to {path}"
    advice = "What was there before is still there. Free some space, or choose another."
    with _files.explained(what, advice), _files.atomic(path) as temporary:
        temporary.write_bytes(content)
    return ExportReport(
        path,
        precision,
        _size(dense),
        None if encoded is dense else _size(encoded),
        content is not dense,
        kernels,
        comparison,
        mobile.check_content(content),
        notes,
    )


def _size(content):
    # 6 is what the gzip command does; 9 takes 15 times as long for zeros.
    return Size(len(content), len(gzip.compress(content, 6)))


def _compare(content, inputs, wanted, precision):
    """Compare the file's outputs in the runtime for phones with those of the model."""
    found = _run(content, inputs)
    differences = [np.abs(found[name] - value).max() for name, value in wanted.items()]
    same = [
        found[name].argmax(-1) == value.argmax(-1)
        for name, value in wanted.items()
        if value.ndim > 1 and value.shape[-1] > 1
    ]
    comparison = Comparison(
        inputs.count,
        inputs.real,
        float(np.max(differences)),
        float(max(np.abs(value).max() for value in wanted.values())),
        float(np.mean(np.concatenate(same, axis=None))) if same else None,
    )
    allowed = TOLERANCES[precision] * comparison.largest
    if precision == "int8":  # a network that was hardly trained has small outputs
        allowed = max(allowed, 1.01 * int8.output_step(content))
    if not comparison.difference <= allowed:  # NaN fails too
        raise ValueError(
            "The file must compute what the model does, to "
            f"{TOLERANCES[precision]:g} of its largest output. Received: {comparison}. "
            "Choose another precision, or pass inputs like those in use. A model of "
            "`quantize_aware` must learn its ranges: train it longer."
        )
    return comparison


def _run(content, inputs):
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.tflite"
        file.write_bytes(content)
        try:
            runner = Interpreter(model_path=str(file)).get_signature_runner()
            found = [runner(**batch) for batch in inputs]
        except RuntimeError as e:
            raise ValueError(
                "The runtime for phones must run the file. Received from it: "
                f"{e}. Move what it cannot do out of the model."
            ) from e
    return {name: np.concatenate([f[name] for f in found]) for name in found[0]}


def checked_path(path: str | os.PathLike) -> pathlib.Path:
    """Return the path of a file that can be written, or raise an error."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"`path` must be the path of a file. Received: path={path!r}. Pass for "
            "example path='model.tflite'."
        )
    path = pathlib.Path(path)
    if not path.is_dir():
        _files.regular(path)
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(
            "`path` must name a file in a folder that exists and can be written to. "
            f"Received: path={path}. Make the folder first, or choose another."
        )
    return path


def check_arguments(sparse: bool | str, batch_size: int | None, check: bool) -> None:
    """Raise an error unless the arguments of an export are possible."""
    if not isinstance(sparse, bool) and sparse != "auto":
        raise ValueError(
            "`sparse` must be 'auto', True or False. Received: "
            f"sparse={sparse!r}. Choose one of them."
        )
    check_flag("check", check)
    if batch_size is not None:
        check_whole("batch_size", batch_size, 1, 2**31 - 1)
    if check and not importlib.util.find_spec("ai_edge_litert"):
        raise ImportError(
            "Checking the file needs its runtime: pip install "
            "'keras_prune_init[export]'. Or pass check=False."
        )
