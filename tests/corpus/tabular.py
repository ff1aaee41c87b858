"""Tables: dicts of columns, lookups, gates, trees and towers."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from corpus import Case, floats, labels, tokens

KINDS = ("red", "green", "blue")
NUMBERS = ("age", "hours")
COLORS, CITIES = "color", "city"


def _table(strings=True):
    table = {name: floats(6, 1) + i for i, name in enumerate(NUMBERS)}
    for i, name in enumerate((COLORS, CITIES)):
        kinds = np.roll(np.arange(6) % 3, i)[:, None]
        table[name] = tf.constant(np.array(KINDS)[kinds].tolist()) if strings else kinds
    return table


def _columns(strings=True):
    kind = "string" if strings else "int64"
    inputs = {name: keras.Input((1,), name=name) for name in NUMBERS}
    names = COLORS, CITIES
    return inputs | {n: keras.Input((1,), name=n, dtype=kind) for n in names}


def wide_and_deep():
    inputs, table = _columns(), _table()
    wide, deep = [], []
    for name, column in inputs.items():
        if name in NUMBERS:
            normalize = layers.Normalization(axis=None)
            normalize.adapt(table[name])
            deep.append(normalize(column))
            wide.append(deep[-1])
        else:
            lookup = layers.StringLookup(vocabulary=list(KINDS))
            index = lookup(column)
            size = lookup.vocabulary_size()
            encode = layers.CategoryEncoding(num_tokens=size, output_mode="one_hot")
            wide.append(encode(index))
            deep.append(layers.Flatten()(layers.Embedding(size, 2)(index)))
    wide = layers.BatchNormalization()(layers.concatenate(wide))
    deep = layers.concatenate(deep)
    for units in (8, 6):
        deep = layers.Dense(units)(deep)
        deep = layers.ReLU()(layers.BatchNormalization()(deep))
        deep = layers.Dropout(0.2)(deep)
    merged = layers.concatenate([wide, deep])
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(merged))
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    return Case(model, (table, labels(6, 2)))


class Cross(layers.Layer):
    """x0 * (W x + b) + x, with a matrix of its own."""

    def build(self, shapes):
        units = shapes[0][-1]
        self.w = self.add_weight(shape=(units, units), initializer="he_normal")
        self.b = self.add_weight(shape=(units,), initializer="zeros")

    def call(self, inputs):
        x0, x = inputs
        return x0 * (ops.matmul(x, self.w) + self.b) + x


def deep_and_cross():
    space = keras.utils.FeatureSpace(
        features={
            "age": keras.utils.FeatureSpace.float_normalized(),
            "hours": keras.utils.FeatureSpace.float_discretized(num_bins=3),
            "color": keras.utils.FeatureSpace.string_categorical(num_oov_indices=1),
            "city": keras.utils.FeatureSpace.string_categorical(output_mode="one_hot"),
        },
        output_mode="concat",
    )
    table = _table()
    space.adapt(tf.data.Dataset.from_tensor_slices(table).batch(2))
    x0 = space.get_encoded_features()
    cross = x0
    for _ in range(2):
        cross = Cross()([x0, cross])
    deep = layers.Dense(8, activation="relu")(x0)
    x = layers.concatenate([cross, layers.Dropout(0.5)(deep)])
    predictions = layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model(inputs=space.get_inputs(), outputs=predictions)
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return Case(model, (table, labels(6, 2)))


def tab_transformer():
    def mlp(hidden_units, dropout_rate, activation, normalization_layer, name=None):
        blocks = []
        for units in hidden_units:
            blocks.append(normalization_layer())
            blocks.append(layers.Dense(units, activation=activation))
            blocks.append(layers.Dropout(dropout_rate))
        return keras.Sequential(blocks, name=name)

    inputs = _columns()
    encoded = []
    for name in (COLORS, CITIES):
        index = layers.StringLookup(vocabulary=list(KINDS), num_oov_indices=0)(
            inputs[name]
        )
        encoded.append(layers.Embedding(3, 4)(index))
    x = ops.concatenate(encoded, axis=1)
    x = x + layers.Embedding(2, 4)(ops.arange(start=0, stop=2, step=1))
    for i in range(2):
        y = layers.MultiHeadAttention(2, 4, dropout=0.1, name=f"attention_{i}")(x, x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
        norm = layers.LayerNormalization
        y = mlp([4], 0.1, keras.activations.gelu, norm, name=f"feedforward_{i}")(x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
    numbers = layers.concatenate([inputs[name] for name in NUMBERS])
    numbers = layers.LayerNormalization(epsilon=1e-6)(numbers)
    x = layers.concatenate([layers.Flatten()(x), numbers])
    x = mlp([8, 6], 0.2, keras.activations.selu, layers.BatchNormalization, "MLP")(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy")],
    )
    weights = np.linspace(0.5, 1.5, 6, dtype="float32")
    return Case(model, (_table(), labels(6, 2)[:, None], weights))


class GatedLinearUnit(layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.linear = layers.Dense(units)
        self.sigmoid = layers.Dense(units, activation="sigmoid")

    def call(self, inputs):
        return self.linear(inputs) * self.sigmoid(inputs)


class GatedResidualNetwork(layers.Layer):
    def __init__(self, units, dropout_rate):
        super().__init__()
        self.units = units
        self.elu_dense = layers.Dense(units, activation="elu")
        self.linear_dense = layers.Dense(units)
        self.dropout = layers.Dropout(dropout_rate)
        self.gated_linear_unit = GatedLinearUnit(units)
        self.layer_norm = layers.LayerNormalization()
        self.project = layers.Dense(units)

    def call(self, inputs):
        x = self.dropout(self.linear_dense(self.elu_dense(inputs)))
        if inputs.shape[-1] != self.units:
            inputs = self.project(inputs)
        return self.layer_norm(inputs + self.gated_linear_unit(x))


class VariableSelection(layers.Layer):
    def __init__(self, num_features, units, dropout_rate):
        super().__init__()
        self.grns = []
        for _ in range(num_features):
            self.grns.append(GatedResidualNetwork(units, dropout_rate))
        self.grn_concat = GatedResidualNetwork(units, dropout_rate)
        self.softmax = layers.Dense(units=num_features, activation="softmax")

    def call(self, inputs):
        v = self.grn_concat(layers.concatenate(inputs))
        v = ops.expand_dims(self.softmax(v), axis=-1)
        x = [grn(column) for grn, column in zip(self.grns, inputs, strict=True)]
        x = ops.stack(x, axis=1)
        return ops.squeeze(ops.matmul(ops.transpose(v, axes=[0, 2, 1]), x), axis=1)


def variable_selection():
    inputs = _columns(strings=False)
    features = []
    for name, column in inputs.items():
        if name in NUMBERS:
            features.append(layers.Dense(4)(column))
        else:
            embedded = layers.Embedding(3, 4)(column)
            features.append(layers.Reshape((4,))(embedded))
    x = VariableSelection(len(features), 4, 0.1)(features)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=1e-3),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy")],
    )
    return Case(model, (_table(strings=False), labels(6, 2)))


class NeuralTree(keras.Model):
    def __init__(self, depth, num_features, used_features_rate, num_classes):
        super().__init__()
        self.depth = depth
        self.num_leaves = 2**depth
        self.num_classes = num_classes
        used = int(num_features * used_features_rate)
        chosen = np.random.default_rng(0).choice(num_features, used, replace=False)
        # No weight: a constant matrix that picks features.
        self.used_features_mask = np.eye(num_features, dtype="float32")[chosen]
        self.pi = self.add_weight(
            initializer="random_normal",
            shape=[self.num_leaves, num_classes],
            dtype="float32",
            trainable=True,
        )
        self.decision_fn = layers.Dense(self.num_leaves, "sigmoid", name="decision")

    def call(self, features):
        n = ops.shape(features)[0]
        features = ops.matmul(features, ops.transpose(self.used_features_mask))
        decisions = ops.expand_dims(self.decision_fn(features), axis=2)
        decisions = layers.concatenate([decisions, 1 - decisions], axis=2)
        mu = ops.ones([n, 1, 1])
        begin, end = 1, 2
        for level in range(self.depth):
            mu = ops.reshape(mu, [n, -1, 1])
            mu = ops.tile(mu, (1, 1, 2)) * decisions[:, begin:end, :]
            begin, end = end, end + 2 ** (level + 1)
        mu = ops.reshape(mu, [n, self.num_leaves])
        return ops.matmul(mu, keras.activations.softmax(self.pi))


class NeuralForest(keras.Model):
    def __init__(self, num_trees, depth, num_features, rate, num_classes):
        super().__init__()
        self.ensemble = []
        for _ in range(num_trees):
            self.ensemble.append(NeuralTree(depth, num_features, rate, num_classes))
        self.num_classes = num_classes

    def call(self, inputs):
        outputs = ops.zeros([ops.shape(inputs)[0], self.num_classes])
        for tree in self.ensemble:
            outputs += tree(inputs)
        return outputs / len(self.ensemble)


def decision_forest():
    """Models in a list within a model, which is a layer in a graph."""
    inputs = _columns(strings=False)
    one_hot = layers.CategoryEncoding(3, "one_hot")
    features = [inputs[n] if n in NUMBERS else one_hot(inputs[n]) for n in inputs]
    x = layers.BatchNormalization()(layers.concatenate(features))
    outputs = NeuralForest(3, 2, x.shape[-1], 0.75, 2)(x)
    model = keras.Model(inputs=inputs, outputs=outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    return Case(model, (_table(strings=False), labels(6, 2)))


class ObliviousTrees(layers.Layer):
    """Soft trees all of whose weights are its own."""

    def __init__(self, num_trees, depth):
        super().__init__()
        self.num_trees, self.depth = num_trees, depth
        # Which way each leaf goes at each level: a list, no weight.
        self.ways = [[leaf >> d & 1 for d in range(depth)] for leaf in range(2**depth)]

    def build(self, shape):
        trees, depth = self.num_trees, self.depth
        self.selection = self.add_weight(shape=(shape[-1], trees, depth), name="select")
        self.threshold = self.add_weight(shape=(trees, depth), name="threshold")
        self.response = self.add_weight(shape=(trees, 2**depth), name="response")

    def call(self, x):
        chosen = ops.einsum("bf,ftd->btd", x, ops.softmax(self.selection, axis=0))
        right = ops.sigmoid(4 * (chosen - self.threshold))[:, :, None]
        way = ops.convert_to_tensor(self.ways, dtype="float32")
        share = ops.prod(right * way + (1 - right) * (1 - way), axis=-1)
        return ops.sum(share * self.response, axis=-1)


def oblivious_trees():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.BatchNormalization(),
            layers.Dense(6),
            ObliviousTrees(4, 2),
            layers.Dense(1),
        ]
    )
    model.compile("adam", loss=keras.losses.Huber(delta=0.5))
    return Case(model, (floats(6, 5), floats(6, 1)))


class Tower(keras.Model):
    def __init__(self, count, width=4):
        super().__init__()
        self.table = layers.Embedding(count, width)
        self.dense = layers.Dense(width, activation="relu")
        self.project = layers.Dense(width)

    def call(self, ids):
        return ops.normalize(self.project(self.dense(self.table(ids))), axis=-1)


class TwoTowers(keras.Model):
    """Every other item of the batch is a negative one."""

    def __init__(self, users, items):
        super().__init__()
        self.user_tower, self.item_tower = Tower(users), Tower(items)
        self.temperature = self.add_weight(shape=(), initializer="ones")

    def call(self, features):
        user, item = features["user"], features["item"]
        return {"user": self.user_tower(user), "item": self.item_tower(item)}

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        scores = ops.matmul(y_pred["user"], ops.transpose(y_pred["item"]))
        each = ops.arange(ops.shape(scores)[0])
        return ops.mean(
            keras.losses.sparse_categorical_crossentropy(
                each, scores * ops.exp(self.temperature), from_logits=True
            )
        )


def two_towers():
    model = TwoTowers(6, 8)
    model.compile(keras.optimizers.Adagrad(0.1))
    x = {"user": np.arange(6), "item": tokens(6, 1, 8)[:, 0]}
    model(x)
    return Case(model, (x,))


class Recommender(keras.Model):
    def __init__(self, num_users, num_movies, embedding_size, **kwargs):
        super().__init__(**kwargs)
        options = {
            "embeddings_initializer": "he_normal",
            "embeddings_regularizer": keras.regularizers.l2(1e-6),
        }
        self.user_embedding = layers.Embedding(num_users, embedding_size, **options)
        self.user_bias = layers.Embedding(num_users, 1)
        self.movie_embedding = layers.Embedding(num_movies, embedding_size, **options)
        self.movie_bias = layers.Embedding(num_movies, 1)

    def call(self, inputs):
        user, movie = (
            self.user_embedding(inputs[:, 0]),
            self.movie_embedding(inputs[:, 1]),
        )
        x = ops.sum(user * movie, axis=1, keepdims=True)
        x = x + self.user_bias(inputs[:, 0]) + self.movie_bias(inputs[:, 1])
        return ops.nn.sigmoid(x)


def collaborative_filtering():
    model = Recommender(6, 8, 4)
    model.compile(
        loss=keras.losses.BinaryCrossentropy(),
        optimizer=keras.optimizers.Adam(learning_rate=0.001),
    )
    x = tokens(6, 2, 6)
    model(x)
    return Case(model, (x, np.linspace(0, 1, 6, dtype="float32")))


class RandomFeatures(layers.Layer):
    """A fixed random map, and a scale that trains."""

    def __init__(self, output_dim, scale=1.0, trainable=True, name=None):
        super().__init__(trainable=trainable, name=name)
        self.output_dim, self.scale = output_dim, scale

    def build(self, shape):
        self.unscaled = self.add_weight(
            shape=(shape[-1], self.output_dim),
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=0),
            trainable=False,
            name="unscaled_kernel",
        )
        self.kernel_scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(self.scale)
        )

    def call(self, x):
        return ops.cos(ops.matmul(x, self.unscaled / self.kernel_scale))


def support_vectors():
    model = keras.Sequential(
        [
            keras.Input(shape=(5,)),
            RandomFeatures(output_dim=16, scale=2.0),
            layers.Dense(units=3),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=1e-3),
        loss=keras.losses.hinge,
        metrics=[keras.metrics.CategoricalAccuracy(name="acc")],
    )
    return Case(model, (floats(6, 5), np.eye(3, dtype="float32")[labels(6)]))


MODELS = {
    f.__name__: f
    for f in (
        wide_and_deep,
        deep_and_cross,
        tab_transformer,
        variable_selection,
        decision_forest,
        oblivious_trees,
        two_towers,
        collaborative_filtering,
        support_vectors,
    )
}
