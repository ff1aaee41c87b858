"""`register_layer`: how users add a class of their own to the table of layer types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import keras

from keras_prune_init._arguments import is_whole
from keras_prune_init.layers import roles
from keras_prune_init.layers.roles import Axes, Role
from keras_prune_init.layers.types import TYPES, LayerType

L = keras.layers


def register_layer(
    cls: type[keras.layers.Layer],
    kernels: str | Iterable[str],
    input_axes: int | Axes | Mapping[str, int | Axes] | None = None,
) -> None:
    """Let the layers of a class of your own be pruned.

    Use it for classes that make weights with `add_weight`; the report of a pruned model
    names the layers that were left out. Every method, layout, report and `strip` then
    treats these weights like the kernel of a `Dense` layer. Subclasses of Keras's
    layers, and layers inside your layer, are pruned without it. In a process that loads
    a pruned model, call it again first. `rescale`, `initializers.reinitialize` and
    other theory skip or refuse such layers, because they need to know what a layer
    computes.

    Args:
        cls: A subclass of `keras.layers.Layer`. Its subclasses are pruned in the same
            way.
        kernels: Names of the attributes that hold the weights, such as `("w", "u")`. A
            layer need not have all of them. An item of a list has a name like `"w.0"`.
        input_axes: The axis or axes of a kernel over which a sum makes one output unit;
            one value for all kernels, or a dict by name. `rescale` has one factor, and
            a block has one row, for each output. Default: the last axis but one, as in
            `Dense`.

    Raises:
        TypeError: If `cls` is no layer class, or `kernels` or `input_axes` are not
            names and integers.
        ValueError: If there are no kernels, or the class is known already.

    Example:

    >>> import keras
    >>> import keras_prune_init as kpi
    >>> class Scaled(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         self.w = self.add_weight(shape=(input_shape[-1], 3))
    ...
    ...     def call(self, inputs):
    ...         return inputs @ self.w
    >>> kpi.register_layer(Scaled, kernels=("w",))
    >>> model = keras.Sequential([keras.Input((4,)), Scaled()])
    >>> pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.5)
    >>> kpi.report(pruned).kept
    6
    """
    layer = isinstance(cls, type) and issubclass(cls, L.Layer)
    if not layer or issubclass(cls, keras.Model) or cls is L.Layer:
        raise TypeError(
            "`cls` must be a subclass of keras.layers.Layer, and no keras.Model. "
            f"Received: cls={cls!r}. Pass the class, not a layer; weights of a model "
            "itself can be pruned if they are made in a layer of it."
        )
    names: tuple = tuple(kernels) if isinstance(kernels, (list, tuple)) else (kernels,)
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
    if cls in TYPES:
        known = f"with kernels {', '.join(TYPES[cls].kernels) or 'of layers inside'}"
        raise ValueError(
            "A layer class can be registered once. "
            f"Received: cls={cls.__name__}, which is known {known}. Leave it out."
        )
    axes = _checked_axes(names, input_axes)
    found = {name: Role(axes[name], roles.rows) for name in names}
    TYPES[cls] = LayerType(found, registered=True)


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
