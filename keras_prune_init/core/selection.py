"""Which weights of a model can be pruned, and why the others cannot.

Only kernels are pruned: biases, normalization and other vectors never are.
What is not prunable is absent from scores and masks, and listed with a reason.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras

L = keras.layers

# Layer class -> attributes that hold its kernels. The first match counts, so a
# subclass of one of these is pruned like its parent.
KERNELS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (L.SeparableConv1D, ("depthwise_kernel", "pointwise_kernel")),
    (L.SeparableConv2D, ("depthwise_kernel", "pointwise_kernel")),
    (L.Dense, ("kernel",)),
    (L.EinsumDense, ("kernel",)),
    (L.Conv1D, ("kernel",)),
    (L.Conv2D, ("kernel",)),
    (L.Conv3D, ("kernel",)),
    (L.Conv1DTranspose, ("kernel",)),
    (L.Conv2DTranspose, ("kernel",)),
    (L.Conv3DTranspose, ("kernel",)),
    (L.DepthwiseConv1D, ("kernel",)),
    (L.DepthwiseConv2D, ("kernel",)),
    (L.Embedding, ("embeddings",)),
    (
        L.MultiHeadAttention,
        tuple(f"{p}_dense.kernel" for p in ("query", "key", "value", "output")),
    ),
    (L.LSTM, ("cell.kernel", "cell.recurrent_kernel")),
    (L.GRU, ("cell.kernel", "cell.recurrent_kernel")),
    (L.SimpleRNN, ("cell.kernel", "cell.recurrent_kernel")),
)

TRANSPOSED = (L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose)
DEPTHWISE = (L.DepthwiseConv1D, L.DepthwiseConv2D)

# Reasons, as `PruningReport.skipped` gives them.
NO_KERNEL = "has only vectors (biases, normalization), which are never pruned"
NOT_SUPPORTED = "this layer type is not supported"
FILTERED = "left out by `filters` or `granularity`"
NOT_PLAIN = "its kernel is quantized or has LoRA weights"

# Where Keras and TensorFlow note layers that other attributes already name.
BOOKKEEPING = ("_layers", "_tracked", "_inbound_nodes", "_outbound_nodes", "_self_")

Address = tuple[str, ...]
Filters = str | list[str] | Callable[[keras.layers.Layer], bool] | None


class Kernel(NamedTuple):
    """One prunable weight tensor of a model."""

    path: str
    address: Address
    layer: keras.layers.Layer
    name: str
    variable: keras.Variable


def kernel_names(layer: keras.layers.Layer) -> tuple[str, ...]:
    """Attribute paths of a layer's kernels; empty if it cannot be pruned."""
    if isinstance(layer, L.Bidirectional):
        parts = ("forward_layer", "backward_layer")
    elif isinstance(layer, L.TimeDistributed):
        parts = ("layer",)
    else:
        return next((n for cls, n in KERNELS if isinstance(layer, cls)), ())
    return tuple(f"{p}.{n}" for p in parts for n in kernel_names(getattr(layer, p)))


def scoring_dtype(kernels: Iterable[Kernel]) -> str:
    """Scores are made in float32, or in float64 if the layers compute in it."""
    wide = any(k.layer.compute_dtype == "float64" for k in kernels)
    return "float64" if wide else "float32"


def owner(layer: keras.layers.Layer, name: str) -> keras.layers.Layer:
    """The layer that holds kernel `name`: `layer` itself or one inside it."""
    path = name.rpartition(".")[0]
    return operator.attrgetter(path)(layer) if path else layer


def get_kernel(layer: keras.layers.Layer, name: str) -> keras.Variable:
    return operator.attrgetter(name)(layer)


def input_axes(layer: keras.layers.Layer, name: str) -> tuple[int, ...]:
    """Axes of a kernel that are summed over to make one output unit.

    Spatial axes of a convolution are not among them, and a depthwise kernel has
    none: each of its channels reads one input channel only.
    """
    rank = len(get_kernel(layer, name).shape)
    holder = owner(layer, name)
    if isinstance(holder, L.EinsumDense):
        kernel, output = re.split(",|->", holder.equation.replace(" ", ""))[1:]
        return tuple(i for i, axis in enumerate(kernel) if axis not in output)
    if isinstance(holder, DEPTHWISE) or name.endswith("depthwise_kernel"):
        return ()
    return (rank - 1,) if isinstance(holder, TRANSPOSED) else (rank - 2,)


def is_graph(layer: keras.layers.Layer) -> bool:
    """Whether the layer is a Sequential or Functional model, which Keras can clone."""
    if isinstance(layer, keras.Sequential):
        return True
    return isinstance(layer, keras.Model) and hasattr(layer, "operations")


