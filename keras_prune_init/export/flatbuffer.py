"""Read and write a .tflite file as Python objects."""

from __future__ import annotations

import re

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

NAMES = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
# Data begins at multiples of so many bytes: the schema's `force_align`.
ALIGNMENT = 16
DTYPES: dict[int, np.dtype] = {
    schema.TensorType.FLOAT32: np.dtype("float32"),
    schema.TensorType.FLOAT16: np.dtype("float16"),
    schema.TensorType.INT8: np.dtype("int8"),
    schema.TensorType.INT32: np.dtype("int32"),
}


def read(content: bytes) -> schema.ModelT:
    """Return the objects of a file, if it is a whole .tflite file."""
    if content[4:8] != b"TFL3":
        raise ValueError(
            "A .tflite file has `TFL3` as its bytes 4 to 8. Received: "
            f"{bytes(content[4:8])!r}. Pass a file that `export_tflite` wrote."
        )
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    except Exception as e:  # whatever numbers at wrong places lead to
        raise broken(content, e) from e
    if not model.subgraphs:
        raise broken(content, "no graph")
    return model


def broken(content: bytes, why: object) -> ValueError:
    """Return an error for a file of which a part cannot be read."""
    why = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    return ValueError(
        "A .tflite file must be whole. Received: one of "
        f"{len(content):,} bytes that cannot be read ({why}). Export or copy it again."
    )


def write(model: schema.ModelT) -> bytes:
    """Return the file of these objects."""
    model.buffers = [_Aligned(**vars(buffer)) for buffer in model.buffers]
    builder = flatbuffers.Builder(sum(b.length for b in model.buffers) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Aligned(schema.BufferT):
    """A buffer with aligned data; the generated Python code does not align it."""

    @property
    def length(self):
        return 0 if self.data is None else len(self.data)

    def Pack(self, builder):
        if not self.length:
            return super().Pack(builder)
        data = np.asarray(self.data, "uint8")
        builder.StartVector(1, len(data), ALIGNMENT)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Return the name of an operator's kind, such as `"CONV_2D"`."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Files of old converters have only the deprecated, 8-bit one.
    return NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def data(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """Return the values of a densely stored constant; `None` for any other tensor."""
    if not is_constant(model, tensor) or tensor.sparsity or tensor.type not in DTYPES:
        return None
    stored = np.asarray(model.buffers[tensor.buffer].data, "uint8")
    return stored.view(DTYPES[tensor.type]).reshape(tensor.shape)


def is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    """Whether the file holds the values of a tensor."""
    stored = model.buffers[tensor.buffer].data
    return stored is not None and len(stored) > 0


def store(model: schema.ModelT, tensor: schema.TensorT, values: np.ndarray) -> None:
    """Store values in a new buffer, because other tensors may share the old one."""
    model.buffers.append(schema.BufferT(values.ravel().view("uint8")))
    tensor.buffer = len(model.buffers) - 1


def layer_name(tensor_name: str) -> str:
    """Return the name of the Keras layer from the name of a tensor.

    `"net_1/relu_1/Relu;net_1/conv_1/convolution2"` gives `"conv"`. The converter names
    a fused operation after all its parts, the first one last. Keras opens each layer's
    scope twice, so names end in `_1`. tfmot names a layer that it wraps `quant_conv`,
    in Keras 2, which opens scopes once.
    """
    parts = [p for p in tensor_name.split(";") if "/" in p]
    if not parts:
        return tensor_name
    scopes = parts[-1].split("/")[:-1]
    if wrapped := next((s for s in scopes if s.startswith("quant_")), None):
        return wrapped.removeprefix("quant_")
    numbered = [re.fullmatch(r"(.+)_\d+", scope) for scope in scopes]
    return next((m[1] for m in reversed(numbered) if m), scopes[-1])
