"""Circular padding: an image continues on its opposite side."""

import keras
from keras import ops

from keras_prune_init.layers.masked import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class CircularPadding2D(keras.layers.ZeroPadding2D):
    """Pad images with the pixels of their opposite sides.

    Use it before a convolution with `padding="valid"`. Then no position is at an edge,
    as the theory of signal propagation assumes. It is a subclass of `ZeroPadding2D`, so
    code for that layer treats it as linear.

    Args:
        padding: As of `ZeroPadding2D`, in pixels; at most the image's size.
        data_format: `"channels_last"`, the only one.
        **kwargs: `name` and other `keras.layers.Layer` arguments.

    Raises:
        ValueError: If the data format is another one, or an image is too small.

    Example:

    >>> import numpy as np
    >>> from keras_prune_init.models.circular import CircularPadding2D
    >>> image = np.arange(4.0).reshape(1, 2, 2, 1)
    >>> CircularPadding2D(1)(image).numpy()[0, :, :, 0]
    array([[3., 2., 3., 2.],
           [1., 0., 1., 0.],
           [3., 2., 3., 2.],
           [1., 0., 1., 0.]], dtype=float32)
    """

    def __init__(self, padding=(1, 1), data_format=None, **kwargs):
        super().__init__(padding, data_format, **kwargs)
        if self.data_format != "channels_last":
            raise ValueError(
                "`CircularPadding2D` pads images of shape (height, width, channels). "
                f"Received: data_format={self.data_format!r}. "
                'Pass data_format="channels_last".'
            )

    def build(self, input_shape):
        for size, padding in zip(input_shape[1:3], self.padding, strict=True):
            if min(padding) < 0 or (size is not None and max(padding) > size):
                raise ValueError(
                    "Circular padding can repeat an image at most once on each side. "
                    f"Received: padding={self.padding} for images of shape "
                    f"{tuple(input_shape[1:])}. Use a smaller padding, 0 or more."
                )

    def call(self, inputs):
        (top, bottom), (left, right) = self.padding
        height, width = ops.shape(inputs)[1:3]
        x = ops.concatenate(
            [inputs[:, height - top :], inputs, inputs[:, :bottom]], axis=1
        )
        return ops.concatenate([x[:, :, width - left :], x, x[:, :, :right]], axis=2)
