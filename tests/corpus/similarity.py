"""Metric and contrastive learning, and distillation: models made of models."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from corpus import WITHOUT_LOSS, Case, images, labels


def _embedding(units=6, name=None):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(units, activation="relu"),
        ],
        name=name,
    )


def siamese_contrastive():
    """Two inputs through one network; a distance; a loss made by a function."""

    def euclidean_distance(vectors):
        x, y = vectors
        squared = ops.sum(ops.square(x - y), axis=1, keepdims=True)
        return ops.sqrt(ops.maximum(squared, keras.backend.epsilon()))

    def loss(margin=1):
        def contrastive_loss(y_true, y_pred):
            apart = ops.square(ops.maximum(margin - y_pred, 0))
            return ops.mean((1 - y_true) * ops.square(y_pred) + y_true * apart)

        return contrastive_loss

    embedding = _embedding()
    pair = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    towers = [embedding(x) for x in pair]
    distance = layers.Lambda(euclidean_distance, output_shape=(1,))(towers)
    x = layers.BatchNormalization()(distance)
    model = keras.Model(list(pair), layers.Dense(1, activation="sigmoid")(x))
    model.compile(loss=loss(margin=1), optimizer="RMSprop", metrics=["accuracy"])
    x = [images(), images()[::-1].copy()]
    return Case(model, (x, labels(classes=2).astype("float32")))


class DistanceLayer(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def call(self, anchor, positive, negative):
        near = ops.sum(ops.square(anchor - positive), -1)
        return near, ops.sum(ops.square(anchor - negative), -1)


class SiameseModel(keras.Model):
    def __init__(self, siamese_network, margin=0.5):
        super().__init__()
        self.siamese_network = siamese_network
        self.margin = margin
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, inputs):
        return self.siamese_network(inputs)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self._compute_loss(data)
        weights = self.siamese_network.trainable_weights
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        self.loss_tracker.update_state(self._compute_loss(data))
        return {"loss": self.loss_tracker.result()}

    def _compute_loss(self, data):
        (triplet,) = data
        near, far = self.siamese_network(triplet)
        return ops.maximum(near - far + self.margin, 0.0)

    @property
    def metrics(self):
        return [self.loss_tracker]


def siamese_triplet():
    embedding = _embedding()
    inputs = [
        keras.Input((8, 8, 3), name=n) for n in ("anchor", "positive", "negative")
    ]
    distances = DistanceLayer()(*[embedding(x) for x in inputs])
    model = SiameseModel(keras.Model(inputs=inputs, outputs=distances))
    model.compile(optimizer=keras.optimizers.Adam(1e-4), weighted_metrics=[])
    x = [images(), images()[::-1].copy(), images() ** 2]
    model(x)
    return Case(model, (x,), methods=WITHOUT_LOSS)


class MetricLearning(keras.Model):
    """A graph of layers that is a class; its step pairs anchors with positives."""

    def train_step(self, data):
        data = data[0] if isinstance(data, tuple) else data
        anchors, positives = data[:, 0], data[:, 1]
        with tf.GradientTape() as tape:
            near = self(anchors, training=True), self(positives, training=True)
            similarities = ops.einsum("ae,pe->ap", *near) / 0.2
            sparse_labels = ops.arange(ops.shape(similarities)[0])
            loss = self.compute_loss(y=sparse_labels, y_pred=similarities)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(sparse_labels, similarities)
        return {m.name: m.result() for m in self.metrics}


def metric_learning():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(x))
    embeddings = layers.UnitNormalization()(layers.Dense(8, activation=None)(x))
    model = MetricLearning(inputs, embeddings)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    pairs = np.stack([images(), images()[::-1]], axis=1)
    return Case(model, (pairs,), scoring=(images(),), methods=WITHOUT_LOSS)


class ContrastiveModel(keras.Model):
    """No `call`: an encoder, a projection and a probe, each with its own part."""

    def __init__(self):
        super().__init__()
        self.temperature = 0.1
        self.augmenter = keras.Sequential(
            [layers.RandomFlip(), layers.RandomContrast(0.1)]
        )
        self.encoder = _embedding(8, name="encoder")
        self.projection_head = keras.Sequential(
            [keras.Input((8,)), layers.Dense(8, activation="relu"), layers.Dense(8)],
            name="projection_head",
        )
        self.linear_probe = keras.Sequential([keras.Input((8,)), layers.Dense(3)])

    def compile(self, contrastive_optimizer, probe_optimizer, **kwargs):
        super().compile(**kwargs)
        self.contrastive_optimizer = contrastive_optimizer
        self.probe_optimizer = probe_optimizer
        self.probe_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.contrastive_loss_tracker = keras.metrics.Mean(name="c_loss")
        self.probe_loss_tracker = keras.metrics.Mean(name="p_loss")

    @property
    def metrics(self):
        return [self.contrastive_loss_tracker, self.probe_loss_tracker]

    def contrastive_loss(self, one, other):
        one, other = ops.normalize(one, axis=1), ops.normalize(other, axis=1)
        similarities = ops.matmul(one, ops.transpose(other)) / self.temperature
        each = ops.arange(ops.shape(one)[0])
        loss = keras.losses.sparse_categorical_crossentropy(
            each, similarities, from_logits=True
        )
        return ops.mean(loss)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            seen = [self.augmenter(x, training=True) for _ in range(2)]
            features = [self.encoder(view, training=True) for view in seen]
            loss = self.contrastive_loss(*[self.projection_head(f) for f in features])
        weights = (
            self.encoder.trainable_weights + self.projection_head.trainable_weights
        )
        self.contrastive_optimizer.apply(tape.gradient(loss, weights), weights)
        self.contrastive_loss_tracker.update_state(loss)
        with tf.GradientTape() as tape:
            logits = self.linear_probe(self.encoder(x, training=False))
            loss = self.probe_loss(y, logits)
        weights = self.linear_probe.trainable_weights
        self.probe_optimizer.apply(tape.gradient(loss, weights), weights)
        self.probe_loss_tracker.update_state(loss)
        return {m.name: m.result() for m in self.metrics}


def contrastive():
    model = ContrastiveModel()
    model.compile(keras.optimizers.Adam(), keras.optimizers.Adam())
    parts = ("encoder", "projection_head", "linear_probe")
    return Case(model, (images(), labels()), methods=WITHOUT_LOSS, parts=parts)


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.teacher = teacher
        self.student = student

    def compile(
        self,
        optimizer,
        metrics,
        student_loss_fn,
        distillation_loss_fn,
        alpha=0.1,
        temperature=3,
    ):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss_fn = student_loss_fn
        self.distillation_loss_fn = distillation_loss_fn
        self.alpha = alpha
        self.temperature = temperature

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False
    ):
        teacher_pred = self.teacher(x, training=False)
        student_loss = self.student_loss_fn(y, y_pred)
        distillation_loss = self.distillation_loss_fn(
            ops.softmax(teacher_pred / self.temperature, axis=1),
            ops.softmax(y_pred / self.temperature, axis=1),
        ) * (self.temperature**2)
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss

    def call(self, x):
        return self.student(x)


def _classifier(filters, name):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(filters, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Flatten(),
            layers.Dense(3),
        ],
        name=name,
    )


def distiller():
    student = _classifier(4, "student")
    teacher = _classifier(8, "teacher")
    teacher.trainable = False
    model = Distiller(student=student, teacher=teacher)
    model.compile(
        optimizer=keras.optimizers.Adam(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
        student_loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        distillation_loss_fn=keras.losses.KLDivergence(),
        alpha=0.1,
        temperature=10,
    )
    model(images())
    return Case(model, (images(), labels()))


class SupervisedContrastiveLoss(keras.losses.Loss):
    def __init__(self, temperature=1, name=None):
        super().__init__(name=name)
        self.temperature = temperature

    def __call__(self, labels, feature_vectors, sample_weight=None):
        features = ops.normalize(feature_vectors, axis=1)
        logits = ops.matmul(features, ops.transpose(features)) / self.temperature
        labels = ops.reshape(labels, (-1, 1))
        same = ops.cast(ops.equal(labels, ops.transpose(labels)), "float32")
        target = same / ops.sum(same, axis=1, keepdims=True)
        loss = keras.losses.categorical_crossentropy(target, logits, from_logits=True)
        return ops.mean(loss)


def supervised_contrastive():
    inputs = keras.Input((8, 8, 3))
    features = _embedding(8, name="encoder")(inputs)
    outputs = layers.Dense(8, activation="relu")(features)
    model = keras.Model(inputs, outputs, name="encoder_with_projection_head")
    model.compile(keras.optimizers.Adam(1e-3), loss=SupervisedContrastiveLoss(0.05))
    return Case(model, (images(), labels()))


def frozen_encoder():
    """A classifier on an encoder that is not trained."""
    encoder = _embedding(8, name="encoder")
    for layer in encoder.layers:
        layer.trainable = False
    inputs = keras.Input((8, 8, 3))
    x = layers.Dropout(0.2)(encoder(inputs))
    x = layers.Dense(6, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    return Case(model, (images(), labels()))


MODELS = {
    f.__name__: f
    for f in (
        siamese_contrastive,
        siamese_triplet,
        metric_learning,
        contrastive,
        distiller,
        supervised_contrastive,
        frozen_encoder,
    )
}
