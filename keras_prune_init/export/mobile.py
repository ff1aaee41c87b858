"""`mobile_check`: whether a phone's runtime will use sparse kernels for a model."""

from __future__ import annotations

import dataclasses
import os
import tempfile

import keras
import numpy as np

from keras_prune_init import _files, _gc
from keras_prune_init.export import convert, flatbuffer, operators, sparse
from keras_prune_init.export.operators import GIVES, MUST_GIVE, TAKES, Operator

# XNNPACK wants more zeros than this, over all kernels that it counts.
NEEDED = 2 / 3


@dataclasses.dataclass(frozen=True)
class MobileReport:
    """Whether XNNPACK runs a model sparsely; `str()` says it in words.

    Attributes:
        runs_sparse: Whether it does.
        zeros: Fraction of zeros in the 1x1 convolutions of the clusters and in fully
            connected kernels; more than 2/3 is needed.
        weights: Number of weights in these kernels.
        cluster: Names of the layers that would run sparsely.
        blocking: `(layer, rule and what to change)` of layers that break up clusters.
        reasons: Other reasons why it does not.
    """

    runs_sparse: bool
    zeros: float
    weights: int
    cluster: list[str]
    blocking: list[tuple[str, str]]
    reasons: list[str]

    def __str__(self) -> str:
        lines = ["sparse kernels " + ("run" if self.runs_sparse else "do not run")]
        if self.cluster:
            lines.append(
                f"cluster of {len(self.cluster)} layers, {self.cluster[0]} to "
                f"{self.cluster[-1]}; {self.zeros:.1%} of {self.weights:,} weights are "
                f"zeros, more than {NEEDED:.1%} are needed"
            )
        lines += self.reasons
        rules: dict[str, list[str]] = {}
        for layer, rule in self.blocking:
            rules.setdefault(rule, []).append(layer)
        lines += [f"  {', '.join(layers)}: {rule}" for rule, layers in rules.items()]
        return "\n".join(lines)


def mobile_check(model: keras.Model | str | os.PathLike) -> MobileReport:
    """Say whether a phone's runtime will run a model with its sparse kernels.

    TFLite's XNNPACK has such kernels for ARM processors. They are for 1x1 convolutions
    of float32 or float16, and multiply only with the non-zero weights. They run in
    clusters of layers. A cluster starts at a 3x3 convolution with stride 2 on 3
    channels and ends in global average pooling. No other layer may read or feed what is
    between.

    Args:
        model: A Keras model, pruned or not, or the path of a .tflite file. A model is
            converted as by `export_tflite`.

    Returns:
        A `MobileReport`. It is the same for a model and its file.

    Raises:
        ValueError: If the model cannot be converted, or the file is no TFLite file.
        FileNotFoundError: If there is no such file.
        TypeError: If `model` is neither a model nor a path.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
    >>> print(kpi.mobile_check(model))
    sparse kernels do not run
    there is no 1x1 convolution; only those run sparse

    Reference:
        Elsen, Dukhan, Gale, Simonyan, "Fast Sparse ConvNets", 2019, arXiv 1911.09723;
        XNNPACK, src/subgraph.c.
    """
    if isinstance(model, keras.Model):
        with _gc.old_objects_aside(), tempfile.TemporaryDirectory() as folder:
            convert.save(convert.plain(model), folder)
            content, _ = sparse.encode(convert.convert(folder, "float32"))
    elif isinstance(model, (str, os.PathLike)):
        path = _files.regular(model)
        if not path.exists():
            raise FileNotFoundError(
                "`model` must be a keras.Model or the path of a .tflite file. "
                f"Received: {path}, which does not exist. Export it first."
            )
        content = path.read_bytes()
    else:
        raise TypeError(
            "`model` must be a keras.Model or the path of a .tflite file. Received: "
            f"{model!r}. Pass one of them."
        )
    return check_content(content)


def check_content(content: bytes) -> MobileReport:
    """Do what `mobile_check` does, for a file's content."""
    model = flatbuffer.read(content)
    try:
        return _check(model)
    except Exception as e:  # whatever numbers at wrong places lead to
        raise flatbuffer.broken(content, e) from e


