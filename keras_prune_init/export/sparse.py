"""Sparse tensors in a .tflite file: only the non-zeros of a kernel and their places.

A kernel is stored as rows, along its last axis: the values, their places in the row,
and where each row begins. A DENSIFY operator passes it to the operator that reads it.
The runtime then unpacks it once, or multiplies only with the non-zeros.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from keras_prune_init.export import flatbuffer

# Operators that have a kernel, all as their second argument.
KERNEL_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
# Of these ai-edge-litert 2.3.0 does not run sparse kernels with its default delegates:
# it does not load the file with the one, and computes NaN with the other.
BROKEN = (("int8", "FULLY_CONNECTED"), ("float16", "TRANSPOSE_CONV"))
# What a sparse tensor needs beside its data, in bytes: the operator, a second tensor.
OVERHEAD = 400
# For each channel of int8, the second tensor repeats a scale and a zero point.
OVERHEAD_OF_CHANNEL = 12
INDEX_TYPES = (
    (255, "uint8", schema.Uint8VectorT, schema.SparseIndexVector.Uint8Vector),
    (65535, "uint16", schema.Uint16VectorT, schema.SparseIndexVector.Uint16Vector),
    (2**31 - 1, "int32", schema.Int32VectorT, schema.SparseIndexVector.Int32Vector),
)


class KernelTensor(NamedTuple):
    """A kernel of a file.

    Attributes:
        layer: Name of the layer.
        shape: Shape in TFLite: (outputs, height, width, inputs) or (outputs, inputs).
        density: Fraction of values that are not 0.
        dense: Size of its data in bytes, stored densely.
        sparse: Size of its data in bytes, stored sparsely.
        encoded: Whether it is sparse in the file.
    """

    layer: str
    shape: tuple[int, ...]
    density: float
    dense: int
    sparse: int
    encoded: bool

    @property
    def values(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)


def encode(
    content: bytes, sparse: bool | str = "auto"
) -> tuple[bytes, list[KernelTensor]]:
    """Store kernels of a file sparsely; `sparse` is that of `export_tflite`.

    Returns:
        The new file, or `content` itself if there is nothing to encode, and its kernels
        as they are stored there.
    """
    model = flatbuffer.read(content)
    kernels = [
        kernel
        for graph in model.subgraphs
        for kernel in _encode_graph(model, graph, sparse)
    ]
    if not any(kernel.encoded for kernel in kernels):
        return content, kernels
    used = {t.buffer for g in model.subgraphs for t in g.tensors}
    used |= {m.buffer for m in model.metadata or ()}
    for i, buffer in enumerate(model.buffers):
        if i not in used:
            buffer.data = None
    new = flatbuffer.write(model)
    if sparse == "auto" and len(new) >= len(content):
        return encode(content, False)
    return new, kernels


def _encode_graph(model, graph, sparse):
    found, operators = [], []
    for i, readers in _kernels(model, graph).items():
        tensor = graph.tensors[i]
        values = flatbuffer.data(model, tensor)
        rows = _Rows(values)
        density = len(rows.values) / values.size
        smaller = rows.size + _overhead(tensor) < values.nbytes
        wanted = density < 1 if sparse is True else sparse and smaller
        runs = not any((values.dtype.name, reader) in BROKEN for reader in readers)
        encoded = bool(runs and wanted)
        if encoded:
            operators.append(_make_sparse(model, graph, i, rows))
        layer = flatbuffer.layer_name(tensor.name.decode())
        sizes = values.nbytes, rows.size
        found.append(KernelTensor(layer, values.shape, density, *sizes, encoded))
    graph.operators = operators + graph.operators
    return found


def _kernels(model, graph):
    """Return which tensors are dense kernels, and the operators that read them."""
    source, kernels, other = {}, {}, set()
    for operator in graph.operators:
        name = flatbuffer.operator_name(model, operator)
        for position, i in enumerate(operator.inputs):
            stored = source.get(i, i)
            if name == "DEQUANTIZE":  # float16 kernels are read through one
                source[operator.outputs[0]] = stored
            elif name in KERNEL_OPERATORS and position == 1:
                kernels.setdefault(stored, set()).add(name)
            else:
                other.add(stored)
    return {
        i: readers
        for i, readers in kernels.items()
        if i not in other and _can_be_sparse(model, graph.tensors[i])
    }


def _overhead(tensor):
    scales = tensor.quantization and tensor.quantization.scale
    return OVERHEAD + (0 if scales is None else OVERHEAD_OF_CHANNEL * len(scales))


def _can_be_sparse(model, tensor):
    values = flatbuffer.data(model, tensor)
    if values is None or values.ndim < 2 or values.dtype == np.int32:
        return False
    quantization = tensor.quantization
    shifted = quantization and quantization.zeroPoint is not None
    return not (shifted and np.any(quantization.zeroPoint))


class _Rows:
    """A kernel as rows of non-zeros."""

    def __init__(self, kernel: np.ndarray):
        matrix = kernel.reshape(-1, kernel.shape[-1])
        present = matrix != 0
        self.shape = kernel.shape
        self.values = matrix[present]
        self.starts = _index(np.concatenate([[0], np.cumsum(present.sum(1))]))
        self.places = _index(np.nonzero(present)[1])

    @property
    def size(self) -> int:
        """Size of all parts in bytes."""
        return sum(a.nbytes for a in (self.values, self.starts, self.places))


def _index(numbers):
    top = numbers.max(initial=0)
    return numbers.astype(next(dtype for most, dtype, *_ in INDEX_TYPES if top <= most))


def _make_sparse(model, graph, i, rows):
    """Make tensor `i` sparse; return an operator that makes it dense for readers."""
    tensor = graph.tensors[i]
    changed = {"buffer": 0, "name": tensor.name + b"_dense"}
    dense = schema.TensorT(**vars(tensor) | changed)
    graph.tensors.append(dense)
    last = len(graph.tensors) - 1
    for operator in graph.operators:
        operator.inputs = [last if j == i else j for j in operator.inputs]
    flatbuffer.store(model, tensor, rows.values)
    tensor.sparsity = _sparsity(rows)
    code = _densify_code(model)
    return schema.OperatorT(opcodeIndex=code, inputs=[i], outputs=[last])


def _sparsity(rows):
    kinds = schema.DimensionType
    axes = [schema.DimensionMetadataT(kinds.DENSE, size) for size in rows.shape[:-1]]
    last = schema.DimensionMetadataT(kinds.SPARSE_CSR)
    last.arraySegmentsType, last.arraySegments = _vector(rows.starts)
    last.arrayIndicesType, last.arrayIndices = _vector(rows.places)
    order = list(range(len(rows.shape)))
    return schema.SparsityParametersT(traversalOrder=order, dimMetadata=[*axes, last])


def _vector(numbers):
    kind, code = next(row[2:] for row in INDEX_TYPES if row[1] == numbers.dtype)
    return code, kind(numbers)


def _densify_code(model):
    code = schema.BuiltinOperator.DENSIFY
    for i, known in enumerate(model.operatorCodes):
        if known.builtinCode == code:
            return i
    new = schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code)
    model.operatorCodes.append(new)
    return len(model.operatorCodes) - 1
