"""Orthogonal kernels, for convolutions too."""

from __future__ import annotations

import keras

from keras_prune_init._arguments import is_number, is_whole
from keras_prune_init.layers.masked import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Orthogonal(keras.initializers.Orthogonal):
    """Draw orthogonal matrices, also for convolutions, which then preserve norms.

    A matrix gets orthonormal columns, or orthonormal rows if it has more columns than
    rows. A convolution kernel (3 to 5 axes) is delta-orthogonal: at its centre it is
    such a matrix from input to output channels, and at all other positions it is 0.
    Keras's own initializer spreads the matrix over all positions, so the convolution
    does not preserve norms.

    With fewer outputs than inputs, an input keeps only the norm of its part in a
    subspace, and gradients that go back keep theirs. The paper refuses such
    convolutions, but networks have them.

    Use it before `approximate_isometry`. Methods that score a weight by its size, or by
    gradient times weight, remove the weights besides the centre first. An initializer
    sees only the shape. So for kernels of depthwise, grouped and transposed
    convolutions and of EinsumDense, use `reinitialize`.

    Args:
        gain: Factor, such as 2**0.5 for ReLU.
        seed: Whole number, `keras.random.SeedGenerator`, or `None`.

    Raises:
        ValueError: If `gain` is no number; and when called, if the shape has fewer than
            2 or more than 5 axes.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> matrix = kpi.initializers.Orthogonal(seed=0)((4, 3)).numpy()
    >>> np.allclose(matrix.T @ matrix, np.eye(3), atol=1e-5)
    True

    Reference:
        Xiao, Bahri, Sohl-Dickstein, Schoenholz, Pennington, 2018, arXiv 1806.05393.
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
