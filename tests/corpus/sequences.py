"""Translation, tagging, masked words and spans: sequences with several inputs."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from corpus import Case, images, tokens
from corpus.text import TokenAndPosition, TransformerBlock

WORDS = 12
LENGTH = 6


def lstm_translation():
    """An encoder's states start the decoder."""
    encoder_inputs = keras.Input(shape=(None, WORDS))
    _, state_h, state_c = layers.LSTM(6, return_state=True)(encoder_inputs)
    decoder_inputs = keras.Input(shape=(None, WORDS))
    decoder_lstm = layers.LSTM(6, return_sequences=True, return_state=True)
    x, _, _ = decoder_lstm(decoder_inputs, initial_state=[state_h, state_c])
    outputs = layers.Dense(WORDS, activation="softmax")(x)
    model = keras.Model([encoder_inputs, decoder_inputs], outputs)
    model.compile(
        optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"]
    )
    ones = np.eye(WORDS, dtype="float32")
    target = ones[tokens(4, 4, WORDS)]
    return Case(model, ([ones[tokens(4, 2, WORDS)], target[:, :-1]], target[:, 1:]))


class PositionalEmbedding(layers.Layer):
    def __init__(self, sequence_length, vocab_size, embed_dim, **kwargs):
        super().__init__(**kwargs)
        self.token_embeddings = layers.Embedding(vocab_size, embed_dim)
        self.position_embeddings = layers.Embedding(sequence_length, embed_dim)

    def call(self, inputs):
        positions = ops.arange(0, ops.shape(inputs)[-1], 1)
        return self.token_embeddings(inputs) + self.position_embeddings(positions)

    def compute_mask(self, inputs, previous_mask=None):
        return ops.not_equal(inputs, 0)