def _check(model):
    found = operators.read(model)
    clusters = _clusters(found, set(model.subgraphs[0].outputs))
    good = [c for c in clusters if not c.problems]
    problems = [p for c in clusters for p in c.problems]
    members = [o for c in good or clusters for o in c.operators]
    counted = [o for o in members if o.kind == "CONV_2D" and o.role == "inside"]
    dense = [o for o in members if o.role == "dense"]
    kernels = {o.kernel for o in (*counted, *dense)}
    counts = [_count(model, model.subgraphs[0].tensors[i]) for i in kernels]
    weights = sum(total for total, _ in counts)
    zeros = 1 - sum(kept for _, kept in counts) / weights if weights else 0.0
    reasons = _reasons(model, good, counted, zeros)
    return MobileReport(
        not reasons,
        zeros,
        weights,
        list(dict.fromkeys(o.layer for c in good for o in c.operators)),
        list(dict.fromkeys(problems)),
        reasons,
    )


def _reasons(model, good, counted, zeros):
    if not counted:
        return ["there is no 1x1 convolution; only those run sparse"]
    reasons = []
    tensors = model.subgraphs[0].tensors
    types = [flatbuffer.DTYPES.get(tensors[o.kernel].type) for o in counted]
    if any(dtype is None or dtype.kind != "f" for dtype in types):
        reasons.append("the kernels are int8; sparse kernels compute in float only")
    if not good:
        reasons.append(
            "every cluster of 1x1 convolutions is broken up by other layers:"
        )
    if zeros > NEEDED and not any(tensors[o.kernel].sparsity for o in counted):
        reasons.append("no kernel is stored as a sparse tensor; export with 'auto'")
    if zeros <= NEEDED:
        reasons.append(
            f"{zeros:.1%} of the weights of 1x1 convolutions and dense layers are "
            f"zeros; more than {NEEDED:.1%} are needed"
        )
    return reasons


def _count(model, tensor):
    """Return (number of values, number of non-zeros) of a constant."""
    total = int(np.prod(tensor.shape))
    if tensor.sparsity:
        stored = len(model.buffers[tensor.buffer].data)
        return total, stored // flatbuffer.DTYPES[tensor.type].itemsize
    values = flatbuffer.data(model, tensor)
    return total, total if values is None else int(np.count_nonzero(values))


@dataclasses.dataclass
class _Cluster:
    operators: list[Operator]
    problems: list[tuple[str, str]]


def _clusters(found: list[Operator], outputs: set[int]) -> list[_Cluster]:
    """Return connected operators with 1x1 convolutions, and what breaks them up."""
    made_by = {o.output: o for o in found}
    edges = [(made_by.get(i), o) for o in found for i in o.inputs]
    leaders = {o.output: o.output for o in found if o.role}
    for source, reader in edges:
        if source and source.role in GIVES and reader.role in TAKES:
            old, new = leaders[reader.output], leaders[source.output]
            leaders = {i: new if v == old else v for i, v in leaders.items()}
    clusters: dict[int, _Cluster] = {}
    for operator in found:
        if operator.role:
            cluster = clusters.setdefault(leaders[operator.output], _Cluster([], []))
            cluster.operators.append(operator)
    for source, reader in edges:
        if reader.role in TAKES and not (source and source.role in GIVES):
            problem = reader.layer, _START
            if source and source.reason:
                problem = source.layer, source.reason
            clusters[leaders[reader.output]].problems.append(problem)
    for operator in found:
        readers = [reader for source, reader in edges if source is operator]
        taken = any(reader.role in TAKES for reader in readers)
        if operator.role in MUST_GIVE or (operator.role in GIVES and taken):
            problems = clusters[leaders[operator.output]].problems
            if operator.output in outputs:
                problems.append((operator.layer, _OUTPUT))
            for reader in readers:
                if reader.role not in TAKES:
                    problems.append((reader.layer, reader.reason or _START))
    return [
        c
        for c in clusters.values()
        if any(o.kind == "CONV_2D" and o.role == "inside" for o in c.operators)
    ]


_START = "it must come after a 3x3 convolution with stride 2, padding 1, 3 channels"
_OUTPUT = "an output of the model; end in global average pooling"