def is_composite(layer: keras.layers.Layer) -> bool:
    """Whether the layer is user code whose attributes hold other layers.

    Wrappers and layers of Keras itself are leaves: they may use a sublayer's kernel
    directly, so a sublayer cannot be exchanged behind their back.
    """
    builtin = type(layer).__module__.split(".")[0] == "keras"
    leaf = builtin or is_graph(layer) or isinstance(layer, L.Wrapper)
    return not leaf and bool(children(layer))


def children(layer: keras.layers.Layer) -> list[tuple[tuple[str, ...], Any]]:
    """Pairs of key and sublayer; a key is the position or the attribute path."""
    if is_graph(layer):
        return [((str(i),), child) for i, child in enumerate(layer.layers)]
    found = []
    for name, value in vars(layer).items():
        if not name.startswith(BOOKKEEPING):
            found.extend(_layers_within(value, (name,)))
    return found


def _layers_within(value, key):
    if isinstance(value, keras.layers.Layer):
        yield key, value
    elif isinstance(value, dict):
        for k, v in value.items():
            yield from _layers_within(v, (*key, str(k)))
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            yield from _layers_within(v, (*key, str(i)))


def flatten(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """A layer and everything inside it, each once."""
    queue, seen = [layer], set()
    while queue:
        layer = queue.pop()
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            queue.extend(child for _, child in children(layer))


def output_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that make a graph model's outputs; of others, they themselves."""
    if not is_graph(layer):
        return [layer]
    if isinstance(layer, keras.Sequential):
        return output_layers(layer.layers[-1])
    by_name = {v.name: v for v in layer.layers}
    # An output may come from an operation, which is no layer.
    made = [by_name[name] for name in layer.output_names if name in by_name]
    return [leaf for v in made for leaf in output_layers(v)]


def walk(layer: keras.layers.Layer) -> Iterator[tuple[Address, keras.layers.Layer]]:
    """Every leaf layer of a model once, with its address, in definition order."""
    seen = set()

    def visit(layer, address):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if is_graph(layer) or is_composite(layer):
            for key, child in children(layer):
                yield from visit(child, (*address, *key))
        else:
            yield address, layer

    yield from visit(layer, ())


def is_pointwise(layer: keras.layers.Layer) -> bool:
    """Whether it is a 1x1 convolution of images, not of vectors as classifiers are."""
    if not isinstance(layer, L.Conv2D) or any(n != 1 for n in layer.kernel_size):
        return False
    made = getattr(layer, "output", None)  # not known of layers in subclassed models
    first = layer.data_format == "channels_first"
    pixels = None if made is None else made.shape[2:] if first else made.shape[1:3]
    return pixels is None or any(n != 1 for n in pixels)


def _matches(layer, filters: Filters) -> bool:
    if filters is None:
        return True
    if filters == "pointwise":
        return is_pointwise(layer)
    if callable(filters):
        return bool(filters(layer))
    patterns = [filters] if isinstance(filters, str) else filters
    names = (layer.name, layer.path or layer.name)
    return any(re.search(p, name) for p in patterns for name in names)


def _reason(layer, names, filters) -> str | None:
    """Why a leaf cannot be pruned; `None` if it can."""
    if not names:
        matrices = any(len(v.shape) > 1 for v in layer.weights)
        return NOT_SUPPORTED if matrices else NO_KERNEL
    if not _matches(layer, filters):
        return FILTERED
    kernels = [get_kernel(layer, name) for name in names]
    if not all(isinstance(k, keras.Variable) and is_float(k) for k in kernels):
        return NOT_PLAIN
    return None


def is_float(variable: keras.Variable) -> bool:
    return "float" in keras.backend.standardize_dtype(variable.dtype)


def find_kernels(
    model: keras.Model, filters: Filters = None
) -> tuple[list[Kernel], list[tuple[str, str]]]:
    """The prunable kernels of a model, and the layers left out.

    Args:
        model: A built Keras model.
        filters: Which layers may be pruned: a regular expression searched in the
            layer's name and path, a list of them (any may match), or a function from
            layer to bool. `None`: all. `"pointwise"`: 1x1 convolutions.

    Returns:
        A list of `Kernel`, in definition order, with unique paths, and a list of
        `(layer path, reason)` for every layer with weights that is not pruned.
    """
    kernels, skipped, taken = [], [], {}
    for address, layer in walk(model):
        if not layer.weights:
            continue
        names = kernel_names(layer)
        reason = _reason(layer, names, filters)
        if reason:
            skipped.append((layer.path or layer.name, reason))
            continue
        for name in names:
            variable = get_kernel(layer, name)
            # Nested models may hold equal paths; a key must name one tensor.
            count = taken[variable.path] = taken.get(variable.path, 0) + 1
            path = variable.path if count == 1 else f"{variable.path}_{count}"
            kernels.append(Kernel(path, address, layer, name, variable))
    return kernels, skipped
