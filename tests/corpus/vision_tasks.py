"""Images to images, boxes, captions and embeddings; models with steps of their own."""

import keras
import tensorflow as tf
from keras import layers, ops

from corpus import Case, floats, images, labels, tokens


def unet():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    before = x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.Activation("relu")(x)
    x = layers.BatchNormalization()(layers.SeparableConv2D(12, 3, padding="same")(x))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    residual = layers.Conv2D(12, 1, strides=2, padding="same")(before)
    before = x = layers.add([x, residual])
    for filters in (12, 8):
        x = layers.Activation("relu")(x)
        x = layers.Conv2DTranspose(filters, 3, padding="same")(x)
        x = layers.UpSampling2D(2)(layers.BatchNormalization()(x))
        residual = layers.Conv2D(filters, 1, padding="same")(
            layers.UpSampling2D(2)(before)
        )
        before = x = layers.add([x, residual])
    outputs = layers.Conv2D(3, 3, activation="softmax", padding="same")(x)
    model = keras.Model(inputs, outputs)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    masks = tokens(4, 8 * 8, 3, low=0).reshape(4, 8, 8, 1).astype("uint8")
    return Case(model, (images(), masks))


def deeplab():
    def block(x, filters=6, size=3, rate=1):
        x = layers.Conv2D(
            filters,
            size,
            dilation_rate=rate,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.HeNormal(),
        )(x)
        return ops.nn.relu(layers.BatchNormalization()(x))

    inputs = keras.Input((16, 16, 3))
    low = block(layers.MaxPooling2D(2)(block(inputs)))
    x = layers.MaxPooling2D(2)(low)
    pooled = block(layers.AveragePooling2D(pool_size=(4, 4))(x), size=1)
    pooled = layers.UpSampling2D(size=(4, 4), interpolation="bilinear")(pooled)
    rates = [block(x, size=1), block(x, rate=2), block(x, rate=3)]
    x = block(layers.Concatenate(axis=-1)([pooled, *rates]), size=1)
    x = layers.UpSampling2D(size=2, interpolation="bilinear")(x)
    x = layers.Concatenate(axis=-1)([x, block(low, filters=4, size=1)])
    x = layers.UpSampling2D(size=2, interpolation="bilinear")(block(x))
    model = keras.Model(inputs, layers.Conv2D(3, 1, padding="same")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
    model.compile(keras.optimizers.Adam(1e-3), loss=loss, metrics=["accuracy"])
    masks = tokens(4, 256, 3, low=0).reshape(4, 16, 16)
    return Case(model, (images(size=16), masks))


class RefinedLoss(keras.losses.Loss):
    """Crossentropy and overlap, in one loss with losses inside."""

    def __init__(self, **kwargs):
        super().__init__(name="refined_loss", **kwargs)
        self.crossentropy = keras.losses.BinaryCrossentropy()
        self.smooth = 1.0

    def call(self, y_true, y_pred):
        y_true = ops.cast(y_true, y_pred.dtype)
        both = ops.sum(y_true * y_pred, axis=(1, 2, 3))
        either = ops.sum(y_true + y_pred, axis=(1, 2, 3)) - both
        overlap = ops.mean((both + self.smooth) / (either + self.smooth))
        return self.crossentropy(y_true, y_pred) + 1 - overlap


def deep_supervision():
    """Three outputs of one loss object, for one and the same mask."""
    inputs = x = keras.Input((8, 8, 3))
    heads = []
    for i in range(3):
        x = layers.Conv2D(6, 3, padding="same", activation="relu", name=f"stage{i}")(x)
        x = layers.BatchNormalization()(x)
        head = layers.Conv2D(1, 3, padding="same", name=f"head{i}")(x)
        heads.append(layers.Activation("sigmoid", dtype="float32")(head))
    model = keras.Model(inputs, heads)
    model.compile(keras.optimizers.Adam(1e-3), [RefinedLoss() for _ in heads])
    mask = tokens(4, 64, 2, low=0).reshape(4, 8, 8, 1).astype("float32")
    return Case(model, (images(), [mask] * 3))


class DownscaleBlock(layers.Layer):
    def __init__(
        self, filters, kernel_size=(3, 3), padding="same", strides=1, **kwargs
    ):
        super().__init__(**kwargs)
        self.conv_a = layers.Conv2D(filters, kernel_size, strides, padding)
        self.conv_b = layers.Conv2D(filters, kernel_size, strides, padding)
        self.leaky_a = layers.LeakyReLU(negative_slope=0.2)
        self.leaky_b = layers.LeakyReLU(negative_slope=0.2)
        self.norms = {
            "a": layers.BatchNormalization(),
            "b": layers.BatchNormalization(),
        }
        self.pool = layers.MaxPool2D((2, 2), (2, 2))

    def call(self, inputs):
        d = self.conv_a(inputs)
        x = self.leaky_a(self.norms["a"](d))
        x = self.leaky_b(self.norms["b"](self.conv_b(x))) + d
        return x, self.pool(x)


class UpscaleBlock(layers.Layer):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.up = layers.UpSampling2D((2, 2))
        self.conv = layers.Conv2D(filters, 3, 1, "same", activation="relu")
        self.concat = layers.Concatenate()

    def call(self, x, skip):
        return self.conv(self.concat([self.up(x), skip]))


class DepthEstimation(keras.Model):
    def __init__(self):
        super().__init__()
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.downscale_blocks = [DownscaleBlock(4), DownscaleBlock(8)]
        self.bottle_neck_block = keras.Sequential([layers.Conv2D(8, 3, padding="same")])
        self.upscale_blocks = [UpscaleBlock(8), UpscaleBlock(4)]
        self.conv_layer = layers.Conv2D(1, (1, 1), padding="same", activation="tanh")

    def calculate_loss(self, target, pred):
        dy_true, dx_true = target[:, 1:] - target[:, :-1], target[:, :, 1:]
        dy_pred, dx_pred = pred[:, 1:] - pred[:, :-1], pred[:, :, 1:]
        smooth = ops.mean(ops.abs(dy_pred - dy_true)) + ops.mean(dx_pred - dx_true)
        ssim = ops.mean(1 - tf.image.ssim(target, pred, 2.0, filter_size=3))
        return 0.85 * ssim + 0.1 * ops.mean(ops.abs(target - pred)) + 0.9 * smooth

    @property
    def metrics(self):
        return [self.loss_metric]

    def train_step(self, batch):
        inputs, target = batch
        with tf.GradientTape() as tape:
            loss = self.calculate_loss(target, self(inputs, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        self.loss_metric.update_state(loss)
        return {"loss": self.loss_metric.result()}

    def call(self, x):
        skips = []
        for block in self.downscale_blocks:
            skip, x = block(x)
            skips.append(skip)
        x = self.bottle_neck_block(x)
        for block in self.upscale_blocks:
            x = block(x, skips.pop())
        return self.conv_layer(x)


def depth_estimation():
    model = DepthEstimation()
    model.compile(keras.optimizers.Adam(2e-4))
    model(images())
    # Scored with another loss than its own step's, so that all methods apply.
    return Case(model, (images(), floats(4, 8, 8, 1)), loss="mae")


def super_resolution():
    """Images of any size; sub-pixels become pixels."""
    inputs = keras.Input((None, None, 1))
    arguments = {"activation": "relu", "kernel_initializer": "orthogonal"}
    x = layers.Conv2D(8, 5, padding="same", **arguments)(inputs)
    x = layers.Conv2D(8, 3, padding="same", **arguments)(x)
    x = layers.Conv2D(4, 3, padding="same", **arguments)(x)

    def depth_to_space(x):
        height, width = ops.shape(x)[1:3]
        x = ops.reshape(x, (-1, height, width, 2, 2, 1))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height * 2, width * 2, 1))

    model = keras.Model(inputs, layers.Lambda(depth_to_space)(x))
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.MeanSquaredError())
    return Case(model, (images(channels=1), images(size=16, channels=1)))


