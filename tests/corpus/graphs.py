"""Graph networks: matrices that are no weights, kernels made by `add_weight`."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from corpus import Case, floats, labels, tokens

NODES = 8
EDGES = np.stack([np.arange(NODES), (np.arange(NODES) * 3 + 1) % NODES])


def _adjacency():
    matrix = np.eye(NODES, dtype="float32")
    matrix[EDGES[0], EDGES[1]] = matrix[EDGES[1], EDGES[0]] = 1
    return matrix / matrix.sum(1, keepdims=True)


class GraphConv(layers.Layer):
    def __init__(self, units, adjacency, activation=None):
        super().__init__()
        self.units = units
        self.adjacency = adjacency  # a numpy array
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), initializer="glorot_uniform"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, x):
        x = ops.matmul(self.adjacency, ops.matmul(x, self.kernel))
        return self.activation(x + self.bias)


def graph_convolutions():
    inputs = keras.Input((NODES, 5))
    x = layers.Dropout(0.2)(GraphConv(8, _adjacency(), "relu")(inputs))
    x = GraphConv(6, _adjacency(), lambda v: ops.maximum(v, 0.1 * v))(x)
    x = layers.Dense(8, activation="relu")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, (floats(6, NODES, 5), labels(6)))


def _feed_forward(hidden_units, dropout_rate, name=None):
    fnn_layers = []
    for units in hidden_units:
        fnn_layers.append(layers.BatchNormalization())
        fnn_layers.append(layers.Dropout(dropout_rate))
        fnn_layers.append(layers.Dense(units, activation=ops.gelu))
    return keras.Sequential(fnn_layers, name=name)


class MessageConv(layers.Layer):
    def __init__(self, hidden_units, dropout_rate=0.2, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ffn_prepare = _feed_forward(hidden_units, dropout_rate)
        self.update_fn = _feed_forward(hidden_units, dropout_rate)

    def build(self, input_shape):
        nodes = input_shape[0]
        self.ffn_prepare.build(nodes)
        self.update_fn.build((None, nodes[-1] + self.ffn_prepare.layers[-1].units))

    def call(self, inputs):
        nodes, edges, weights = inputs
        messages = self.ffn_prepare(ops.take(nodes, edges[1], axis=0))
        messages = messages * ops.expand_dims(weights, -1)
        gathered = tf.math.unsorted_segment_mean(messages, edges[0], NODES)
        x = self.update_fn(ops.concatenate([nodes, gathered], axis=1))
        return ops.normalize(x, axis=-1, order=2)


class NodeClassifier(keras.Model):
    """The graph is held by the model; its inputs are numbers of nodes."""

    def __init__(self, graph_info, num_classes, hidden_units, *args, **kwargs):
        super().__init__(*args, **kwargs)
        node_features, edges, edge_weights = graph_info
        self.node_features = node_features
        self.edges = edges
        self.edge_weights = edge_weights / tf.math.reduce_sum(edge_weights)
        self.preprocess = _feed_forward(hidden_units, 0.2, name="preprocess")
        self.conv1 = MessageConv(hidden_units, name="graph_conv1")
        self.conv2 = MessageConv(hidden_units, name="graph_conv2")
        self.postprocess = _feed_forward(hidden_units, 0.2, name="postprocess")
        self.compute_logits = layers.Dense(num_classes, name="logits")

    def call(self, input_node_indices):
        x = self.preprocess(self.node_features)
        x = self.conv1((x, self.edges, self.edge_weights)) + x
        x = self.conv2((x, self.edges, self.edge_weights)) + x
        x = ops.take(self.postprocess(x), input_node_indices, axis=0)
        return self.compute_logits(x)


def node_classifier():
    graph = tf.constant(floats(NODES, 6)), EDGES, tf.ones(NODES)
    model = NodeClassifier(graph, 3, [6, 6], name="gnn_model")
    nodes = np.arange(6)
    model(nodes)
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
    )
    return Case(model, (nodes, labels(6)))


class GraphAttention(layers.Layer):
    def __init__(self, units, kernel_regularizer=None, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[0][-1], self.units),
            trainable=True,
            regularizer=self.kernel_regularizer,
            name="kernel",
        )
        self.kernel_attention = self.add_weight(
            shape=(self.units * 2, 1), trainable=True, name="kernel_attention"
        )
        self.built = True

    def call(self, inputs):
        node_states, edges = inputs
        x = ops.matmul(node_states, self.kernel)
        pairs = ops.reshape(ops.take(x, edges, axis=0), (ops.shape(edges)[0], -1))
        scores = ops.leaky_relu(ops.matmul(pairs, self.kernel_attention))
        scores = ops.exp(ops.clip(ops.squeeze(scores, -1), -2, 2))
        total = ops.segment_sum(scores, edges[:, 0], NODES)
        scores = scores / ops.take(total + 1e-6, edges[:, 0])
        neighbours = ops.take(x, edges[:, 1], axis=0) * scores[:, None]
        return ops.segment_sum(neighbours, edges[:, 0], NODES)


class MultiHeadGraphAttention(layers.Layer):
    def __init__(self, units, num_heads=2, **kwargs):
        super().__init__(**kwargs)
        self.attention_layers = [GraphAttention(units) for _ in range(num_heads)]

    def call(self, inputs):
        atom_features, pair_indices = inputs
        heads = [a([atom_features, pair_indices]) for a in self.attention_layers]
        return ops.relu(ops.concatenate(heads, axis=-1))


class AttentionNetwork(keras.Model):
    def __init__(self, node_states, edges, hidden, heads, num_layers, output_dim):
        super().__init__()
        self.node_states, self.edges = node_states, edges
        self.preprocess = layers.Dense(hidden * heads, activation="relu")
        self.attention_layers = [
            MultiHeadGraphAttention(hidden, heads) for _ in range(num_layers)
        ]
        self.output_layer = layers.Dense(output_dim)

    def call(self, inputs):
        node_states, edges = inputs
        x = self.preprocess(node_states)
        for layer in self.attention_layers:
            x = layer([x, edges]) + x
        return self.output_layer(x)

    def train_step(self, data):
        indices, target = data
        with tf.GradientTape() as tape:
            outputs = self([self.node_states, self.edges])
            loss = self.compute_loss(y=target, y_pred=ops.take(outputs, indices, 0))
        grads = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights, strict=True))
        return {"loss": loss}


def graph_attention():
    nodes, edges = floats(NODES, 5), EDGES.T.copy()
    model = AttentionNetwork(nodes, edges, 4, 2, 2, 3)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
    )
    model([nodes, edges])
    # `fit` takes numbers of nodes; the model itself a graph, all of which has labels.
    scoring = ([nodes, edges], labels(NODES))
    return Case(model, (np.arange(6), labels(6)), scoring=scoring)


class EdgeNetwork(layers.Layer):
    def build(self, input_shape):
        self.atom_dim, self.bond_dim = input_shape[0][-1], input_shape[1][-1]
        self.kernel = self.add_weight(
            shape=(self.bond_dim, self.atom_dim * self.atom_dim),
            initializer="glorot_uniform",
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(self.atom_dim * self.atom_dim,), initializer="zeros", name="bias"
        )
        self.built = True

    def call(self, inputs):
        atoms, bonds = inputs
        bonds = ops.matmul(bonds, self.kernel) + self.bias
        shape = (-1, NODES, NODES, self.atom_dim, self.atom_dim)
        return ops.einsum("bijcd,bjd->bic", ops.reshape(bonds, shape), atoms)


class MessagePassing(layers.Layer):
    def __init__(self, units, steps=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.steps = steps

    def build(self, input_shape):
        self.message_step = EdgeNetwork()
        self.pad_length = max(0, self.units - input_shape[0][-1])
        self.update_step = layers.GRUCell(self.units)
        self.built = True

    def call(self, inputs):
        atoms, bonds = inputs
        x = ops.pad(atoms, [(0, 0), (0, 0), (0, self.pad_length)])
        for _ in range(self.steps):
            messages = ops.reshape(self.message_step([x, bonds]), (-1, self.units))
            x, _ = self.update_step(messages, ops.reshape(x, (-1, self.units)))
            x = ops.reshape(x, (-1, NODES, self.units))
        return x


def message_passing():
    atoms = layers.Input((NODES, 3), name="atom_features")
    bonds = layers.Input((NODES, NODES, 2), name="bond_features")
    x = MessagePassing(4)([atoms, bonds])
    y = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    x = layers.Dense(8, activation="relu")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model([atoms, bonds], layers.Dense(1, activation="sigmoid")(x))
    model.compile(
        loss=keras.losses.BinaryCrossentropy(),
        optimizer=keras.optimizers.Adam(learning_rate=5e-4),
        metrics=[keras.metrics.AUC(name="AUC")],
    )
    x = [floats(4, NODES, 3), floats(4, NODES, NODES, 2)]
    return Case(model, (x, labels(classes=2)))


class TrafficConv(layers.Layer):
    """A bare variable of TensorFlow is its weight."""

    def __init__(self, in_feat, out_feat, adjacency, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.adjacency = adjacency
        initial = keras.initializers.GlorotUniform(3)((in_feat, out_feat))
        self.weight = tf.Variable(initial_value=initial, trainable=True)
        self.activation = layers.Activation(activation)

    def call(self, features):
        x = ops.einsum("nm,btmf->btnf", self.adjacency, features)
        return self.activation(ops.matmul(x, self.weight))


class TrafficForecast(layers.Layer):
    def __init__(self, in_feat, out_feat, lstm_units, steps, adjacency, **kwargs):
        super().__init__(**kwargs)
        self.graph_conv = TrafficConv(in_feat, out_feat, adjacency, "relu")
        self.lstm = layers.LSTM(lstm_units, activation="relu")
        self.dense = layers.Dense(steps)
        self.out_feat = out_feat

    def call(self, inputs):
        x = ops.transpose(self.graph_conv(inputs), (0, 2, 1, 3))
        n, nodes, steps = ops.shape(x)[0], NODES, inputs.shape[1]
        x = self.lstm(ops.reshape(x, (n * nodes, steps, self.out_feat)))
        return ops.transpose(ops.reshape(self.dense(x), (n, nodes, -1)), (0, 2, 1))


def traffic():
    inputs = layers.Input((5, NODES, 1))
    x = TrafficForecast(1, 4, 6, 2, _adjacency())(inputs)
    model = keras.models.Model(inputs, x)
    model.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=0.0002),
        loss=keras.losses.MeanSquaredError(),
    )
    return Case(model, (floats(4, 5, NODES, 1), floats(4, 2, NODES)))


def node_embeddings():
    """One table for two inputs, by their names."""
    inputs = {
        "target": layers.Input(name="target", shape=(), dtype="int32"),
        "context": layers.Input(name="context", shape=(), dtype="int32"),
    }
    embed_item = layers.Embedding(
        input_dim=NODES,
        output_dim=6,
        embeddings_initializer="he_normal",
        embeddings_regularizer=keras.regularizers.l2(1e-6),
        name="item_embeddings",
    )
    pair = embed_item(inputs["target"]), embed_item(inputs["context"])
    logits = layers.Dot(axes=1, normalize=False, name="dot_similarity")(pair)
    model = keras.Model(inputs=inputs, outputs=logits)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    x = {name: tokens(6, 1, NODES)[:, 0] for name in ("context", "target")}
    x["target"] = x["target"][::-1].copy()
    return Case(model, (x, labels(6, 2), np.linspace(1, 2, 6, dtype="float32")))


MODELS = {
    f.__name__: f
    for f in (
        graph_convolutions,
        node_classifier,
        graph_attention,
        message_passing,
        traffic,
        node_embeddings,
    )
}
