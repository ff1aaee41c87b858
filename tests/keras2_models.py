"""The same models in Keras 2 and in Keras 3, for tests of the bridge between them."""

import keras
import numpy as np
import tensorflow as tf
import tf_keras

BOTH = {"Keras 2": tf_keras, "Keras 3": keras}


def cnn(k, size=8, classes=5):
    """With what `quantize_aware` treats in different ways."""
    L = k.layers
    return k.Sequential(
        [
            k.Input((size, size, 3)),
            L.Conv2D(8, 3, use_bias=False),
            L.BatchNormalization(momentum=0.8),
            L.ReLU(),
            L.DepthwiseConv2D(3),
            L.BatchNormalization(momentum=0.8),
            L.ReLU(6.0),
            L.Conv2D(8, 1, activation="relu"),
            L.Flatten(),
            L.Dense(classes),
        ]
    )


def mobile(k, size=32, classes=5):
    return k.applications.MobileNetV2(
        (size, size, 3),
        alpha=0.35,
        weights=None,
        classes=classes,
        classifier_activation=None,
    )


def compiled(model, k, rate=1e-3, **options):
    model.compile(
        k.optimizers.Adam(rate, **options),
        k.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def recurrent(k):
    L = k.layers
    layers = [L.LSTM(4, return_sequences=True), L.GRU(3), L.Dense(2)]
    return k.Sequential([k.Input((5, 3)), *layers])


def both_ways(k):
    L = k.layers
    layers = [L.Bidirectional(L.LSTM(4, return_sequences=True))]
    layers.append(L.TimeDistributed(L.Dense(3)))
    return k.Sequential([k.Input((5, 3)), *layers])


def cells(k):
    L = k.layers
    return k.Sequential([k.Input((5, 3)), L.RNN([L.LSTMCell(4), L.GRUCell(3)])])


def states(k):
    L = k.layers
    x = k.Input((5, 3))
    _, hidden, carry = L.LSTM(4, return_state=True)(x)
    return k.Model(x, L.LSTM(4)(x, initial_state=[hidden, carry]))


def words(k):
    L = k.layers
    layers = [L.Embedding(7, 4, mask_zero=True), L.LSTM(4), L.Dense(2)]
    return k.Sequential([k.Input((5,), dtype="int32"), *layers])


def attention(k):
    L = k.layers
    x = k.Input((5,), dtype="int32")
    h = L.Embedding(7, 4, mask_zero=True)(x)
    h = L.LayerNormalization()(h + L.MultiHeadAttention(2, 4)(h, h))
    return k.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(h)))


def shared(k):
    L = k.layers
    a, b, dense = k.Input((4,), name="a"), k.Input((4,), name="b"), L.Dense(3)
    both = L.Concatenate()([dense(a), dense(b)])
    return k.Model({"a": a, "b": b}, {"y": dense(a), "z": L.Dense(2)(both)})


def nested(k):
    L = k.layers
    inner = [k.Input((8, 8, 3)), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()]
    inner = k.Sequential(inner, name="inner")
    x = k.Input((8, 8, 3))
    h = inner(x)
    h = L.Add()([h, L.Conv2D(4, 3, padding="same")(h)])
    return k.Model(x, L.Dense(5)(L.GlobalAveragePooling2D()(h)))


def model_over_time(k):
    x, step = k.Input((3, 4)), k.Input((4,))
    inner = k.Model(step, k.layers.Dense(4)(step))
    return k.Model(x, k.layers.TimeDistributed(inner)(x))


def convolutions(k):
    L = k.layers
    x = k.Input((8, 8, 3))
    h = L.SeparableConv2D(4, 3, depthwise_regularizer="l2")(x)
    h = L.Conv2DTranspose(3, 3, strides=2)(L.DepthwiseConv2D(3)(h))
    h = L.LeakyReLU()(L.PReLU()(L.UpSampling2D()(h)))
    return k.Model(x, L.SpatialDropout2D(0.3)(h)[:, 0])


def frozen(k):
    L = k.layers
    layers = [L.Dense(3), L.BatchNormalization(trainable=False)]
    return k.Sequential([k.Input((4,)), *layers, L.Dense(2, trainable=False)])


def adapted(k):
    L = k.layers
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, (9, 4)))
    x = k.Input((4,))
    known = L.Normalization(mean=[1.0] * 4, variance=[2.0] * 4)
    h = known(normalization(x))
    return k.Model(x, L.Dense(2, activation="swish", kernel_constraint="non_neg")(h))


def mixed(k):
    L = k.layers
    return k.Sequential([k.Input((4,)), L.Dense(3, dtype="mixed_float16"), L.Dense(2)])


def functions(k):
    """Operations that are no layers."""
    x = k.Input((4,))
    if k is keras:
        mean, relu = keras.ops.mean, keras.ops.relu
    else:
        mean, relu = tf.reduce_mean, tf.nn.relu
    return k.Model(x, mean(1 / (x - 20.0) + relu(-x) * x, axis=-1, keepdims=True))


KINDS = [
    *(recurrent, both_ways, cells, states, words, attention, shared, nested),
    *(model_over_time, convolutions, frozen, adapted, mixed, functions, cnn),
]
