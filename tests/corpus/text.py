"""Text: from raw strings, transformers, tied weights, sequences to sequences."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from corpus import Case, floats, labels, tokens

WORDS = 12
LENGTH = 6
SENTENCES = [
    "the plot was thin and the cast was wooden",
    "a warm and funny film",
    "dull from start to end",
    "the best film of the year and a fine cast",
]


def raw_strings():
    """Strings go in; the vocabulary is state of a layer."""
    vectorize = layers.TextVectorization(
        max_tokens=WORDS, output_mode="int", output_sequence_length=LENGTH
    )
    vectorize.adapt(SENTENCES)
    inputs = keras.Input(shape=(1,), dtype="string", name="text")
    x = layers.Dropout(0.5)(layers.Embedding(WORDS, 6)(vectorize(inputs)))
    x = layers.Conv1D(8, 3, padding="valid", activation="relu", strides=2)(x)
    x = layers.Dense(6, activation="relu")(layers.GlobalMaxPooling1D()(x))
    outputs = layers.Dense(1, activation="sigmoid", name="predictions")(x)
    model = keras.Model(inputs, outputs)
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return Case(model, (tf.constant(SENTENCES)[:, None], labels(classes=2)))


def bag_of_words():
    """Many labels a text, from one-hot counts of words."""
    vectorize = layers.TextVectorization(max_tokens=WORDS, output_mode="tf_idf")
    vectorize.adapt(SENTENCES)
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            vectorize,
            layers.Dense(8, activation="relu"),
            layers.Dense(3, activation="sigmoid"),
        ]
    )
    metrics = ["binary_accuracy", keras.metrics.AUC(multi_label=True)]
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=metrics)
    many = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]], "float32")
    return Case(model, (tf.constant(SENTENCES)[:, None], many))


def bidirectional_lstm():
    inputs = keras.Input(shape=(None,), dtype="int32")
    x = layers.Embedding(WORDS, 6, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(4))(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return Case(model, (tokens(4, LENGTH, WORDS, low=0), labels(classes=2)))


def given_embeddings():
    """A frozen table that another constructor's matrix fills."""
    table = layers.Embedding(WORDS, 6, trainable=False)
    table.build((1,))
    table.set_weights([floats(WORDS, 6)])
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Conv1D(8, 2, activation="relu")(table(inputs))
    x = layers.MaxPooling1D(2)(x)
    x = layers.Dense(6, activation="relu")(layers.GlobalMaxPooling1D()(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile(
        loss="sparse_categorical_crossentropy", optimizer="rmsprop", metrics=["acc"]
    )
    return Case(model, (tokens(4, LENGTH, WORDS), labels()))


class TransformerBlock(layers.Layer):
    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1):
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential(
            [layers.Dense(ff_dim, activation="relu"), layers.Dense(embed_dim)]
        )
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1 = layers.Dropout(rate)
        self.dropout2 = layers.Dropout(rate)

    def call(self, inputs):
        attn_output = self.dropout1(self.att(inputs, inputs))
        out1 = self.layernorm1(inputs + attn_output)
        return self.layernorm2(out1 + self.dropout2(self.ffn(out1)))


class TokenAndPosition(layers.Layer):
    def __init__(self, maxlen, vocab_size, embed_dim):
        super().__init__()
        self.token_emb = layers.Embedding(input_dim=vocab_size, output_dim=embed_dim)
        self.pos_emb = layers.Embedding(input_dim=maxlen, output_dim=embed_dim)

    def call(self, x):
        positions = ops.arange(start=0, stop=ops.shape(x)[-1], step=1)
        return self.token_emb(x) + self.pos_emb(positions)


def transformer_classifier():
    inputs = keras.Input(shape=(LENGTH,))
    x = TransformerBlock(6, 2, 8)(TokenAndPosition(LENGTH, WORDS, 6)(inputs))
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    x = layers.Dropout(0.1)(layers.Dense(6, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, (tokens(4, LENGTH, WORDS), labels(classes=2)))


class Router(layers.Layer):
    def __init__(self, num_experts, **kwargs):
        self.num_experts = num_experts
        self.route = layers.Dense(units=num_experts)
        super().__init__(**kwargs)

    def call(self, inputs, training=False):
        probabilities = ops.softmax(self.route(inputs), axis=-1)
        gate, index = ops.top_k(probabilities, k=1)
        dispatch = ops.one_hot(ops.squeeze(index, -1), self.num_experts)
        share = ops.mean(dispatch, axis=(0, 1)) * ops.mean(probabilities, axis=(0, 1))
        self.add_loss(ops.mean(share) * self.num_experts**2)
        return dispatch * gate


class Switch(layers.Layer):
    """Feed-forward experts in a list, of which each token takes one."""

    def __init__(self, num_experts, embed_dim, ff_dim):
        super().__init__()
        self.experts = [
            keras.Sequential([layers.Dense(ff_dim, "relu"), layers.Dense(embed_dim)])
            for _ in range(num_experts)
        ]
        self.router = Router(num_experts)

    def call(self, inputs):
        combine = self.router(inputs)
        outputs = ops.stack([expert(inputs) for expert in self.experts], axis=-1)
        return ops.sum(outputs * combine[:, :, None, :], axis=-1)


def switch_transformer():
    inputs = keras.Input(shape=(LENGTH,))
    x = TokenAndPosition(LENGTH, WORDS, 6)(inputs)
    y = layers.MultiHeadAttention(num_heads=2, key_dim=6)(x, x)
    x = layers.LayerNormalization()(x + y)
    x = layers.LayerNormalization()(x + Switch(3, 6, 8)(x))
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return Case(model, (tokens(4, LENGTH, WORDS), labels(classes=2)))


class MixingEncoder(layers.Layer):
    """Fourier transforms in place of attention."""

    def __init__(self, embed_dim, dense_dim, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.dense_dim = dense_dim
        self.dense_proj = keras.Sequential(
            [layers.Dense(dense_dim, activation="relu"), layers.Dense(embed_dim)]
        )
        self.layernorm_1 = layers.LayerNormalization()
        self.layernorm_2 = layers.LayerNormalization()

    def call(self, inputs):
        real, _ = ops.fft2((inputs, ops.zeros_like(inputs)))
        x = self.layernorm_1(inputs + real)
        return self.layernorm_2(x + self.dense_proj(x))


def fourier_mixing():
    inputs = keras.Input(shape=(None,), dtype="int64")
    x = TokenAndPosition(LENGTH, WORDS, 6)(inputs)
    x = layers.GlobalAveragePooling1D()(MixingEncoder(6, 8)(MixingEncoder(6, 8)(x)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return Case(model, (tokens(4, LENGTH, WORDS), labels()))


class CausalBlock(layers.Layer):
    def __init__(self, embed_dim, num_heads, ff_dim):
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads, embed_dim)
        self.ffn = keras.Sequential(
            [layers.Dense(ff_dim, activation="relu"), layers.Dense(embed_dim)]
        )
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]

    def call(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]
        i, j = ops.arange(length)[:, None], ops.arange(length)
        mask = ops.cast(i >= j - length + length, "bool")
        mask = ops.tile(mask[None], (batch, 1, 1))
        x = self.norms[0](inputs + self.att(inputs, inputs, attention_mask=mask))
        return self.norms[1](x + self.ffn(x))


def mini_gpt():
    """Two outputs, and a loss for the first one only."""
    inputs = keras.Input(shape=(LENGTH,), dtype="int32")
    x = CausalBlock(6, 2, 8)(TokenAndPosition(LENGTH, WORDS, 6)(inputs))
    outputs = layers.Dense(WORDS)(x)
    model = keras.Model(inputs=inputs, outputs=[outputs, x])
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=[loss_fn, None])
    text = tokens(4, LENGTH + 1, WORDS)
    return Case(model, (text[:, :-1], text[:, 1:]))


class TiedLanguageModel(keras.Model):
    """Its output layer is the table of its input, read as an attribute."""

    def __init__(self, vocabulary=WORDS, width=6, depth=2):
        super().__init__()
        self.embed = layers.Embedding(vocabulary, width)
        self.blocks = [CausalBlock(width, 2, 2 * width) for _ in range(depth)]
        self.norm = layers.LayerNormalization()

    def call(self, ids, training=None):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, training=training)
        return ops.matmul(self.norm(x), ops.transpose(self.embed.embeddings))

    def generate(self, ids, steps=2):
        for _ in range(steps):
            last = ops.argmax(self(ids)[:, -1:], axis=-1)
            ids = ops.concatenate([ids, ops.cast(last, ids.dtype)], axis=1)
        return ids


def tied_language_model():
    model = TiedLanguageModel()
    text = tokens(4, LENGTH + 1, WORDS)
    model(text[:, :-1])
    model.compile(
        keras.optimizers.Adam(1e-3, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0),
    )
    return Case(model, (text[:, :-1], text[:, 1:]))


def character_lstm():
    model = keras.Sequential(
        [
            keras.Input(shape=(LENGTH, WORDS)),
            layers.LSTM(8),
            layers.Dense(WORDS, activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.RMSprop(learning_rate=0.01)
    model.compile(loss="categorical_crossentropy", optimizer=optimizer)
    text = tokens(4, LENGTH + 1, WORDS)
    ones = np.eye(WORDS, dtype="bool")[text]
    return Case(model, (ones[:, :-1], ones[:, -1]))


def addition_rnn():
    model = keras.Sequential([layers.Input((LENGTH, WORDS)), layers.LSTM(6)])
    model.add(layers.RepeatVector(3))
    model.add(layers.LSTM(6, return_sequences=True))
    model.add(layers.TimeDistributed(layers.Dense(WORDS, activation="softmax")))
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["acc"])
    ones = np.eye(WORDS, dtype="float32")
    data = ones[tokens(4, LENGTH, WORDS)], ones[tokens(4, 3, WORDS)]
    return Case(model, data)


MODELS = {
    f.__name__: f
    for f in (
        raw_strings,
        bag_of_words,
        bidirectional_lstm,
        given_embeddings,
        transformer_classifier,
        switch_transformer,
        fourier_mixing,
        mini_gpt,
        tied_language_model,
        character_lstm,
        addition_rnn,
    )
}