class Encoder(layers.Layer):
    def __init__(self, embed_dim, dense_dim, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(num_heads, embed_dim)
        self.dense_proj = keras.Sequential(
            [layers.Dense(dense_dim, activation="relu"), layers.Dense(embed_dim)]
        )
        self.layernorm_1 = layers.LayerNormalization()
        self.layernorm_2 = layers.LayerNormalization()
        self.supports_masking = True

    def call(self, inputs, mask=None):
        padding_mask = None if mask is None else ops.cast(mask[:, None, :], "int32")
        y = self.attention(inputs, inputs, inputs, attention_mask=padding_mask)
        x = self.layernorm_1(inputs + y)
        return self.layernorm_2(x + self.dense_proj(x))


class Decoder(layers.Layer):
    def __init__(self, embed_dim, latent_dim, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.attention_1 = layers.MultiHeadAttention(num_heads, embed_dim)
        self.attention_2 = layers.MultiHeadAttention(num_heads, embed_dim)
        self.dense_proj = keras.Sequential(
            [layers.Dense(latent_dim, activation="relu"), layers.Dense(embed_dim)]
        )
        self.norms = [layers.LayerNormalization() for _ in range(3)]
        self.supports_masking = True

    def call(self, inputs, mask=None):
        inputs, encoder_outputs = inputs
        length = ops.shape(inputs)[1]
        causal = ops.arange(length)[:, None] >= ops.arange(length)
        causal = ops.tile(ops.cast(causal, "int32")[None], (ops.shape(inputs)[0], 1, 1))
        inputs_mask, encoder_mask = (None, None) if mask is None else mask
        y = self.attention_1(
            inputs, inputs, inputs, attention_mask=causal, query_mask=inputs_mask
        )
        x = self.norms[0](inputs + y)
        y = self.attention_2(
            query=x,
            value=encoder_outputs,
            key=encoder_outputs,
            query_mask=inputs_mask,
            key_mask=encoder_mask,
        )
        x = self.norms[1](x + y)
        return self.norms[2](x + self.dense_proj(x))


def translation_transformer():
    """Two models in one, dicts of inputs, padding that masks."""
    encoder_inputs = keras.Input((None,), dtype="int64", name="encoder_inputs")
    x = PositionalEmbedding(LENGTH, WORDS, 6)(encoder_inputs)
    encoder = keras.Model(encoder_inputs, Encoder(6, 8, 2)(x), name="encoder")
    decoder_inputs = keras.Input((None,), dtype="int64", name="decoder_inputs")
    encoded = keras.Input((None, 6), name="decoder_state_inputs")
    x = PositionalEmbedding(LENGTH, WORDS, 6)(decoder_inputs)
    x = layers.Dropout(0.5)(Decoder(6, 8, 2)([x, encoded]))
    x = layers.Dense(WORDS, activation="softmax")(x)
    decoder = keras.Model([decoder_inputs, encoded], x, name="decoder")
    model = keras.Model(
        {"encoder_inputs": encoder_inputs, "decoder_inputs": decoder_inputs},
        decoder([decoder_inputs, encoder(encoder_inputs)]),
        name="transformer",
    )
    model.compile(
        "rmsprop",
        loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=0),
        metrics=["accuracy"],
    )
    target = tokens(4, LENGTH + 1, WORDS)
    target[:, -2:] = 0
    source = tokens(4, LENGTH, WORDS)
    source[:, -1:] = 0
    x = {"encoder_inputs": source, "decoder_inputs": target[:, :-1]}
    return Case(model, (x, target[:, 1:]))


class TaggingLoss(keras.losses.Loss):
    def __init__(self, name="custom_ner_loss"):
        super().__init__(name=name)

    def call(self, y_true, y_pred):
        loss = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        mask = ops.cast(y_true > 0, dtype="float32")
        return ops.sum(loss * mask) / ops.sum(mask)


class Tagger(keras.Model):
    def __init__(self, num_tags, vocab_size, maxlen=LENGTH, embed_dim=6):
        super().__init__()
        self.embedding_layer = TokenAndPosition(maxlen, vocab_size, embed_dim)
        self.transformer_block = TransformerBlock(embed_dim, 2, 8)
        self.dropout1 = layers.Dropout(0.1)
        self.ff = layers.Dense(6, activation="relu")
        self.ff_final = layers.Dense(num_tags, activation="softmax")

    def call(self, inputs, training=False):
        x = self.transformer_block(self.embedding_layer(inputs))
        x = self.ff(self.dropout1(x, training=training))
        return self.ff_final(x)


def tagger():
    model = Tagger(4, WORDS)
    model.compile(optimizer="adam", loss=TaggingLoss())
    x = tokens(4, LENGTH, WORDS)
    model(x)
    return Case(model, (x, tokens(4, LENGTH, 4, low=0)))


class MaskedLanguageModel(keras.Model):
    """A graph of layers that is a class, with a loss and trackers of the module's."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        loss = mlm_loss_fn(y, y_pred, sample_weight)
        loss_tracker.update_state(loss, sample_weight=sample_weight)
        return ops.sum(loss)

    def compute_metrics(self, x, y, y_pred, sample_weight):
        return {"loss": loss_tracker.result()}

    @property
    def metrics(self):
        return [loss_tracker]


mlm_loss_fn = keras.losses.SparseCategoricalCrossentropy(reduction=None)
loss_tracker = keras.metrics.Mean(name="loss")


def masked_language_model():
    inputs = keras.Input((LENGTH,), dtype="int64")
    x = layers.Embedding(WORDS, 6, name="word_embedding")(inputs)
    positions = np.sin(np.arange(LENGTH)[:, None] / np.arange(1, 7)).astype("float32")
    x = x + positions
    y = layers.MultiHeadAttention(2, 3, name="encoder_0_attention")(x, x, x)
    x = layers.LayerNormalization(name="encoder_0_att_norm")(x + y)
    ffn = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(6)], name="ffn")
    x = layers.LayerNormalization(name="encoder_0_ffn_norm")(x + ffn(x))
    outputs = layers.Dense(WORDS, name="mlm_cls", activation="softmax")(x)
    model = MaskedLanguageModel(inputs, outputs, name="masked_bert_model")
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    x, y = tokens(4, LENGTH, WORDS), tokens(4, LENGTH, WORDS)[::-1].copy()
    weights = (np.arange(4 * LENGTH) % 3 == 0).astype("float32").reshape(4, LENGTH)
    return Case(model, (x, y, weights))


def answer_span():
    """Three inputs; two outputs that share one kind of loss."""
    inputs = [keras.Input((LENGTH,), dtype="int32") for _ in range(3)]
    ids, types, mask = inputs
    x = layers.Embedding(WORDS, 6)(ids) + layers.Embedding(2, 6)(types)
    mask = ops.cast(mask, "bool")[:, None, :]
    x = x + layers.MultiHeadAttention(2, 3)(x, x, attention_mask=mask)
    heads = []
    for name in ("start_logit", "end_logit"):
        y = layers.Flatten()(layers.Dense(1, name=name, use_bias=False)(x))
        heads.append(layers.Activation(keras.activations.softmax)(y))
    model = keras.Model(inputs=inputs, outputs=heads)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=False)
    model.compile(optimizer=keras.optimizers.Adam(5e-5), loss=[loss, loss])
    data = [tokens(4, LENGTH, v, low) for v, low in ((WORDS, 1), (2, 0), (2, 1))]
    return Case(model, (data, [tokens(4, 1, 3)[:, 0], tokens(4, 1, 6)[:, 0]]))


class Captioner(keras.Model):
    """An image network, an encoder and a decoder, trained by a step of its own."""

    def __init__(self, cnn_model, encoder, decoder, captions_per_image=2):
        super().__init__()
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.acc_tracker = keras.metrics.Mean(name="accuracy")
        self.cnn_model = cnn_model
        self.encoder = encoder
        self.decoder = decoder
        self.captions_per_image = captions_per_image

    def call(self, inputs):
        image, caption = inputs
        return self.decoder([caption, self.encoder(self.cnn_model(image))])

    def calculate_loss(self, y_true, y_pred, mask):
        loss = self.loss(y_true, y_pred)
        mask = ops.cast(mask, dtype=loss.dtype)
        return ops.sum(loss * mask) / (ops.sum(mask) + 1e-6)

    def train_step(self, batch_data):
        images, sequences = batch_data
        for i in range(self.captions_per_image):
            given, wanted = sequences[:, i, :-1], sequences[:, i, 1:]
            with tf.GradientTape() as tape:
                predicted = self((images, given), training=True)
                loss = self.calculate_loss(wanted, predicted, ops.not_equal(wanted, 0))
            weights = self.encoder.trainable_variables
            weights = weights + self.decoder.trainable_variables
            gradients = tape.gradient(loss, weights)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker, self.acc_tracker]


def captioner():
    cnn = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 4, 4), layers.Reshape((-1, 6))]
    )
    cnn.trainable = False
    caption, encoded = keras.Input((None,), dtype="int64"), keras.Input((None, 6))
    x = PositionalEmbedding(LENGTH, WORDS, 6)(caption)
    x = layers.Dense(WORDS, activation="softmax")(Decoder(6, 8, 2)([x, encoded]))
    model = Captioner(cnn, Encoder(6, 8, 2), keras.Model([caption, encoded], x))
    model.compile(
        keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(reduction=None),
    )
    captions = tokens(4, 2 * (LENGTH + 1), WORDS).reshape(4, 2, LENGTH + 1)
    first = captions[:, 0]
    model((images(), first[:, :-1]))
    # Its step takes images and captions; what it calls itself with are both.
    scoring = ((images(), first[:, :-1]), first[:, 1:])
    loss = "sparse_categorical_crossentropy"
    return Case(model, (images(), captions), loss, scoring)


MODELS = {
    f.__name__: f
    for f in (
        lstm_translation,
        translation_transformer,
        tagger,
        masked_language_model,
        answer_span,
        captioner,
    )
}
