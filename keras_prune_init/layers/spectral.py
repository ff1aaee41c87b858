"""Spectral normalization of a pruned kernel.

In each training step Keras's wrapper divides the kernel of a layer by its largest
singular value, which a power iteration estimates, and assigns the quotient. For a
pruned layer this must be the singular value of the kernel that the forward pass uses:
without removed weights, and with `scale`. So it is done here, before the layer runs.
Zeros stay zeros, and gradients are those of the kernel after the division, as in Keras.
"""

from __future__ import annotations

import inspect

import keras

from keras_prune_init.layers.kernel_paths import get_kernel


def normalized(masked, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Take a step, and return the arguments of a call that only computes outputs.

    `masked` is the `MaskedLayer` around a `SpectralNormalization`.
    """
    layer = masked.layer
    given = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    if not given.get("training"):
        return args, kwargs
    [name] = masked.kernels
    kernel = masked.masked_kernel(name)
    scope = [(get_kernel(layer, name), kernel)]
    with keras.StatelessScope([*scope, (layer.vector_u, layer.vector_u.value)]):
        vector, quotient = keras.ops.cond(
            keras.ops.all(keras.ops.equal(kernel, 0)),
            lambda: (layer.vector_u.value, kernel),
            layer.normalized_weights,
        )
    layer.vector_u.assign(vector)
    masked.set_kernel(name, quotient / masked.scales[name].value)
    return (given["inputs"],), {"training": False}
