"""Two smaller layers in the place of a Dense or convolution layer."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from keras_prune_init.factorize.matrices import is_separable
from keras_prune_init.factorize.ranks import Factors
from keras_prune_init.surgery import composites, rebuild
from keras_prune_init.surgery.agreement import check_copy
from keras_prune_init.surgery.copier import Copier

L = keras.layers


def with_pairs(model: keras.Model, chosen: Iterable[Factors]) -> keras.Model:
    """Return a copy of a model that computes with factors of some kernels.

    A Sequential model of two layers takes the place, and the name, of each layer.
    """
    found = {id(one.kernel.layer): one for one in chosen}

    def change(layer, copier):
        return _pair(found[id(layer)], copier) if id(layer) in found else None

    new = rebuild.copy_model(model, change=change)
    composites.remember_layers(new, [f.kernel.address for f in found.values()])
    values = [(f.kernel.variable, f.product()) for f in found.values()]
    check_copy(model, new, values=values)
    return new


def _pair(factors: Factors, copier: Copier) -> keras.Sequential:
    layer = factors.kernel.layer
    read, made = factors.kernels()
    # The first lacks what comes after the kernel, the second is the layer itself.
    options = {
        "use_bias": False,
        "name": f"{layer.name}_in",
        "dtype": layer.dtype_policy,
        "trainable": layer.trainable,
        "kernel_initializer": copier(layer.kernel_initializer),
        "kernel_regularizer": copier(layer.kernel_regularizer),
    }
    second = copier.unbuilt(layer)
    second.name = f"{layer.name}_out"
    if isinstance(layer, L.Dense):
        first = L.Dense(factors.rank, **options)
    else:
        first = _first_convolution(factors, second, options)
    pair = keras.Sequential([first, second], trainable=layer.trainable, name=layer.name)
    second.input_spec = None  # `build` makes another
    pair.build(_input_shape(layer))
    for variable, value, old in (
        (first.kernel, read, layer.kernel),
        (second.kernel, made, layer.kernel),
        *([(second.bias, layer.bias.numpy(), layer.bias)] if layer.use_bias else []),
    ):
        variable.assign(value)
        variable.trainable = old.trainable
    return pair


def _first_convolution(factors, second, options):
    """Return the first of two convolutions; the second gets what is left to do.

    Each has the strides of the layer along the axes that its own kernel covers.
    """
    layer = factors.kernel.layer
    separable = is_separable(factors.kernel.shape, factors.form)
    covered = (True, False) if separable else (True,) * layer.rank
    given = {}
    for name in ("kernel_size", "strides", "dilation_rate"):
        sizes = [*zip(getattr(layer, name), covered, strict=True)]
        given[name] = tuple(n if here else 1 for n, here in sizes)
        setattr(second, name, tuple(1 if here else n for n, here in sizes))
    return type(layer)(
        factors.rank,
        padding=layer.padding,
        data_format=layer.data_format,
        **given,
        **options,
    )


def _input_shape(layer):
    """Return a shape that a layer reads; sizes are open, as calls may differ."""
    inputs = layer.kernel.shape[-2]
    if isinstance(layer, L.Dense):
        axes = len(layer.get_build_config()["input_shape"])
        return (None,) * (axes - 1) + (inputs,)
    sizes = (None,) * layer.rank
    first = layer.data_format == "channels_first"
    return (None, inputs, *sizes) if first else (None, *sizes, inputs)
