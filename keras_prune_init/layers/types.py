"""What pruning knows of layer classes: one table, and how users add to it.

A class has one row in `KINDS`: which attributes hold kernels, and what each does. That
is all that methods, layouts, reports and costs ask. A subclass is like its parent
unless it has a row of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import keras

from keras_prune_init._arguments import is_whole

L = keras.layers

Shape = tuple[int, ...]
Axes = tuple[int, ...]


class Role(NamedTuple):
    """What a kernel does.

    Attributes:
        inputs: The axes that are summed over to make one output unit, or a function
            from the layer to them. Negative ones count from the end.
        uses: How often one call multiplies each weight, `(layer, kernel, x, y) ->
            times` of the layer that holds the kernel and the shapes of the kernel, the
            first input and the first output.
    """

    inputs: Axes | Callable[[L.Layer], Axes]
    uses: Callable[[L.Layer, Shape, Shape, Shape], int]


class Kind(NamedTuple):
    """What pruning knows of a class of layers.

    Attributes:
        kernels: `{attribute path: Role}` of the kernels, in the order of use. A layer
            need not have all of them.
        linear: Whether outputs are the inputs times the kernels, plus a bias, through
            `activation`: mean field theory covers that, and the map is homogeneous.
        loop: Whether it applies kernels of layers inside it once each time step, or
            reads them past the calls of these layers.
        registered: Whether a user added it by `register_layer`.
    """

    kernels: Mapping[str, Role] = {}
    linear: bool = False
    loop: bool = False
    registered: bool = False


def _filters(layer, kernel, x, y):
    return math.prod(y) // kernel[-1]


def _inputs(layer, kernel, x, y):
    return math.prod(x) // kernel[-1]


def _pixels(layer, kernel, x, y):
    if isinstance(layer, (L.SeparableConv1D, L.SeparableConv2D)):
        kernel = layer.pointwise_kernel.shape
        return math.prod(y) // kernel[-1]
    return math.prod(y) // (kernel[-1] * kernel[-2])


def einsum_parts(equation: str) -> list[str]:
    """The axes of input, kernel and output in an equation such as `"ab,bc->ac"`."""
    return re.split(",|->", equation.replace(" ", ""))


def _einsum_inputs(layer):
    _, kernel, output = einsum_parts(layer.equation)
    return tuple(i for i, axis in enumerate(kernel) if axis not in output)


def _einsum(layer, kernel, x, y):
    summed = math.prod(kernel[i] for i in _einsum_inputs(layer))
    return math.prod(y) * summed // math.prod(kernel)


def _looked_up(layer, kernel, x, y):
    # Rows are looked up, which multiplies nothing, unless it runs in reverse.
    reverse = len(y) == len(x) and getattr(layer, "tie_weights", False)
    return math.prod(y) // kernel[0] if reverse else 0


def _reverse(layer, kernel, x, y):
    return math.prod(y) // kernel[-1] if len(y) == len(x) else 0


def _rows(layer, kernel, x, y):
    first = getattr(layer, "data_format", None) == "channels_first"
    return math.prod(y) // y[1 if first else -1]


# Inputs are the last axis but one, also of convolutions: spatial axes are not summed
# over. A depthwise kernel has none, each channel reads one input channel only.
DENSE = Role((-2,), _filters)
TRANSPOSED = Role((-1,), _inputs)
DEPTHWISE = Role((), _pixels)
EINSUM = Role(_einsum_inputs, _einsum)
LOOKED_UP = Role((-2,), _looked_up)
REVERSE = Role((-2,), _reverse)
CELL = Role((-2,), _rows)  # of one step

_DENSE = Kind({"kernel": DENSE}, linear=True)
_TRANSPOSED = Kind({"kernel": TRANSPOSED}, linear=True)
_DEPTHWISE = Kind({"kernel": DEPTHWISE}, linear=True)
_SEPARABLE = Kind(
    {"depthwise_kernel": DEPTHWISE, "pointwise_kernel": DENSE}, linear=True
)
_CELL = Kind({"kernel": CELL, "recurrent_kernel": CELL})
# Their cell's class is private.
_CONV_LSTM = Kind({f"cell.{name}": CELL for name in _CELL.kernels}, loop=True)
_PROJECTIONS = ("query", "key", "value", "output")

KINDS: dict[type, Kind] = {
    L.Dense: _DENSE,
    L.EinsumDense: Kind({"kernel": EINSUM}, linear=True),
    L.Conv1D: _DENSE,
    L.Conv2D: _DENSE,
    L.Conv3D: _DENSE,
    L.Conv1DTranspose: _TRANSPOSED,
    L.Conv2DTranspose: _TRANSPOSED,
    L.Conv3DTranspose: _TRANSPOSED,
    L.DepthwiseConv1D: _DEPTHWISE,
    L.DepthwiseConv2D: _DEPTHWISE,
    L.SeparableConv1D: _SEPARABLE,
    L.SeparableConv2D: _SEPARABLE,
    L.Embedding: Kind({"embeddings": LOOKED_UP}),
    L.ReversibleEmbedding: Kind(
        {"embeddings": LOOKED_UP, "reverse_embeddings": REVERSE}
    ),
    L.MultiHeadAttention: Kind({f"{p}_dense.kernel": EINSUM for p in _PROJECTIONS}),
    # Only private attributes hold these; test_imports.py says when Keras renames them.
    L.GroupQueryAttention: Kind({f"_{p}_dense.kernel": EINSUM for p in _PROJECTIONS}),
    L.LSTMCell: _CELL,
    L.GRUCell: _CELL,
    L.SimpleRNNCell: _CELL,
    L.ConvLSTM1D: _CONV_LSTM,
    L.ConvLSTM2D: _CONV_LSTM,
    L.ConvLSTM3D: _CONV_LSTM,
    # Their kernels are those of the cells and layers inside, which are found there.
    L.RNN: Kind(loop=True),
    L.Bidirectional: Kind(loop=True),
}
LINEAR = tuple(c for c, kind in KINDS.items() if kind.linear)
LOOPS = tuple(c for c, kind in KINDS.items() if kind.loop)
ATTENTION = (L.MultiHeadAttention, L.GroupQueryAttention)


def kind_of(layer: L.Layer) -> Kind | None:
    """The row of a layer's class, or of the nearest class that it is derived from."""
    return next((KINDS[c] for c in type(layer).__mro__ if c in KINDS), None)


