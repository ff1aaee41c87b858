"""int8 files of networks in which pruning or ReLU has silenced layers."""

from __future__ import annotations

import numpy as np

from keras_prune_init.export import flatbuffer

# XNNPACK's limit for input scale * kernel scale / output scale.
LIMIT = 256.0
OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def silence(content: bytes) -> tuple[bytes, list[str]]:
    """Change layers whose outputs were 0 for all samples, so that the file loads.

    Their outputs have no range, so the converter gives them a tiny scale. In int8 they
    are always 0 then. XNNPACK does not load a layer whose scales differ so much. Here
    the kernel of such a layer becomes 0, with scales that load. The names of the
    changed layers are returned with the file.
    """
    model = flatbuffer.read(content)
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            if flatbuffer.operator_name(model, operator) in OPERATORS:
                image, kernel, *bias = [
                    graph.tensors[i] for i in operator.inputs if i >= 0
                ]
                divisor = _divisor(image, kernel, graph.tensors[operator.outputs[0]])
                if divisor is not None:
                    _silence(model, kernel, bias, divisor)
                    found.append(flatbuffer.layer_name(kernel.name.decode()))
    return (flatbuffer.write(model) if found else content), found


def _divisor(image, kernel, output):
    """Return the divisor of each kernel scale with which it loads, or `None`."""
    scales = [t.quantization and t.quantization.scale for t in (image, kernel, output)]
    if any(s is None for s in scales):
        return None
    ratio = scales[0] * scales[1] / scales[2]
    return np.maximum(ratio * 2 / LIMIT, 1) if np.max(ratio) >= LIMIT else None


def _silence(model, kernel, bias, divisor):
    kernel.quantization.scale = (kernel.quantization.scale / divisor).astype("float32")
    values = flatbuffer.data(model, kernel)
    axis = kernel.quantization.quantizedDimension
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    silent = np.where(divisor.reshape(shape) > 1, 0, values)
    flatbuffer.store(model, kernel, silent.astype(values.dtype))
    for tensor in bias:  # one or none
        scale = tensor.quantization.scale / divisor
        tensor.quantization.scale = scale.astype("float32")
        values = flatbuffer.data(model, tensor).astype("float64") * divisor
        # What does not fit is far beyond the range of the output, too.
        limits = np.iinfo("int32")
        values = np.clip(values, limits.min, limits.max)
        flatbuffer.store(model, tensor, values.astype("int32"))


def output_step(content: bytes) -> float:
    """Return the largest step between two values of an output; 0 if all are floats."""
    model = flatbuffer.read(content)
    steps = [0.0]
    for graph in model.subgraphs:
        for operator in graph.operators:
            if flatbuffer.operator_name(model, operator) == "DEQUANTIZE":
                if set(operator.outputs) & set(graph.outputs):
                    source = graph.tensors[operator.inputs[0]].quantization
                    steps.append(float(np.max(source.scale)))
    return max(steps)
