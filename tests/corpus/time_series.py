"""Series and videos: recurrent, convolutional, with states and cells of one's own."""

import keras
from keras import layers, ops

from corpus import Case, floats, images, labels

STEPS = 10


def causal_convolutions():
    """Dilated, gated, with skips, as in WaveNet."""
    inputs = keras.Input((STEPS, 2))
    x = layers.Conv1D(6, 2, padding="causal")(inputs)
    skips = []
    for i in range(3):
        options = {"dilation_rate": 2**i, "padding": "causal"}
        gate = layers.Conv1D(6, 2, activation="sigmoid", **options)(x)
        y = layers.Conv1D(6, 2, activation="tanh", **options)(x) * gate
        y = layers.SpatialDropout1D(0.1)(y)
        skips.append(layers.Conv1D(6, 1)(y))
        x = layers.Add()([x, layers.Conv1D(6, 1)(y)])
    x = layers.ReLU()(layers.Add()(skips))
    x = layers.Conv1D(6, 1, activation="relu")(x)
    model = keras.Model(inputs, layers.Conv1D(1, 1)(x))
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0), loss="mse")
    return Case(model, (floats(4, STEPS, 2), floats(4, STEPS, 1)))


def stateful_lstm():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(4, STEPS, 2)),
            layers.LSTM(6, stateful=True, return_sequences=True),
            layers.LSTM(6, stateful=True),
            layers.Dense(1),
        ]
    )
    model.compile(loss="mse", optimizer="rmsprop")
    return Case(model, (floats(4, STEPS, 2), floats(4, 1)))


def weather_lstm():
    inputs = keras.layers.Input(shape=(STEPS, 3))
    lstm_out = keras.layers.LSTM(6, recurrent_dropout=0.1)(inputs)
    model = keras.Model(inputs=inputs, outputs=keras.layers.Dense(1)(lstm_out))
    # Labels of shape (n,) for an output of shape (n, 1).
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=1e-3), loss="mse")
    return Case(model, (floats(4, STEPS, 3), floats(4)))


def next_frames():
    inputs = layers.Input(shape=(None, 8, 8, 1))
    x = inputs
    for size in (3, 1):
        x = layers.ConvLSTM2D(
            filters=4,
            kernel_size=(size, size),
            padding="same",
            return_sequences=True,
            activation="relu",
        )(x)
        x = layers.BatchNormalization()(x)
    x = layers.Conv3D(1, (3, 3, 3), activation="sigmoid", padding="same")(x)
    model = keras.models.Model(inputs, x)
    model.compile(loss=keras.losses.binary_crossentropy, optimizer="adam")
    frames = images(8, 8, 1).reshape(2, 4, 8, 8, 1)
    return Case(model, (frames, frames[:, ::-1].copy()))


def series_transformer():
    inputs = x = keras.Input(shape=(STEPS, 2))
    for _ in range(2):
        y = layers.MultiHeadAttention(key_dim=4, num_heads=2, dropout=0.1)(x, x)
        residual = layers.LayerNormalization(epsilon=1e-6)(layers.Dropout(0.1)(y)) + x
        y = layers.Conv1D(filters=4, kernel_size=1, activation="relu")(residual)
        y = layers.Conv1D(filters=x.shape[-1], kernel_size=1)(layers.Dropout(0.1)(y))
        x = layers.LayerNormalization(epsilon=1e-6)(y) + residual
    x = layers.GlobalAveragePooling1D(data_format="channels_last")(x)
    x = layers.Dropout(0.1)(layers.Dense(8, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile(
        loss="sparse_categorical_crossentropy",
        optimizer=keras.optimizers.Adam(learning_rate=1e-4),
        metrics=["sparse_categorical_accuracy"],
    )
    return Case(model, (floats(4, STEPS, 2), labels()))


def anomalies():
    model = keras.Sequential([layers.Input(shape=(16, 1))])
    options = {"padding": "same", "strides": 2, "activation": "relu"}
    model.add(layers.Conv1D(filters=8, kernel_size=5, **options))
    model.add(layers.Dropout(rate=0.2))
    model.add(layers.Conv1D(filters=4, kernel_size=5, **options))
    model.add(layers.Conv1DTranspose(filters=4, kernel_size=5, **options))
    model.add(layers.Dropout(rate=0.2))
    model.add(layers.Conv1DTranspose(filters=8, kernel_size=5, **options))
    model.add(layers.Conv1DTranspose(filters=1, kernel_size=5, padding="same"))
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=0.001), loss="mse")
    return Case(model, (floats(4, 16, 1), floats(4, 16, 1)))


def convolutional_classifier():
    inputs = x = keras.layers.Input((STEPS, 1))
    for _ in range(3):
        x = keras.layers.Conv1D(filters=6, kernel_size=3, padding="same")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    outputs = keras.layers.Dense(3, activation="softmax")(x)
    model = keras.models.Model(inputs=inputs, outputs=outputs)
    model.compile(
        optimizer="adam",
        loss="sparse_categorical_crossentropy",
        metrics=["sparse_categorical_accuracy"],
        steps_per_execution=2,
    )
    return Case(model, (floats(4, STEPS, 1), labels()))


class MinimalCell(layers.Layer):
    """A cell with weights of its own; `RNN` runs it over the series."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), initializer="uniform", name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, self.units), initializer="uniform", name="recurrent"
        )

    def call(self, inputs, states):
        h = ops.matmul(inputs, self.kernel)
        output = ops.tanh(h + ops.matmul(states[0], self.recurrent_kernel))
        return output, [output]


def own_cells():
    inputs = keras.Input((STEPS, 2))
    x = layers.RNN(MinimalCell(6), return_sequences=True)(inputs)
    x = layers.RNN([layers.GRUCell(6), layers.LSTMCell(4)])(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    model.compile("nadam", keras.losses.LogCosh())
    return Case(model, (floats(4, STEPS, 2), floats(4, 2)))


class TrendBlock(layers.Layer):
    def __init__(self, units, theta, horizon, **kwargs):
        super().__init__(**kwargs)
        self.hidden = [layers.Dense(units, activation="relu") for _ in range(3)]
        self.theta_layer = layers.Dense(theta, activation="linear")
        self.horizon = horizon

    def call(self, inputs):
        x = inputs
        for layer in self.hidden:
            x = layer(x)
        theta = self.theta_layer(x)
        return theta[:, : -self.horizon], theta[:, -self.horizon :]


def doubly_residual():
    """Blocks that pass on what they do not explain; a loss made by a function."""

    def pinball(quantile):
        def loss(y, p):
            error = y - p
            worse = ops.maximum(quantile * error, (quantile - 1) * error)
            return ops.mean(worse, axis=-1)

        return loss

    inputs = keras.Input((STEPS,), name="stack_input")
    residuals, forecast = TrendBlock(8, STEPS + 2, 2, name="initial")(inputs)
    for i in range(2):
        backcast, block = TrendBlock(8, STEPS + 2, 2, name=f"block_{i}")(residuals)
        residuals = layers.subtract([residuals, backcast], name=f"subtract_{i}")
        forecast = layers.add([forecast, block], name=f"add_{i}")
    model = keras.Model(inputs, forecast, name="stack")
    model.compile(keras.optimizers.Adam(), loss=pinball(0.9), metrics=["mae", "mse"])
    return Case(model, (floats(4, STEPS), floats(4, 2)))


MODELS = {
    f.__name__: f
    for f in (
        causal_convolutions,
        stateful_lstm,
        weather_lstm,
        next_frames,
        series_transformer,
        anomalies,
        convolutional_classifier,
        own_cells,
        doubly_residual,
    )
}