def register_layer(
    cls: type[L.Layer],
    kernels: str | Iterable[str],
    input_axes: int | Axes | Mapping[str, int | Axes] | None = None,
) -> None:
    """Let the layers of a class of your own be pruned.

    Use it for classes that make weights with `add_weight`; the report of a pruned model
    names those that it left out. Every method, layout, report and `strip` then treats
    these weights as the kernel of a `Dense` layer. Layers inside such a layer, and
    subclasses of Keras's layers, are pruned without it. Call it again in a process that
    loads a pruned model. `rescale`, `initializers.reinitialize` and other theory skip
    or refuse such layers, as they need to know what a layer computes.

    Args:
        cls: A subclass of `keras.layers.Layer`. Its subclasses are like it.
        kernels: Names of the attributes that hold the weights, such as `("w", "u")`.
            Of optional ones a layer need not have all. An item of a list is `"w.0"`.
        input_axes: The axis, or axes, of a kernel that are summed over to make one
            output unit, for all kernels or by name. `rescale` has one factor, and
            blocks one row, for each output. Default: the last but one, as of `Dense`.

    Raises:
        TypeError: If `cls` is no class of layers, or `kernels` or `input_axes` are not
            names and integers.
        ValueError: If there are no kernels, or the class is known already.

    Example:

    >>> register_layer(MyLayer, kernels=("w",))
    >>> pruned = prune_at_init(model, data, "snip", sparsity=0.9)
    """
    layer = isinstance(cls, type) and issubclass(cls, L.Layer)
    if not layer or issubclass(cls, keras.Model) or cls is L.Layer:
        raise TypeError(
            "`cls` must be a subclass of keras.layers.Layer, and no keras.Model. "
            f"Received: cls={cls!r}. Pass the class, not a layer; weights of a model "
            "itself can be pruned if they are made in a layer of it."
        )
    names = (kernels,) if isinstance(kernels, str) else kernels
    names = tuple(names) if isinstance(names, (list, tuple)) else (names,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            "`kernels` must be names of attributes. "
            f'Received: kernels={kernels!r}. Pass names, such as kernels=("w",).'
        )
    if not names or not all(names):
        raise ValueError(
            f"A layer must have at least one kernel. Received: kernels={kernels!r} for "
            f'{cls.__name__}. Name the attributes that hold them, as kernels=("w",).'
        )
    if cls in KINDS:
        known = f"with kernels {', '.join(KINDS[cls].kernels) or 'of layers inside'}"
        raise ValueError(
            "A layer class can be registered once. "
            f"Received: cls={cls.__name__}, which is known {known}. Leave it out."
        )
    axes = _checked_axes(names, input_axes)
    roles = {name: Role(axes[name], _rows) for name in names}
    KINDS[cls] = Kind(roles, registered=True)


def _checked_axes(names, given) -> dict[str, Axes]:
    by_name = dict(given) if isinstance(given, Mapping) else dict.fromkeys(names, given)
    axes = {
        name: (-2,) if v is None else (v,) if is_whole(v) else v
        for name, v in {**dict.fromkeys(names), **by_name}.items()
    }
    plain = all(
        isinstance(v, (tuple, list)) and all(map(is_whole, v)) for v in axes.values()
    )
    if not plain or set(axes) != set(names):
        raise TypeError(
            "`input_axes` must be an integer, a tuple of integers, or a dict of these "
            f"by kernel. Received: input_axes={given!r} for kernels {names}. Leave it "
            "out if inputs are the last axis but one."
        )
    return {name: tuple(v) for name, v in axes.items()}
