"""Classifiers of images, points and videos whose layers own tables and kernels."""

import keras
import numpy as np
from keras import layers, ops

from corpus import Case, floats, images, labels, one_hot


class Involution(layers.Layer):
    def __init__(self, channel, group_number, kernel_size, reduction_ratio, name):
        super().__init__(name=name)
        self.channel = channel
        self.group_number = group_number
        self.kernel_size = kernel_size
        self.reduction_ratio = reduction_ratio

    def build(self, input_shape):
        _, height, width, channels = input_shape
        self.kernel_gen = keras.Sequential(
            [
                layers.Conv2D(self.channel // self.reduction_ratio, kernel_size=1),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(self.kernel_size**2 * self.group_number, kernel_size=1),
            ]
        )
        groups, size = self.group_number, self.kernel_size
        self.kernel_reshape = layers.Reshape((height, width, size * size, 1, groups))
        self.patches_reshape = layers.Reshape(
            (height, width, size * size, channels // groups, groups)
        )
        self.output_reshape = layers.Reshape((height, width, channels))

    def call(self, x):
        kernel = self.kernel_reshape(self.kernel_gen(x))
        patches = ops.image.extract_patches(
            x, size=self.kernel_size, strides=1, padding="same"
        )
        mixed = ops.sum(kernel * self.patches_reshape(patches), axis=3)
        return self.output_reshape(mixed), kernel


def involution():
    inputs = keras.Input((8, 8, 3))
    x, _ = Involution(3, 1, 3, 1, name="inv_1")(inputs)
    x = layers.MaxPooling2D((2, 2))(layers.ReLU()(x))
    x, _ = Involution(3, 1, 3, 1, name="inv_2")(x)
    x = layers.Dense(8, activation="relu")(layers.Flatten()(layers.ReLU()(x)))
    model = keras.Model(inputs, layers.Dense(3)(x), name="inv_model")
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return Case(model, (images(), labels()))


class SqueezeExcite(layers.Layer):
    def __init__(self, ratio=4, activation=lambda x: ops.relu(x) ** 2):
        super().__init__()
        self.ratio = ratio
        self.activation = activation

    def build(self, shape):
        self.squeeze = layers.Dense(shape[-1] // self.ratio, self.activation)
        self.excite = layers.Dense(shape[-1], activation="sigmoid")

    def call(self, x):
        weights = self.excite(self.squeeze(ops.mean(x, axis=(1, 2), keepdims=True)))
        return x * weights


def squeeze_excite():
    inputs = x = keras.Input((8, 8, 3))
    for filters, strides in ((8, 1), (12, 2)):
        before = layers.Conv2D(filters, 1, strides)(x)
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = layers.Activation(keras.activations.silu)(layers.BatchNormalization()(x))
        x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = SqueezeExcite()(x) + before
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    # Own loss, a plain function, and a metric that is a plain function.
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        loss=lambda y, p: -ops.mean(ops.sum(y * ops.log(p + 1e-6), axis=-1)),
        metrics=[lambda y, p: ops.max(p, axis=-1)],
    )
    return Case(model, (images(), one_hot()))


class LayerScale(layers.Layer):
    def __init__(self, init_values, projection_dim, **kwargs):
        super().__init__(**kwargs)
        self.gamma = keras.Variable(init_values * np.ones((projection_dim,), "float32"))

    def call(self, x):
        return x * self.gamma


class TalkingHeads(layers.Layer):
    """Attention whose heads are mixed by two small matrices."""

    def __init__(self, dim, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = layers.Dense(dim * 3)
        self.mix = layers.Dense(heads)
        self.mix_again = layers.Dense(heads)
        self.projection = layers.Dense(dim)

    def call(self, x, training=None):
        _, length, channels = x.shape
        shape = (-1, length, 3, self.heads, channels // self.heads)
        q, k, v = ops.unstack(ops.reshape(self.qkv(x), shape), axis=2)
        scores = ops.einsum("bqhc,bkhc->bqkh", q * self.scale, k)
        scores = ops.softmax(self.mix(scores), axis=2)
        mixed = ops.einsum("bqkh,bkhc->bqhc", self.mix_again(scores), v)
        return self.projection(ops.reshape(mixed, (-1, length, channels))), scores


class ClassAttentionNetwork(keras.Model):
    def __init__(self, dim=8, depth=2, classes=3, **kwargs):
        super().__init__(**kwargs)
        self.project = keras.Sequential(
            [layers.Conv2D(dim, 4, 4, padding="VALID"), layers.Reshape((4, dim))]
        )
        self.cls_token = keras.Variable(
            np.zeros((1, 1, dim), "float32"), name="cls_token"
        )
        self.norms = [layers.LayerNormalization() for _ in range(2 * depth)]
        self.attentions = [TalkingHeads(dim, 2) for _ in range(depth)]
        self.mlps = [
            keras.Sequential([layers.Dense(12, "gelu"), LayerScale(1e-1, 12)])
            for _ in range(depth)
        ]
        self.outs = [layers.Dense(dim) for _ in range(depth)]
        self.head = layers.Dense(classes)

    def call(self, x, training=False):
        x = self.project(x)
        token = ops.tile(self.cls_token, (ops.shape(x)[0], 1, 1))
        x = ops.concatenate([token, x], axis=1)
        for i, attention in enumerate(self.attentions):
            y, _ = attention(self.norms[2 * i](x), training=training)
            x = x + y
            x = x + self.outs[i](self.mlps[i](self.norms[2 * i + 1](x)))
        return self.head(x[:, 0])


def class_attention():
    model = ClassAttentionNetwork()
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-3, 100)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model(images())
    return Case(model, (images(), labels()))


def _squash(x, axis=-1):
    squared = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return squared / (1 + squared) * x / ops.sqrt(squared + 1e-7)


class Capsules(layers.Layer):
    def __init__(self, num_capsule, dim_capsule, routings=2, **kwargs):
        super().__init__(**kwargs)
        self.num_capsule, self.dim_capsule = num_capsule, dim_capsule
        self.routings = routings

    def build(self, input_shape):
        self.W = self.add_weight(
            shape=(self.num_capsule, input_shape[1], self.dim_capsule, input_shape[2]),
            initializer="glorot_uniform",
            name="W",
        )

    def call(self, inputs):
        votes = ops.einsum("jido,bio->bjid", self.W, inputs)
        b = ops.zeros_like(votes[..., 0])
        for i in range(self.routings):
            shares = ops.softmax(b, axis=1)
            outputs = _squash(ops.einsum("bji,bjid->bjd", shares, votes))
            if i < self.routings - 1:
                b = b + ops.einsum("bjd,bjid->bji", outputs, votes)
        return outputs


def capsules():
    def margin_loss(y_true, y_pred):
        present = y_true * ops.square(ops.maximum(0.0, 0.9 - y_pred))
        absent = 0.5 * (1 - y_true) * ops.square(ops.maximum(0.0, y_pred - 0.1))
        return ops.mean(ops.sum(present + absent, 1))

    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    x = layers.Conv2D(8, 3, strides=2)(x)
    x = layers.Lambda(_squash)(layers.Reshape((-1, 4))(x))
    x = Capsules(3, 4)(x)
    x = layers.Lambda(lambda x: ops.sqrt(ops.sum(x**2, -1) + 1e-7), name="length")(x)
    model = keras.Model(inputs, x)
    model.compile("rmsprop", loss=margin_loss)
    return Case(model, (images(), one_hot()))


class Perceiver(keras.Model):
    def __init__(self, latent_dim, projection_dim, num_blocks, classifier_units):
        super().__init__()
        self.latent_dim, self.projection_dim = latent_dim, projection_dim
        self.num_blocks, self.classifier_units = num_blocks, classifier_units

    def build(self, input_shape):
        self.latents = self.add_weight(
            shape=(self.latent_dim, self.projection_dim),
            initializer="random_normal",
            trainable=True,
        )
        self.project = layers.Dense(self.projection_dim)
        self.cross_attention = self._cross_attention(input_shape[1] * input_shape[2])
        self.self_attention = layers.MultiHeadAttention(2, self.projection_dim // 2)
        self.global_average_pooling = layers.GlobalAveragePooling1D()
        self.classification_head = keras.Sequential(
            [layers.Dense(units) for units in self.classifier_units]
        )
        super().build(input_shape)

    def _cross_attention(self, length):
        latents = keras.Input((self.latent_dim, self.projection_dim))
        data = keras.Input((length, self.projection_dim))
        x = layers.LayerNormalization(epsilon=1e-6)(latents)
        query, key = layers.Dense(8)(x), layers.Dense(8)(data)
        value = layers.Dense(8)(layers.LayerNormalization(epsilon=1e-6)(data))
        x = layers.Attention(use_scale=True)([query, key, value])
        x = layers.Add()([layers.Dense(self.projection_dim)(x), latents])
        return keras.Model({"latent_array": latents, "data_array": data}, x)

    def call(self, inputs):
        data = ops.reshape(inputs, (-1, inputs.shape[1] * inputs.shape[2], 3))
        data = self.project(data)
        latents = ops.expand_dims(self.latents, 0)
        latents = ops.tile(latents, (ops.shape(inputs)[0], 1, 1))
        for _ in range(self.num_blocks):
            crossed = {"latent_array": latents, "data_array": data}
            latents = self.cross_attention(crossed)
            latents = latents + self.self_attention(latents, latents)
        return self.classification_head(self.global_average_pooling(latents))


def perceiver():
    model = Perceiver(4, 8, 2, (8, 3))
    model.compile(
        optimizer=keras.optimizers.Lamb(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
    )
    data = images(), labels()
    model.evaluate(*data, verbose=0)  # which builds it
    return Case(model, data)


class InstanceAttention(layers.Layer):
    def __init__(self, dim, regularizer=None, use_gated=False, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.regularizer = keras.regularizers.get(regularizer)
        self.use_gated = use_gated

    def build(self, shapes):
        inner, size = shapes[0][1], self.dim
        options = {"initializer": "glorot_uniform", "regularizer": self.regularizer}
        self.v = self.add_weight(shape=(inner, size), name="v", **options)
        self.w = self.add_weight(shape=(size, 1), name="w", **options)
        if self.use_gated:
            self.u = self.add_weight(shape=(inner, size), name="u", **options)

    def call(self, inputs):
        scores = ops.softmax(ops.stack([self._score(x) for x in inputs]), axis=0)
        return [scores[i] for i in range(len(inputs))]

    def _score(self, x):
        gate = ops.sigmoid(x @ self.u) if self.use_gated else 1
        return ops.tanh(x @ self.v) * gate @ self.w


def multiple_instances():
    """A bag of images; the layers are shared by all of its images."""
    inputs, embeddings = [], []
    shared = [layers.Dense(8, activation="relu"), layers.Dense(6, activation="relu")]
    for _ in range(3):
        bag = keras.Input((4, 4))
        x = layers.Flatten()(bag)
        for layer in shared:
            x = layer(x)
        inputs.append(bag)
        embeddings.append(x)
    attention = InstanceAttention(5, keras.regularizers.L2(0.01), True, name="alpha")
    weights = attention(embeddings)
    weighed = [layers.multiply([w, x]) for w, x in zip(weights, embeddings)]  # noqa: B905
    outputs = layers.Dense(2, activation="softmax")(layers.concatenate(weighed))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, ([floats(4, 4, 4) for _ in range(3)], labels(classes=2)))


class OrthogonalRegularizer(keras.regularizers.Regularizer):
    def __init__(self, num_features, l2reg=0.001):
        self.num_features = num_features
        self.l2reg = l2reg
        self.eye = ops.eye(num_features)

    def __call__(self, x):
        x = ops.reshape(x, (-1, self.num_features, self.num_features))
        product = ops.tensordot(x, x, axes=(2, 2))
        product = ops.reshape(product, (-1, self.num_features, self.num_features))
        return ops.sum(self.l2reg * ops.square(product - self.eye))


def point_net():
    def conv_bn(x, filters):
        x = layers.Conv1D(filters, kernel_size=1, padding="valid")(x)
        x = layers.BatchNormalization(momentum=0.0)(x)
        return layers.Activation("relu")(x)

    def transformed(inputs, features):
        bias = keras.initializers.Constant(np.eye(features).flatten())
        x = layers.GlobalMaxPooling1D()(conv_bn(inputs, 8))
        x = layers.Dense(8, activation="relu")(x)
        x = layers.Dense(
            features * features,
            kernel_initializer="zeros",
            bias_initializer=bias,
            activity_regularizer=OrthogonalRegularizer(features),
        )(x)
        matrix = layers.Reshape((features, features))(x)
        return layers.Dot(axes=(2, 1))([inputs, matrix])

    inputs = keras.Input((16, 3))
    x = conv_bn(transformed(inputs, 3), 6)
    x = layers.GlobalMaxPooling1D()(conv_bn(transformed(x, 6), 8))
    x = layers.Dropout(0.3)(layers.Dense(8, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, (floats(4, 16, 3), labels()))


class CentralizedRMSprop(keras.optimizers.RMSprop):
    def apply(self, grads, trainable_variables=None):
        def central(g):
            axes = list(range(len(g.shape) - 1))
            return g - ops.mean(g, axis=axes, keepdims=True) if axes else g

        super().apply([central(g) for g in grads], trainable_variables)


def video_convnet():
    """Volumes, one sigmoid, labels of shape (n,), and an optimizer of one's own."""
    inputs = keras.Input((8, 8, 4, 1))
    x = layers.Conv3D(4, kernel_size=3, activation="relu", padding="same")(inputs)
    x = layers.BatchNormalization()(layers.MaxPool3D(pool_size=2)(x))
    x = layers.GlobalAveragePooling3D()(layers.Conv3D(6, 2, activation="relu")(x))
    x = layers.Dropout(0.3)(layers.Dense(8, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x), name="3dcnn")
    model.compile(
        loss="binary_crossentropy",
        optimizer=CentralizedRMSprop(learning_rate=1e-3),
        metrics=["acc"],
        run_eagerly=True,
    )
    return Case(model, (floats(4, 8, 8, 4, 1), labels(classes=2)))


class TubeletEmbedding(layers.Layer):
    def __init__(self, embed_dim, patch_size, **kwargs):
        super().__init__(**kwargs)
        self.projection = layers.Conv3D(embed_dim, patch_size, patch_size, "VALID")
        self.flatten = layers.Reshape(target_shape=(-1, embed_dim))

    def call(self, videos):
        return self.flatten(self.projection(videos))


class PositionalEncoder(layers.Layer):
    def __init__(self, embed_dim, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim

    def build(self, input_shape):
        _, num_tokens, _ = input_shape
        self.position_embedding = layers.Embedding(num_tokens, self.embed_dim)
        self.positions = ops.arange(0, num_tokens, 1)

    def call(self, encoded_tokens):
        return encoded_tokens + self.position_embedding(self.positions)


def video_transformer():
    inputs = keras.Input((4, 8, 8, 1))
    x = PositionalEncoder(8)(TubeletEmbedding(8, (2, 4, 4))(inputs))
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Add()([layers.MultiHeadAttention(2, 4, dropout=0.1)(y, y), x])
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    feed_forward = keras.Sequential(
        [layers.Dense(16, keras.ops.gelu), layers.Dense(8, keras.ops.gelu)]
    )
    x = layers.Add()([feed_forward(y), x])
    x = layers.GlobalAvgPool1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, (floats(4, 4, 8, 8, 1), labels()))


MODELS = {
    f.__name__: f
    for f in (
        involution,
        squeeze_excite,
        class_attention,
        capsules,
        perceiver,
        multiple_instances,
        point_net,
        video_convnet,
        video_transformer,
    )
}
