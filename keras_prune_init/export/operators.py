"""The operators of a .tflite file, as XNNPACK's sparse inference sees them.

It works on clusters of operators that pass images to each other in the layout "channels
first". The rules are from XNNPACK's `src/subgraph.c` and TFLite's
`xnnpack_delegate.cc`.
"""

from __future__ import annotations

from typing import NamedTuple

from tensorflow.lite.python import schema_py_generated as schema

from keras_prune_init.export import flatbuffer

# Elementwise operators of one argument that a cluster may hold.
UNARY = (
    *("ABS", "CEIL", "ELU", "FLOOR", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG"),
    *("RELU", "RELU6", "RELU_N1_TO_1", "ROUND", "SQUARE"),
)
# Those that only prepare a constant kernel.
PREPARATION = ("DENSIFY", "DEQUANTIZE")

# Roles. What takes images with channels first must get them, from what gives them.
TAKES = ("inside", "pool", "dense", "end")
GIVES = ("start", "inside", "pool", "dense")
# Vectors are the same in all layouts; others must be read by operators that take them.
MUST_GIVE = ("start", "inside")


class Operator(NamedTuple):
    """An operator on images or vectors."""

    kind: str  # such as "CONV_2D"
    layer: str  # name of the Keras layer that it comes from
    inputs: tuple[int, ...]  # numbers of the tensors that it reads, without constants
    output: int  # number of the tensor that it makes
    role: str | None  # in a cluster, see above; `None`: it cannot be part of one ...
    reason: str = ""  # ... because of the rule that it breaks; and what to do
    kernel: int | None = None  # number of the constant tensor with its kernel


def read(model: schema.ModelT) -> list[Operator]:
    """Return the operators of the first graph, in order.

    Operators that only prepare constants are left out. A padding becomes part of the
    convolution if no other operator reads it, as in XNNPACK.
    """
    return _Reader(model).read()


class _Reader:
    def __init__(self, model):
        self.model = model
        self.graph = model.subgraphs[0]
        self.source = {}  # what a prepared constant is made from
        self.paddings = {}  # of tensors that a PAD made: (its input, its amounts)

    def read(self):
        found = []
        for operator in self.graph.operators:
            kind = flatbuffer.operator_name(self.model, operator)
            inputs, output = list(operator.inputs), operator.outputs[0]
            if kind in PREPARATION and self._constant(inputs[0]):
                self.source[output] = self.source.get(inputs[0], inputs[0])
            elif kind == "PAD" and self._joins(output):
                amounts = flatbuffer.data(self.model, self.graph.tensors[inputs[1]])
                self.paddings[output] = inputs[0], amounts
            else:
                found.append(self._operator(kind, operator, inputs, output))
        return found

    def _operator(self, kind, operator, inputs, output):
        kernel = None
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            kernel = self.source.get(inputs[1], inputs[1])
        named = output if kernel is None else kernel
        padded, amounts = self.paddings.get(inputs[0], (inputs[0], None))
        images = [i for i in (padded, *inputs[1:]) if i >= 0 and not self._constant(i)]
        role, reason = self._role(kind, operator, inputs, kernel, amounts)
        layer = flatbuffer.layer_name(self.graph.tensors[named].name.decode())
        return Operator(kind, layer, tuple(images), output, role, reason, kernel)

    def _constant(self, i):
        tensor = self.graph.tensors[i]
        return i in self.source or flatbuffer.is_constant(self.model, tensor)

    def _joins(self, padded):
        """Whether one convolution, which pads nothing itself, reads this tensor."""
        readers = [o for o in self.graph.operators if padded in o.inputs]
        return (
            len(readers) == 1
            and padded not in self.graph.outputs
            and flatbuffer.operator_name(self.model, readers[0])
            in ("CONV_2D", "DEPTHWISE_CONV_2D")
            and readers[0].builtinOptions.padding == schema.Padding.VALID
        )

    def _role(self, kind, operator, inputs, kernel, amounts):
        shape = list(self.graph.tensors[inputs[0]].shape)
        options = operator.builtinOptions
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            size = tuple(self.graph.tensors[kernel].shape)[1:3]
            strides = options.strideH, options.strideW
            padding = self._padding(options, size, strides, amounts)
            if options.dilationHFactor != 1 or options.dilationWFactor != 1:
                return None, _DILATED
            if kind == "CONV_2D":
                channels = self.graph.tensors[kernel].shape[3]
                if channels != shape[3]:
                    return None, "a grouped convolution; use groups=1"
                return _convolution(size, strides, padding, channels)
            multiplier = self.graph.tensors[kernel].shape[3] // shape[3]
            return _depthwise(size, strides, padding, multiplier)
        if kind in ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"):
            return None, _DILATED
        if kind == "MEAN":
            axes = flatbuffer.data(self.model, self.graph.tensors[inputs[1]])
            if axes is not None and sorted(axes.ravel() % 4) == [1, 2]:
                return "pool", ""
            return None, "a mean over other axes than height and width"
        if kind == "DEPTH_TO_SPACE":
            return "end", ""
        if kind == "FULLY_CONNECTED":
            return "dense", ""
        images = inputs if kind in ("ADD", "MUL") else inputs[:1]
        if kind not in ("ADD", "MUL", "RESIZE_BILINEAR", *UNARY):
            return None, f"{kind} has no sparse counterpart"
        if any(len(self.graph.tensors[i].shape) != 4 for i in images):
            return None, f"{kind} of tensors that are not 4-D"
        return "inside", ""

    @staticmethod
    def _padding(options, size, strides, amounts):
        """Return (top, bottom, left, right), `None` if XNNPACK computes it later."""
        if amounts is not None:
            return tuple(int(n) for n in amounts[1:3].ravel())
        if options.padding == schema.Padding.VALID:
            return 0, 0, 0, 0
        if strides != (1, 1):
            return None
        return tuple(n // 2 for k in size for n in (k - 1, k))


_DILATED = "a dilated kernel; use dilation_rate=1"


def _convolution(size, strides, padding, channels):
    if size == (1, 1):
        if strides != (1, 1):
            return None, (
                f"a 1x1 convolution with stride {_by(strides)}; subsample before it, "
                "with AveragePooling2D(1, strides)"
            )
        if any(padding):
            return None, "a padded 1x1 convolution; use padding 'valid'"
        return "inside", ""
    if channels != 3 or size != (3, 3) or strides != (2, 2):
        return None, (
            f"a {_by(size)} convolution; only 1x1 convolutions run sparse, after a "
            "first one of 3x3 with stride 2 on 3 channels"
        )
    if padding != (1, 1, 1, 1):
        return None, _one_sided(padding, 1)
    return "start", ""


def _depthwise(size, strides, padding, multiplier):
    if size not in ((3, 3), (5, 5)) or strides not in ((1, 1), (2, 2)):
        return None, (
            f"a depthwise {_by(size)} convolution with stride {_by(strides)}; use 3x3 "
            "or 5x5 with stride 1 or 2"
        )
    if multiplier != 1:
        return None, f"depth multiplier {multiplier}; use 1"
    wanted = size[0] // 2
    if padding != (wanted,) * 4:
        return None, _one_sided(padding, wanted)
    return "inside", ""


def _one_sided(padding, wanted):
    fix = f"use ZeroPadding2D({wanted}) and 'valid'"
    if padding is None:
        return f"padding 'same' with a stride; {fix}"
    return f"padding (top, bottom, left, right) is {padding}; {fix}"


def _by(pair):
    return "x".join(map(str, pair))
