"""The table of layer types: what pruning knows of each class of Keras's layers.

Each class has one row with its kernels and traits. Methods, layouts, reports and theory
ask for a trait, never for a class. A subclass is like its parent unless it has a row of
its own. Users add rows with `register_layer`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

import keras

from keras_prune_init.layers.roles import (
    CELL,
    DENSE,
    DEPTHWISE,
    EINSUM,
    LOOKED_UP,
    REVERSE,
    TRANSPOSED,
    Role,
)

L = keras.layers


class Trait(enum.Flag):
    """What a layer does to its inputs, in inference."""

    # Outputs are inputs times kernels, plus a bias, through `activation`.
    LINEAR = enum.auto()
    # Kernels of layers inside are applied once each time step, or read past their call.
    LOOP = enum.auto()
    # Kernels make queries, keys and values, which are multiplied with each other.
    ATTENTION = enum.auto()
    # It calls the layer inside once for each time step.
    REPEATS = enum.auto()
    # It returns its input, in another shape or in part ...
    SAME = enum.auto()
    # ... or as it is.
    INERT = enum.auto()
    # Each number that it returns is one of its inputs, or 0.
    SELECTS = enum.auto()
    # Mean field theory skips it when it looks for the activation.
    STRAIGHT = enum.auto()
    # f(a x) = a f(x) for a > 0, if its offsets are scaled, too.
    HOMOGENEOUS = enum.auto()
    # Each output channel is a function of the same input channel, and 0 stays 0.
    CHANNELWISE = enum.auto()
    # The same, but zeros are added at the border.
    PADS = enum.auto()
    # A function of single numbers, if its activation is one.
    ACTIVATES = enum.auto()
    # Each output depends on the input at its place, for the search of paths.
    IN_PLACE = enum.auto()
    # Its inputs are combined number by number: a path leads from each.
    COMBINES = enum.auto()
    # It brings signals to one size, which undoes what rescaling does.
    NORMALIZES = enum.auto()
    # It shifts and scales the inputs of a model.
    PREPARES = enum.auto()


class LayerType(NamedTuple):
    """A row of the table."""

    # By attribute path, in the order of use. A layer need not have all of them.
    kernels: Mapping[str, Role] = {}
    traits: Trait = Trait(0)
    registered: bool = False  # by a user, with `register_layer`


T = Trait
_CELL = LayerType({"kernel": CELL, "recurrent_kernel": CELL})
# Their cell's class is private.
_CONV_LSTM = LayerType({f"cell.{name}": CELL for name in _CELL.kernels}, T.LOOP)
_PROJECTIONS = ("query", "key", "value", "output")
_LINEAR = T.LINEAR | T.HOMOGENEOUS
_NORMALIZATION = T.STRAIGHT | T.IN_PLACE | T.NORMALIZES
_POOLING = T.STRAIGHT | T.HOMOGENEOUS | T.CHANNELWISE
_DROPOUT = T.SAME | T.INERT | T.STRAIGHT | T.HOMOGENEOUS | T.CHANNELWISE
_SHAPE = T.SAME | T.STRAIGHT | T.HOMOGENEOUS
_PLAIN = T.STRAIGHT | T.HOMOGENEOUS
_ACTIVATION = T.ACTIVATES | T.IN_PLACE


# Layers that take the maximum over positions, and those that take the mean.
MEANS = {
    L.MaxPooling1D: L.AveragePooling1D,
    L.MaxPooling2D: L.AveragePooling2D,
    L.MaxPooling3D: L.AveragePooling3D,
    L.GlobalMaxPooling1D: L.GlobalAveragePooling1D,
    L.GlobalMaxPooling2D: L.GlobalAveragePooling2D,
    L.GlobalMaxPooling3D: L.GlobalAveragePooling3D,
}


def _rows(classes, *fields, **named):
    return dict.fromkeys(classes, LayerType(*fields, **named))


TYPES: dict[type, LayerType] = {
    # Kernels.
    **_rows([L.Dense, L.Conv1D, L.Conv2D, L.Conv3D], {"kernel": DENSE}, _LINEAR),
    **_rows([L.EinsumDense], {"kernel": EINSUM}, _LINEAR),
    **_rows(
        [L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose],
        {"kernel": TRANSPOSED},
        _LINEAR,
    ),
    **_rows([L.DepthwiseConv1D, L.DepthwiseConv2D], {"kernel": DEPTHWISE}, _LINEAR),
    **_rows(
        [L.SeparableConv1D, L.SeparableConv2D],
        {"depthwise_kernel": DEPTHWISE, "pointwise_kernel": DENSE},
        _LINEAR,
    ),
    L.Embedding: LayerType({"embeddings": LOOKED_UP}),
    L.ReversibleEmbedding: LayerType(
        {"embeddings": LOOKED_UP, "reverse_embeddings": REVERSE}
    ),
    L.MultiHeadAttention: LayerType(
        {f"{p}_dense.kernel": EINSUM for p in _PROJECTIONS}, T.ATTENTION
    ),
    # Only private attributes hold these; test_imports.py says when Keras renames them.
    L.GroupQueryAttention: LayerType(
        {f"_{p}_dense.kernel": EINSUM for p in _PROJECTIONS}, T.ATTENTION
    ),
    **dict.fromkeys([L.LSTMCell, L.GRUCell, L.SimpleRNNCell], _CELL),
    **dict.fromkeys([L.ConvLSTM1D, L.ConvLSTM2D, L.ConvLSTM3D], _CONV_LSTM),
    # Their kernels are those of the cells and layers inside, which are found there.
    **_rows([L.RNN, L.Bidirectional], traits=T.LOOP),
    L.TimeDistributed: LayerType(traits=T.REPEATS),
    # Normalization, and what prepares the inputs.
    L.BatchNormalization: LayerType(traits=_NORMALIZATION | T.HOMOGENEOUS),
    **_rows([L.LayerNormalization, L.GroupNormalization], traits=_NORMALIZATION),
    **_rows([L.RMSNormalization, L.UnitNormalization], traits=_NORMALIZATION),
    L.Normalization: LayerType(traits=_PLAIN | T.IN_PLACE | T.PREPARES),
    L.Rescaling: LayerType(traits=_PLAIN | _ACTIVATION | T.PREPARES),
    # Activations.
    **_rows([L.Activation, L.ReLU, L.LeakyReLU], traits=_ACTIVATION | T.HOMOGENEOUS),
    L.ELU: LayerType(traits=_ACTIVATION),
    L.PReLU: LayerType(traits=T.IN_PLACE | T.HOMOGENEOUS),
    L.Softmax: LayerType(traits=T.IN_PLACE),
    # Several inputs.
    **_rows([L.Add, L.Average, L.Concatenate], traits=_PLAIN),
    **_rows([L.Subtract, L.Maximum, L.Minimum], traits=T.HOMOGENEOUS | T.COMBINES),
    L.Multiply: LayerType(traits=T.COMBINES),
    # Other shapes.
    **_rows(
        [L.Flatten, L.Reshape, L.Permute, L.RepeatVector], traits=_SHAPE | T.SELECTS
    ),
    **_rows(
        [L.ZeroPadding1D, L.ZeroPadding2D, L.ZeroPadding3D],
        traits=_PLAIN | T.PADS | T.SELECTS,
    ),
    **_rows([L.Cropping1D, L.Cropping2D, L.Cropping3D], traits=_POOLING | T.SELECTS),
    **_rows([L.UpSampling1D, L.UpSampling2D, L.UpSampling3D], traits=_POOLING),
    **_rows([*MEANS], traits=_POOLING | T.SELECTS),
    **_rows([*MEANS.values()], traits=_POOLING),
    # These return their input in inference; they are random in training only.
    **_rows([L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D], traits=_DROPOUT),
    L.SpatialDropout3D: LayerType(traits=_DROPOUT),
    **_rows([L.GaussianDropout, L.ActivityRegularization, L.Identity], traits=_DROPOUT),
    **_rows([L.AlphaDropout, L.GaussianNoise], traits=_SHAPE | T.INERT),
    **_rows(
        [
            *(L.RandomBrightness, L.RandomColorDegeneration, L.RandomColorJitter),
            *(L.RandomContrast, L.RandomElasticTransform, L.RandomErasing),
            *(L.RandomFlip, L.RandomGaussianBlur, L.RandomGrayscale, L.RandomHue),
            *(L.RandomInvert, L.RandomPerspective, L.RandomPosterization),
            *(L.RandomRotation, L.RandomSaturation, L.RandomSharpness, L.RandomShear),
            *(L.RandomTranslation, L.RandomZoom, L.AugMix, L.CutMix, L.MixUp),
            L.RandAugment,
        ],
        traits=_SHAPE | T.INERT,
    ),
    **_rows([L.RandomCrop, L.CenterCrop, L.Resizing], traits=_SHAPE),
}


def type_of(layer: keras.layers.Layer) -> LayerType | None:
    """Return the row of a layer's class, or of its nearest parent class."""
    return next((TYPES[c] for c in type(layer).__mro__ if c in TYPES), None)


def has(layer: keras.layers.Layer, traits: Trait, subclasses: bool = True) -> bool:
    """Whether a layer has one of these traits.

    With `subclasses=False`, a class without a row of its own has no traits. Its `call`
    may differ from that of its parent.
    """
    found = type_of(layer) if subclasses else TYPES.get(type(layer))
    return found is not None and bool(found.traits & traits)


def holds_kernels(layer: keras.layers.Layer) -> bool:
    """Whether the kernels of a layer, or of layers inside it, are known."""
    found = type_of(layer)
    return found is not None and bool(found.kernels or found.traits & Trait.LOOP)
