"""Image classifiers: transformers, mixers, convolutions with blocks of one's own."""

import keras
import numpy as np
from keras import layers, ops

from corpus import Case, images, labels, one_hot

CLASSES = 3


def _logits(model, optimizer="adamw", metrics=("accuracy",)):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=list(metrics))
    return Case(model, (images(), labels()))


def convnet():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(8, 2, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["acc"])
    return Case(model, (images(channels=1), one_hot()))


def xception():
    inputs = keras.Input((16, 16, 3))
    x = layers.Rescaling(1.0 / 255)(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    before = x
    for size in (8, 12):
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.SeparableConv2D(size, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        before = layers.Conv2D(size, 1, strides=2, padding="same")(before)
        x = before = layers.add([x, before])
    x = layers.Dropout(0.25)(layers.GlobalAveragePooling2D()(x))
    # One unit without activation, and labels of shape (n,).
    model = keras.Model(inputs, layers.Dense(1, activation=None)(x))
    model.compile(
        optimizer=keras.optimizers.Adam(3e-4),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(name="acc")],
    )
    return Case(model, (images(size=16) * 255, labels(classes=2)))


class Patches(layers.Layer):
    def __init__(self, patch_size):
        super().__init__()
        self.patch_size = patch_size

    def call(self, x):
        batch, height, width, channels = ops.shape(x)
        n = (height // self.patch_size) * (width // self.patch_size)
        patches = ops.image.extract_patches(x, size=self.patch_size)
        return ops.reshape(patches, (batch, n, self.patch_size**2 * channels))


class PatchEncoder(layers.Layer):
    def __init__(self, num_patches, projection_dim):
        super().__init__()
        self.num_patches = num_patches
        self.projection = layers.Dense(units=projection_dim)
        self.position_embedding = layers.Embedding(num_patches, projection_dim)

    def call(self, patch):
        positions = ops.expand_dims(ops.arange(0, self.num_patches, step=1), axis=0)
        return self.projection(patch) + self.position_embedding(positions)


def _mlp(x, hidden_units, dropout_rate):
    for units in hidden_units:
        x = layers.Dense(units, activation=keras.activations.gelu)(x)
        x = layers.Dropout(dropout_rate)(x)
    return x


def vision_transformer():
    augmentation = keras.Sequential(
        [
            layers.Normalization(),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(factor=0.02),
        ],
        name="data_augmentation",
    )
    augmentation.layers[0].adapt(images(16))
    inputs = keras.Input((8, 8, 3))
    x = PatchEncoder(4, 8)(Patches(4)(augmentation(inputs)))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.MultiHeadAttention(num_heads=2, key_dim=8, dropout=0.1)(y, y)
        x = layers.Add()([y, x])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([_mlp(y, [16, 8], 0.1), x])
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    x = _mlp(layers.Dropout(0.5)(x), [16], 0.5)
    return _logits(keras.Model(inputs, layers.Dense(CLASSES)(x)))


class MixerBlock(layers.Layer):
    def __init__(self, num_patches, hidden_units, dropout_rate, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mlp1 = keras.Sequential(
            [
                layers.Dense(num_patches, activation="gelu"),
                layers.Dense(num_patches),
                layers.Dropout(dropout_rate),
            ]
        )
        self.mlp2 = keras.Sequential(
            [layers.Dense(hidden_units, activation="gelu"), layers.Dense(hidden_units)]
        )
        self.normalize = layers.LayerNormalization(epsilon=1e-6)

    def call(self, inputs):
        channels = ops.transpose(self.normalize(inputs), axes=(0, 2, 1))
        mixed = ops.transpose(self.mlp1(channels), axes=(0, 2, 1))
        x = mixed + inputs
        return x + self.mlp2(self.normalize(x))


def mlp_mixer():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(8)(Patches(4)(inputs))
    x = keras.Sequential([MixerBlock(4, 8, 0.1) for _ in range(2)])(x)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    return _logits(keras.Model(inputs, layers.Dense(CLASSES)(x)))


class SpatialGating(layers.Layer):
    def __init__(self, num_patches, embedding_dim):
        super().__init__()
        self.channel_projection1 = keras.Sequential(
            [layers.Dense(embedding_dim * 2, activation="gelu")]
        )
        self.channel_projection2 = layers.Dense(embedding_dim)
        self.spatial_projection = layers.Dense(num_patches, bias_initializer="Ones")
        self.norms = (layers.LayerNormalization(), layers.LayerNormalization())

    def call(self, inputs):
        x = self.channel_projection1(self.norms[0](inputs))
        u, v = ops.split(x, indices_or_sections=2, axis=2)
        v = ops.transpose(self.norms[1](v), axes=(0, 2, 1))
        v = ops.transpose(self.spatial_projection(v), axes=(0, 2, 1))
        return inputs + self.channel_projection2(u * v)


def gated_mlp():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(8)(Patches(4)(inputs))
    x = SpatialGating(4, 8)(SpatialGating(4, 8)(x))
    x = layers.GlobalAveragePooling1D()(x)
    return _logits(keras.Model(inputs, layers.Dense(CLASSES)(x)))


def conv_mixer():
    def activation_block(x):
        return layers.BatchNormalization()(layers.Activation("gelu")(x))

    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(scale=1.0 / 255)(inputs)
    x = activation_block(layers.Conv2D(8, kernel_size=2, strides=2)(x))
    for _ in range(2):
        x0 = x
        x = layers.DepthwiseConv2D(kernel_size=3, padding="same")(x)
        x = layers.Add()([activation_block(x), x0])
        x = activation_block(layers.Conv2D(8, kernel_size=1)(x))
    x = layers.GlobalAvgPool2D()(x)
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    model.compile("adamw", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, (images() * 255, labels()))


def _windows(x, size):
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height // size, size, width // size, size, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, size, size, channels))


def _whole(windows, size, height, width, channels):
    x = ops.reshape(windows, (-1, height // size, width // size, size, size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height, width, channels))


class WindowAttention(layers.Layer):
    def __init__(self, dim, window_size, num_heads, qkv_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.window_size = window_size
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = layers.Dense(dim * 3, use_bias=qkv_bias)
        self.proj = layers.Dense(dim)
        self.relative_position_bias_table = self.add_weight(
            shape=((2 * window_size - 1) ** 2, num_heads),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            trainable=True,
            name="relative_position_bias_table",
        )
        grid = np.stack(np.meshgrid(*[range(window_size)] * 2, indexing="ij"))
        flat = grid.reshape(2, -1)
        apart = flat[:, :, None] - flat[:, None, :] + window_size - 1
        self.relative_position_index = keras.Variable(
            initializer=apart[0] * (2 * window_size - 1) + apart[1],
            shape=apart.shape[1:],
            dtype="int32",
            trainable=False,
        )

    def call(self, x):
        _, size, channels = x.shape
        per_head = channels // self.num_heads
        qkv = ops.reshape(self.qkv(x), (-1, size, 3, self.num_heads, per_head))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), axis=0)
        attention = q * self.scale @ ops.transpose(k, (0, 1, 3, 2))
        bias = ops.take(
            self.relative_position_bias_table,
            ops.reshape(self.relative_position_index, (-1,)),
            axis=0,
        )
        bias = ops.transpose(ops.reshape(bias, (size, size, -1)), (2, 0, 1))
        attention = keras.activations.softmax(attention + bias[None], axis=-1)
        x = ops.transpose(attention @ v, (0, 2, 1, 3))
        return self.proj(ops.reshape(x, (-1, size, channels)))


class DropPath(layers.Layer):
    def __init__(self, drop_prob, **kwargs):
        super().__init__(**kwargs)
        self.drop_prob = drop_prob
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, x, training=None):
        if not training:
            return x
        keep = 1 - self.drop_prob
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        drawn = keras.random.uniform(shape, 0, 1, seed=self.seed_generator)
        return x / keep * ops.floor(keep + drawn)


class ShiftedWindowBlock(layers.Layer):
    def __init__(self, dim, grid, num_heads, window_size=2, shift_size=0, **kwargs):
        super().__init__(**kwargs)
        self.grid, self.window, self.shift = grid, window_size, shift_size
        self.norm1 = layers.LayerNormalization(epsilon=1e-5)
        self.attn = WindowAttention(dim, window_size, num_heads)
        self.drop_path = DropPath(0.1)
        self.norm2 = layers.LayerNormalization(epsilon=1e-5)
        self.mlp = keras.Sequential(
            [layers.Dense(2 * dim), layers.Activation("gelu"), layers.Dense(dim)]
        )

    def call(self, x, training=False):
        channels = x.shape[-1]
        y = ops.reshape(self.norm1(x), (-1, *self.grid, channels))
        y = ops.roll(y, (-self.shift, -self.shift), axis=(1, 2))
        windows = ops.reshape(_windows(y, self.window), (-1, self.window**2, channels))
        windows = self.attn(windows)
        y = _whole(windows, self.window, *self.grid, channels)
        y = ops.roll(y, (self.shift, self.shift), axis=(1, 2))
        y = ops.reshape(y, (-1, self.grid[0] * self.grid[1], channels))
        x = x + self.drop_path(y, training=training)
        return x + self.drop_path(self.mlp(self.norm2(x)), training=training)


class PatchMerging(layers.Layer):
    def __init__(self, grid, embed_dim):
        super().__init__()
        self.grid = grid
        self.embed_dim = embed_dim
        self.linear_trans = layers.Dense(2 * embed_dim, use_bias=False)

    def call(self, x):
        height, width = self.grid
        x = ops.reshape(x, (-1, height, width, self.embed_dim))
        corners = [x[:, i::2, j::2, :] for i in range(2) for j in range(2)]
        x = ops.concatenate(corners, axis=-1)
        x = ops.reshape(x, (-1, height // 2 * (width // 2), 4 * self.embed_dim))
        return self.linear_trans(x)


def swin():
    inputs = keras.Input((8, 8, 3))
    x = PatchEncoder(16, 8)(Patches(2)(inputs))
    x = ShiftedWindowBlock(8, (4, 4), 2)(x)
    x = ShiftedWindowBlock(8, (4, 4), 2, shift_size=1)(x)
    x = layers.GlobalAveragePooling1D()(PatchMerging((4, 4), 8)(x))
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4),
        metrics=[keras.metrics.TopKCategoricalAccuracy(2, name="top-2-accuracy")],
    )
    return Case(model, (images(), one_hot()))


class ConvTokenizer(layers.Layer):
    def __init__(self, channels=(6, 8), **kwargs):
        super().__init__(**kwargs)
        self.conv_model = keras.Sequential()
        for count in channels:
            self.conv_model.add(
                layers.Conv2D(
                    count,
                    3,
                    padding="same",
                    use_bias=False,
                    activation="relu",
                    kernel_initializer="he_normal",
                )
            )
            self.conv_model.add(layers.MaxPooling2D(3, 2, "same"))

    def call(self, images):
        outputs = self.conv_model(images)
        shape = ops.shape(outputs)
        return ops.reshape(outputs, (-1, shape[1] * shape[2], shape[3]))


class PositionEmbedding(layers.Layer):
    def __init__(self, length, initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.length = length
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        self.position_embeddings = self.add_weight(
            name="embeddings",
            shape=[self.length, input_shape[-1]],
            initializer=self.initializer,
        )

    def call(self, inputs):
        return inputs + ops.convert_to_tensor(self.position_embeddings)


class SequencePooling(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = layers.Dense(1)

    def call(self, x):
        weights = ops.transpose(ops.softmax(self.attention(x), axis=1), (0, 2, 1))
        return ops.squeeze(ops.matmul(weights, x), axis=-2)


def compact_transformer():
    inputs = keras.Input((8, 8, 3))
    x = PositionEmbedding(4)(ConvTokenizer()(inputs))
    for rate in np.linspace(0, 0.1, 2):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.MultiHeadAttention(num_heads=2, key_dim=8, dropout=0.1)(y, y)
        x = layers.Add()([DropPath(rate)(y), x])
        y = _mlp(layers.LayerNormalization(epsilon=1e-5)(x), [8, 8], 0.1)
        x = layers.Add()([DropPath(rate)(y), x])
    x = SequencePooling()(layers.LayerNormalization(epsilon=1e-5)(x))
    return _logits(keras.Model(inputs, layers.Dense(CLASSES)(x)))


def external_attention():
    def attention(x, dim=8, heads=2):
        _, patches, channels = x.shape
        x = layers.Dense(dim * 2)(x)
        x = ops.reshape(x, (-1, patches, heads, dim * 2 // heads))
        x = ops.transpose(x, axes=[0, 2, 1, 3])
        weights = layers.Softmax(axis=2)(layers.Dense(4)(x))
        weights = layers.Normalization(mean=0.0, variance=1.0, axis=None)(weights)
        x = layers.Dense(dim * 2 // heads)(layers.Dropout(0.1)(weights))
        x = ops.transpose(x, axes=[0, 2, 1, 3])
        return layers.Dense(dim)(ops.reshape(x, [-1, patches, dim * 2]))

    inputs = keras.Input((8, 8, 3))
    x = PatchEncoder(4, 8)(Patches(4)(inputs))
    for _ in range(2):
        x = layers.add([x, attention(layers.LayerNormalization()(x))])
        x = layers.add([x, _mlp(layers.LayerNormalization()(x), [8, 8], 0.1)])
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))
    model.compile("adamw", keras.losses.CategoricalCrossentropy(), metrics=["accuracy"])
    return Case(model, (images(), one_hot()))


MODELS = {
    f.__name__: f
    for f in (
        convnet,
        xception,
        vision_transformer,
        mlp_mixer,
        gated_mlp,
        conv_mixer,
        swin,
        compact_transformer,
        external_attention,
    )
}
