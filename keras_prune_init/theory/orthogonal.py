"""Orthogonal kernels, for convolutions too."""

from __future__ import annotations

import keras

from keras_prune_init._arguments import is_number, is_whole
from keras_prune_init.layers.masked import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Orthogonal(keras.initializers.Orthogonal):
    """Orthogonal matrices, also for convolutions, which then preserve norms.

    A matrix gets orthonormal columns, or rows if it has more columns than rows. A
    convolution kernel (3 to 5 axes) is delta-orthogonal: such a matrix from input to
    output channels at its centre, and 0 at all other positions. Keras's own
    initializer spreads the matrix over all positions, and then the convolution does not
    preserve norms.

    From few to more units (or as many) the norm of every input is preserved; from many
    to fewer that is impossible, and an input keeps the norm of its part in a subspace
    of so many dimensions, while gradients going back keep theirs. The paper refuses
    such convolutions; networks have them.

    Use it before `approximate_isometry`. All weights besides the centre are 0, and what
    scores a weight by its size or gradient times weight removes these first.

    As an initializer sees only the shape, kernels of depthwise, grouped and transposed
    convolutions and of EinsumDense are right only through `reinitialize`.

    Args:
        gain: Factor, such as 2**0.5 for ReLU.
        seed: Whole number, `keras.random.SeedGenerator`, or `None`.

    Raises:
        ValueError: When called for a shape of fewer than 2 or more than 5 axes.

    Example:

    >>> Conv2D(64, 3, kernel_initializer=Orthogonal(seed=0))

    Reference:
        Xiao, Bahri, Sohl-Dickstein, Schoenholz, Pennington, arXiv 1806.05393.
    """

    def __init__(self, gain: float = 1.0, seed=None):
        if not is_number(gain):
            raise ValueError(
                f"`gain` must be a number. Received: gain={gain!r}. Pass for example "
                "2**0.5."
            )
        # Keras takes no integers of numpy.
        super().__init__(gain, int(seed) if is_whole(seed) else seed)

    def __call__(self, shape, dtype=None):
        if not 2 <= len(shape) <= 5:
            raise ValueError(
                "An orthogonal kernel is a matrix, or of a 1D to 3D convolution. "
                f"Received: shape={tuple(shape)}. Use another initializer for biases."
            )
        *spatial, rows, columns = shape
        dtype = dtype or keras.config.floatx()
        exact = "float64" if dtype == "float64" else "float32"  # no halves in QR
        matrix = keras.ops.cast(super().__call__((rows, columns), exact), dtype)
        kernel = keras.ops.reshape(matrix, (*(1 for _ in spatial), rows, columns))
        # Where "same" padding lines up outputs with inputs, for even sizes too.
        around = [((n - 1) // 2, n // 2) for n in spatial]
        return keras.ops.pad(kernel, [*around, (0, 0), (0, 0)])