class EnhancedSuperResolution(keras.Model):
    """A graph of layers that is a class, with a training step of its own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}

    def predict_step(self, x):
        x = ops.expand_dims(x, axis=0) if len(x.shape) == 3 else x
        return ops.clip(self(x, training=False), 0, 255)


def residual_super_resolution():
    def peak_signal_to_noise(high, super_):
        return tf.image.psnr(high, super_, max_val=255)

    def block(inputs):
        x = layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
        return layers.Add()([inputs, layers.Conv2D(6, 3, padding="same")(x)])

    inputs = keras.Input((None, None, 3))
    x = layers.Rescaling(scale=1.0 / 255)(inputs)
    x = first = layers.Conv2D(6, 3, padding="same")(x)
    x = layers.Add()([first, layers.Conv2D(6, 3, padding="same")(block(block(x)))])
    x = layers.Conv2DTranspose(6, 2, strides=2)(x)
    x = layers.Rescaling(scale=255)(layers.Conv2D(3, 3, padding="same")(x))
    model = EnhancedSuperResolution(inputs, x)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([5], [1e-4, 5e-5])
    model.compile(
        keras.optimizers.Adam(schedule), loss="mae", metrics=[peak_signal_to_noise]
    )
    return Case(model, (images() * 255, images(size=16) * 255))


class FeaturePyramid(layers.Layer):
    def __init__(self, backbone=None, **kwargs):
        super().__init__(name="FeaturePyramid", **kwargs)
        self.backbone = backbone
        self.conv_c3_1x1 = layers.Conv2D(8, 1, 1, "same")
        self.conv_c4_1x1 = layers.Conv2D(8, 1, 1, "same")
        self.conv_c5_3x3 = layers.Conv2D(8, 3, 2, "same")
        self.upsample_2x = layers.UpSampling2D(2)

    def call(self, images, training=False):
        c3, c4 = self.backbone(images, training=training)
        p4 = self.conv_c4_1x1(c4)
        p3 = self.conv_c3_1x1(c3) + self.upsample_2x(p4)
        return p3, p4, self.conv_c5_3x3(c4)


def _head(output_filters, bias_init):
    head = keras.Sequential([keras.Input((None, None, 8))])
    kernel_init = keras.initializers.RandomNormal(0.0, 0.01)
    head.add(layers.Conv2D(8, 3, padding="same", kernel_initializer=kernel_init))
    head.add(layers.ReLU())
    head.add(
        layers.Conv2D(output_filters, 3, 1, padding="same", bias_initializer=bias_init)
    )
    return head


class Detector(keras.Model):
    def __init__(self, num_classes, backbone=None, **kwargs):
        super().__init__(name="Detector", **kwargs)
        self.fpn = FeaturePyramid(backbone)
        self.num_classes = num_classes
        prior = keras.initializers.Constant(-4.59)
        self.cls_head = _head(2 * num_classes, prior)
        self.box_head = _head(2 * 4, "zeros")

    def call(self, image, training=False):
        cls_outputs, box_outputs = [], []
        for feature in self.fpn(image, training=training):
            boxes = self.box_head(feature)
            box_outputs.append(ops.reshape(boxes, [-1, _area(boxes) * 2, 4]))
            scores = self.cls_head(feature)
            cls_outputs.append(
                ops.reshape(scores, [-1, _area(scores) * 2, self.num_classes])
            )
        boxes = ops.concatenate(box_outputs, axis=1)
        return ops.concatenate([boxes, ops.concatenate(cls_outputs, axis=1)], axis=-1)


def _area(x):
    return x.shape[1] * x.shape[2]


class DetectionLoss(keras.losses.Loss):
    def __init__(self, num_classes=2, alpha=0.25, gamma=2.0, delta=1.0):
        super().__init__(reduction="sum", name="DetectionLoss")
        self._num_classes, self._delta = num_classes, delta
        self._alpha, self._gamma = alpha, gamma

    def call(self, y_true, y_pred):
        difference = ops.abs(y_true[:, :, :4] - y_pred[:, :, :4])
        box = ops.where(difference < self._delta, 0.5 * difference**2, difference - 0.5)
        target = ops.one_hot(ops.cast(y_true[:, :, 4], "int32"), self._num_classes)
        logits = y_pred[:, :, 4:]
        crossentropy = tf.nn.sigmoid_cross_entropy_with_logits(target, logits)
        alpha = ops.where(target == 1.0, self._alpha, 1.0 - self._alpha)
        focal = alpha * ops.sigmoid(-logits) ** self._gamma * crossentropy
        positive = ops.cast(y_true[:, :, 4] > -1.0, "float32")
        seen = ops.cast(y_true[:, :, 4] != -2.0, "float32")
        total = ops.sum(box, -1) * positive + ops.sum(focal, -1) * seen
        return ops.sum(total, -1) / ops.maximum(ops.sum(positive, -1), 1.0)


def detector():
    inputs = keras.Input((8, 8, 3))
    c3 = layers.Conv2D(6, 3, 2, padding="same", activation="relu")(inputs)
    c3 = layers.BatchNormalization()(c3)
    c4 = layers.Conv2D(6, 3, 2, padding="same", activation="relu")(c3)
    model = Detector(2, keras.Model(inputs, [c3, c4]))
    model.compile(keras.optimizers.SGD(0.01, 0.9), loss=DetectionLoss(2))
    model(images())
    anchors = model(images()).shape[1]
    classes = tokens(4, anchors, 4, low=0)[..., None] - 2.0
    y = ops.concatenate([floats(4, anchors, 4), classes], axis=-1)
    return Case(model, (images(), ops.convert_to_numpy(y)))


def boxes_and_classes():
    """Outputs, labels, losses, their weights and metrics in dicts."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(inputs)
    x = layers.Dense(8, activation="relu")(layers.Flatten()(x))
    box = layers.Dense(4, name="regressor")(layers.Dropout(0.3)(x))
    kind = layers.Dense(3, activation="softmax", name="classifier")(x)
    model = keras.Model({"image": inputs}, {"box": box, "class": kind})
    model.compile(
        optimizer="adam",
        loss={"box": keras.losses.Huber(), "class": "sparse_categorical_crossentropy"},
        loss_weights={"box": 4.0, "class": 1.0},
        metrics={"class": ["accuracy"], "box": keras.metrics.MeanAbsoluteError()},
    )
    return Case(model, ({"image": images()}, {"class": labels(), "box": floats(4, 4)}))


MODELS = {
    f.__name__: f
    for f in (
        unet,
        deeplab,
        deep_supervision,
        depth_estimation,
        super_resolution,
        residual_super_resolution,
        detector,
        boxes_and_classes,
    )
}
