"""Speech: spectrograms, residual convolutions, alignments that the loss finds."""

import keras
import tensorflow as tf
from keras import layers, ops

from corpus import Case, floats, images, labels, tokens

CHARACTERS = 6


def speaker_recognition():
    def residual_block(x, filters, conv_num=2, activation="relu"):
        s = layers.Conv1D(filters, 1, padding="same")(x)
        for _ in range(conv_num - 1):
            x = layers.Conv1D(filters, 3, padding="same")(x)
            x = layers.Activation(activation)(x)
        x = layers.Conv1D(filters, 3, padding="same")(x)
        x = layers.Activation(activation)(layers.Add()([x, s]))
        return layers.MaxPool1D(pool_size=2, strides=2)(x)

    inputs = layers.Input(shape=(32, 1), name="input")
    x = residual_block(residual_block(inputs, 4), 6, 3)
    x = layers.Flatten()(layers.AveragePooling1D(pool_size=3, strides=3)(x))
    x = layers.Dense(8, activation="relu")(x)
    outputs = layers.Dense(3, activation="softmax", name="output")(x)
    model = keras.models.Model(inputs=inputs, outputs=outputs)
    model.compile("Adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, (floats(4, 32, 1), labels()))


def spectrogram_convnet():
    """Waves become images within the model, in a layer whose kernels are waves."""
    inputs = keras.Input((256, 1))
    x = layers.STFTSpectrogram(
        mode="log",
        frame_length=32,
        frame_step=16,
        fft_length=32,
        window=None,  # others need scipy
        expand_dims=True,
    )(inputs)
    x = layers.Resizing(12, 12)(x)
    normalize = layers.Normalization()
    normalize.build(x.shape)
    x = normalize(x)
    for filters in (4, 6):
        s = layers.Conv2D(filters, 1)(x)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.Add()([layers.Conv2D(filters, 3, padding="same")(x), s])
        x = layers.MaxPooling2D(2)(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.Dropout(0.5)(layers.GlobalMaxPooling2D()(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.ExponentialDecay(1e-3, 9, 0.9)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return Case(model, (floats(4, 256, 1), labels()))


def alignment_loss(y_true, y_pred):
    batch = tf.cast(tf.shape(y_true)[0], dtype="int64")
    input_length = tf.cast(tf.shape(y_pred)[1], dtype="int64")
    label_length = tf.cast(tf.shape(y_true)[1], dtype="int64")
    ones = tf.ones(shape=(batch, 1), dtype="int64")
    return batch_cost(y_true, y_pred, input_length * ones, label_length * ones)


def batch_cost(y_true, y_pred, input_length, label_length):
    input_length = ops.cast(ops.squeeze(input_length, axis=-1), "int32")
    label_length = ops.cast(ops.squeeze(label_length, axis=-1), "int32")
    cost = tf.nn.ctc_loss(
        labels=tf.cast(y_true, "int32"),
        logits=ops.log(ops.transpose(y_pred, axes=[1, 0, 2]) + 1e-7),
        label_length=label_length,
        logit_length=input_length,
        blank_index=-1,
    )
    return ops.expand_dims(cost, 1)


def speech_recognition():
    """Lengths and frequencies of spectrograms, then recurrences in two directions."""
    inputs = layers.Input((None, 9), name="input")
    x = layers.Reshape((-1, 9, 1), name="expand_dim")(inputs)
    for i, size in enumerate(((5, 3), (3, 3))):
        x = layers.Conv2D(4, size, (1, 2), padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(name=f"conv_{i}_bn")(x)
        x = layers.ReLU(name=f"conv_{i}_relu")(x)
    x = layers.Reshape((-1, x.shape[-2] * x.shape[-1]))(x)
    for i in (1, 2):
        recurrent = layers.GRU(
            units=4,
            activation="tanh",
            recurrent_activation="sigmoid",
            use_bias=True,
            return_sequences=True,
            reset_after=True,
            name=f"gru_{i}",
        )
        x = layers.Bidirectional(recurrent, merge_mode="concat")(x)
        x = layers.Dropout(rate=0.5)(x) if i < 2 else x
    x = layers.Dropout(rate=0.5)(layers.Dense(8, activation="relu")(x))
    output = layers.Dense(units=CHARACTERS + 1, activation="softmax")(x)
    model = keras.Model(inputs, output, name="DeepSpeech")
    model.compile(keras.optimizers.Adam(1e-4), loss=alignment_loss)
    return Case(model, (floats(4, 8, 9), tokens(4, 3, CHARACTERS)))


def built_in_alignment():
    model = keras.Sequential(
        [
            layers.Input((8, 5)),
            layers.Conv1D(6, 3, padding="same", activation="relu"),
            layers.LSTM(6, return_sequences=True),
            layers.Dense(CHARACTERS + 1),
        ]
    )
    model.compile("adam", loss=keras.losses.CTC())
    return Case(model, (floats(4, 8, 5), tokens(4, 3, CHARACTERS)))


class AlignmentLayer(layers.Layer):
    """Its inputs hold the labels, and the whole loss is what it adds."""

    def __init__(self, name=None):
        super().__init__(name=name)
        self.loss_fn = batch_cost

    def call(self, y_true, y_pred):
        batch = ops.shape(y_true)[0]
        ones = ops.ones((batch, 1), "int32")
        input_length = ops.shape(y_pred)[1] * ones
        label_length = ops.shape(y_true)[1] * ones
        self.add_loss(self.loss_fn(y_true, y_pred, input_length, label_length))
        return y_pred


def letters_in_images():
    image = layers.Input(shape=(8, 8, 1), name="image")
    label = layers.Input(name="label", shape=(None,), dtype="int32")
    x = layers.Conv2D(4, 3, activation="relu", padding="same", name="Conv1")(image)
    x = layers.MaxPooling2D((2, 2), name="pool1")(x)
    x = layers.Reshape(target_shape=(4, 16), name="reshape")(x)
    x = layers.Dropout(0.2)(layers.Dense(8, activation="relu", name="dense1")(x))
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, dropout=0.25))(x)
    x = layers.Dense(CHARACTERS + 1, activation="softmax", name="dense2")(x)
    output = AlignmentLayer(name="ctc_loss")(label, x)
    model = keras.models.Model(inputs=[image, label], outputs=output, name="ocr")
    model.compile(optimizer=keras.optimizers.Adam())
    x = {"image": images(channels=1), "label": tokens(4, 3, CHARACTERS)}
    return Case(model, (x,))


class SpeechEmbedding(layers.Layer):
    def __init__(self, num_hid=6):
        super().__init__()
        options = {"strides": 2, "padding": "same", "activation": "relu"}
        self.conv1 = keras.layers.Conv1D(num_hid, 5, **options)
        self.conv2 = keras.layers.Conv1D(num_hid, 5, **options)

    def call(self, x):
        return self.conv2(self.conv1(x))


class SpeechEncoder(layers.Layer):
    def __init__(self, embed_dim, num_heads, feed_forward_dim, rate=0.1):
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential(
            [layers.Dense(feed_forward_dim, activation="relu"), layers.Dense(embed_dim)]
        )
        self.layernorm = layers.LayerNormalization(epsilon=1e-6)
        self.dropout = layers.Dropout(rate)

    def call(self, inputs, training=False):
        x = inputs + self.dropout(self.att(inputs, inputs), training=training)
        return self.layernorm(x + self.ffn(x))


class SpeechDecoder(layers.Layer):
    def __init__(self, embed_dim, num_heads, feed_forward_dim):
        super().__init__()
        self.self_att = layers.MultiHeadAttention(num_heads, embed_dim)
        self.enc_att = layers.MultiHeadAttention(num_heads, embed_dim)
        self.ffn = keras.Sequential(
            [layers.Dense(feed_forward_dim, activation="relu"), layers.Dense(embed_dim)]
        )
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]

    def call(self, enc_out, target):
        x = target + self.self_att(target, target, use_causal_mask=True)
        x = self.norms[0](x + self.enc_att(x, enc_out))
        return self.norms[1](x + self.ffn(x))


class SpeechTransformer(keras.Model):
    """Layers set by name in a loop, a step of its own, dicts of a batch."""

    def __init__(self, num_hid=6, num_layers_enc=2, num_layers_dec=1, num_classes=8):
        super().__init__()
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.num_layers_dec = num_layers_dec
        self.num_classes = num_classes
        self.enc_input = SpeechEmbedding(num_hid)
        self.dec_input = layers.Embedding(num_classes, num_hid)
        blocks = [SpeechEncoder(num_hid, 2, 8) for _ in range(num_layers_enc)]
        self.encoder = keras.Sequential([self.enc_input, *blocks])
        for i in range(num_layers_dec):
            setattr(self, f"dec_layer_{i}", SpeechDecoder(num_hid, 2, 8))
        self.classifier = layers.Dense(num_classes)

    def decode(self, enc_out, target):
        y = self.dec_input(target)
        for i in range(self.num_layers_dec):
            y = getattr(self, f"dec_layer_{i}")(enc_out, y)
        return y

    def call(self, inputs):
        source, target = inputs
        return self.classifier(self.decode(self.encoder(source), target))

    @property
    def metrics(self):
        return [self.loss_metric]

    def train_step(self, batch):
        source, target = batch["source"], batch["target"]
        given, wanted = target[:, :-1], target[:, 1:]
        with tf.GradientTape() as tape:
            preds = self([source, given])
            one_hot = ops.one_hot(wanted, self.num_classes)
            mask = ops.logical_not(ops.equal(wanted, 0))
            loss = self.compute_loss(None, one_hot, preds, sample_weight=mask)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        self.loss_metric.update_state(loss)
        return {"loss": self.loss_metric.result()}


def speech_transformer():
    model = SpeechTransformer()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    source, target = floats(4, 12, 5), tokens(4, 5, 8)
    model([source, target[:, :-1]])
    # Its step takes one dict; what it calls itself with are pairs.
    wanted = keras.utils.to_categorical(target[:, 1:], 8)
    scoring = ([source, target[:, :-1]], wanted)
    return Case(model, ({"source": source, "target": target},), scoring=scoring)


MODELS = {
    f.__name__: f
    for f in (
        speaker_recognition,
        spectrogram_convnet,
        speech_recognition,
        built_in_alignment,
        letters_in_images,
        speech_transformer,
    )
}
