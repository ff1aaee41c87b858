"""Models that make images: autoencoders, adversaries, diffusion and flows."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from corpus import WITHOUT_LOSS, Case, floats, images, labels, tokens


class Sampling(layers.Layer):
    """z of its mean and logarithm of variance."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        mean, log_var = inputs
        epsilon = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_var) * epsilon


def _encoder(latent_dim=2):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu", strides=2, padding="same")(inputs)
    x = layers.Dense(6, activation="relu")(layers.Flatten()(x))
    mean = layers.Dense(latent_dim, name="z_mean")(x)
    log_var = layers.Dense(latent_dim, name="z_log_var")(x)
    return keras.Model(inputs, [mean, log_var, Sampling()([mean, log_var])])


def _decoder(latent_dim=2):
    inputs = keras.Input((latent_dim,))
    x = layers.Dense(4 * 4 * 4, activation="relu")(inputs)
    x = layers.Reshape((4, 4, 4))(x)
    x = layers.Conv2DTranspose(4, 3, activation="relu", strides=2, padding="same")(x)
    x = layers.Conv2DTranspose(1, 3, activation="sigmoid", padding="same")(x)
    return keras.Model(inputs, x, name="decoder")


class VariationalAutoencoder(keras.Model):
    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        self.kl_loss_tracker = keras.metrics.Mean(name="kl_loss")

    @property
    def metrics(self):
        return [self.total_loss_tracker, self.kl_loss_tracker]

    def train_step(self, data):
        with tf.GradientTape() as tape:
            mean, log_var, z = self.encoder(data)
            reconstruction = self.decoder(z)
            each = keras.losses.binary_crossentropy(data, reconstruction)
            reconstruction_loss = ops.mean(ops.sum(each, axis=(1, 2)))
            kl_loss = -0.5 * (1 + log_var - ops.square(mean) - ops.exp(log_var))
            kl_loss = ops.mean(ops.sum(kl_loss, axis=1))
            total_loss = reconstruction_loss + kl_loss
        grads = tape.gradient(total_loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights, strict=True))
        self.total_loss_tracker.update_state(total_loss)
        self.kl_loss_tracker.update_state(kl_loss)
        return {"loss": self.total_loss_tracker.result(), "kl_loss": kl_loss}


def variational_autoencoder():
    model = VariationalAutoencoder(_encoder(), _decoder())
    model.compile(optimizer=keras.optimizers.Adam())
    data = (images(channels=1),)
    return Case(model, data, methods=WITHOUT_LOSS, parts=("encoder", "decoder"))


class CallableAutoencoder(VariationalAutoencoder):
    def call(self, inputs, training=None):
        return self.decoder(self.encoder(inputs, training=training)[-1])


def callable_autoencoder():
    """With a `call`: it is pruned as a whole, and scored by its reconstruction."""
    model = CallableAutoencoder(_encoder(), _decoder())
    model.compile(optimizer=keras.optimizers.Adam())
    x = images(channels=1)
    model(x)
    return Case(model, (x,), "binary_crossentropy", (x, x))


class VectorQuantizer(layers.Layer):
    def __init__(self, num_embeddings, embedding_dim, beta=0.25, **kwargs):
        super().__init__(**kwargs)
        self.embedding_dim = embedding_dim
        self.num_embeddings = num_embeddings
        self.beta = beta
        self.embeddings = self.add_weight(
            shape=(embedding_dim, num_embeddings),
            initializer="random_uniform",
            trainable=True,
            name="embeddings_vqvae",
        )

    def call(self, x):
        flat = ops.reshape(x, [-1, self.embedding_dim])
        distances = (
            ops.sum(flat**2, axis=1, keepdims=True)
            + ops.sum(self.embeddings**2, axis=0)
            - 2 * ops.matmul(flat, self.embeddings)
        )
        encodings = ops.one_hot(ops.argmin(distances, axis=1), self.num_embeddings)
        quantized = ops.matmul(encodings, ops.transpose(self.embeddings))
        quantized = ops.reshape(quantized, ops.shape(x))
        commitment = ops.mean((ops.stop_gradient(quantized) - x) ** 2)
        codebook = ops.mean((quantized - ops.stop_gradient(x)) ** 2)
        self.add_loss(self.beta * commitment + codebook)
        return x + ops.stop_gradient(quantized - x)


def quantized_autoencoder():
    """Part of the loss comes from a layer."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, activation="relu", strides=2, padding="same")(inputs)
    x = VectorQuantizer(8, 4, name="vector_quantizer")(layers.Conv2D(4, 1)(x))
    x = layers.Conv2DTranspose(6, 3, activation="relu", strides=2, padding="same")(x)
    outputs = layers.Conv2DTranspose(1, 3, padding="same")(x)
    model = keras.Model(inputs, outputs, name="vq_vae")
    model.compile("adam", loss="mse")
    return Case(model, (images(channels=1), images(channels=1)))


def denoising_autoencoder():
    inputs = keras.Input(shape=(8, 8, 1))
    x = layers.Conv2D(6, (3, 3), activation="relu", padding="same")(inputs)
    x = layers.MaxPooling2D((2, 2), padding="same")(x)
    x = layers.Conv2DTranspose(6, (3, 3), strides=2, activation="relu", padding="same")(
        x
    )
    x = layers.Conv2D(1, (3, 3), activation="sigmoid", padding="same")(x)
    model = keras.Model(inputs, x)
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return Case(model, (images(channels=1), images(channels=1)))


class Unlabelled(keras.Model):
    """Its loss reads what went in; `fit` gets no labels."""

    def __init__(self, width=6):
        super().__init__()
        self.encode = [layers.Dense(width, "relu"), layers.Dense(width // 2)]
        self.decode = {"hidden": layers.Dense(width, "tanh"), "out": layers.Dense(5)}

    def call(self, x):
        for layer in self.encode:
            x = layer(x)
        return self.decode["out"](self.decode["hidden"](x))

    def compute_loss(self, x, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(x - y_pred))


def unlabelled_autoencoder():
    model = Unlabelled()
    model.compile(optimizer="adam")
    model(floats(6, 5))
    return Case(model, (floats(6, 5),))


def _discriminator(channels=1):
    return keras.Sequential(
        [
            keras.Input((8, 8, channels)),
            layers.Conv2D(4, kernel_size=4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(1, activation="sigmoid"),
        ],
        name="discriminator",
    )


def _generator(latent_dim, channels=1):
    return keras.Sequential(
        [
            keras.Input((latent_dim,)),
            layers.Dense(4 * 4 * 4, use_bias=False),
            layers.BatchNormalization(),
            layers.Reshape((4, 4, 4)),
            layers.Conv2DTranspose(4, kernel_size=4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(channels, 5, padding="same", activation="sigmoid"),
        ],
        name="generator",
    )


class Adversaries(keras.Model):
    """Two models and two optimizers, no `call`."""

    def __init__(self, discriminator, generator, latent_dim):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.latent_dim = latent_dim
        self.seed_generator = keras.random.SeedGenerator(1337)

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_fn = loss_fn
        self.d_loss_metric = keras.metrics.Mean(name="d_loss")
        self.g_loss_metric = keras.metrics.Mean(name="g_loss")

    @property
    def metrics(self):
        return [self.d_loss_metric, self.g_loss_metric]

    def train_step(self, real_images):
        n = ops.shape(real_images)[0]
        latents = keras.random.normal((n, self.latent_dim), seed=self.seed_generator)
        generated = self.generator(latents)
        combined = ops.concatenate([generated, real_images], axis=0)
        target = ops.concatenate([ops.ones((n, 1)), ops.zeros((n, 1))], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(target, self.discriminator(combined))
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        with tf.GradientTape() as tape:
            judged = self.discriminator(self.generator(latents))
            g_loss = self.loss_fn(ops.zeros((n, 1)), judged)
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        self.d_loss_metric.update_state(d_loss)
        self.g_loss_metric.update_state(g_loss)
        return {m.name: m.result() for m in self.metrics}


def adversaries():
    model = Adversaries(_discriminator(), _generator(4), latent_dim=4)
    model.compile(
        d_optimizer=keras.optimizers.Adam(learning_rate=3e-4),
        g_optimizer=keras.optimizers.Adam(learning_rate=3e-4),
        loss_fn=keras.losses.BinaryCrossentropy(),
    )
    parts = ("generator", "discriminator")
    return Case(model, (images(channels=1),), methods=WITHOUT_LOSS, parts=parts)


class Critics(keras.Model):
    """Wasserstein distance with a penalty of gradients, and classes as conditions."""

    def __init__(self, discriminator, generator, latent_dim, num_classes, steps=2):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.latent_dim, self.num_classes, self.d_steps = latent_dim, num_classes, steps
        self.gp_weight = 10.0

    def compile(self, d_optimizer, g_optimizer, d_loss_fn, g_loss_fn):
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer
        self.d_loss_fn, self.g_loss_fn = d_loss_fn, g_loss_fn

    def gradient_penalty(self, real, fake):
        alpha = tf.random.uniform([tf.shape(real)[0], 1, 1, 1])
        between = real + alpha * (fake - real)
        with tf.GradientTape() as tape:
            tape.watch(between)
            judged = self.discriminator(between, training=True)
        gradients = tape.gradient(judged, between)
        norm = ops.sqrt(ops.sum(ops.square(gradients), axis=[1, 2, 3]) + 1e-12)
        return ops.mean((norm - 1.0) ** 2)

    def _pair(self, real, one_hot):
        n = tf.shape(real)[0]
        z = tf.concat([tf.random.normal((n, self.latent_dim)), one_hot], axis=1)
        planes = tf.repeat(one_hot[:, None, None, :], 64)
        planes = tf.reshape(planes, (n, 8, 8, self.num_classes))
        fake = tf.concat([self.generator(z, training=True), planes], -1)
        return tf.concat([real, planes], -1), fake

    def train_step(self, data):
        images, one_hot = data
        for _ in range(self.d_steps):
            with tf.GradientTape() as tape:
                real, fake = self._pair(images, one_hot)
                d_loss = self.d_loss_fn(
                    self.discriminator(real, training=True),
                    self.discriminator(fake, training=True),
                )
                penalty = self.gradient_penalty(real, fake)
                d_loss = d_loss + penalty * self.gp_weight
            weights = self.discriminator.trainable_variables
            self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        with tf.GradientTape() as tape:
            fake = self._pair(images, one_hot)[1]
            g_loss = self.g_loss_fn(self.discriminator(fake, training=True))
        weights = self.generator.trainable_variables
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        return {"d_loss": d_loss, "g_loss": g_loss}


def conditional_critics():
    model = Critics(_discriminator(channels=4), _generator(4 + 3), 4, num_classes=3)
    model.compile(
        keras.optimizers.Adam(2e-4, beta_1=0.5),
        keras.optimizers.Adam(2e-4, beta_1=0.5),
        lambda real, fake: ops.mean(fake) - ops.mean(real),
        lambda fake: -ops.mean(fake),
    )
    one_hot = np.eye(3, dtype="float32")[labels()]
    parts = ("generator", "discriminator")
    data = images(channels=1), one_hot
    return Case(model, data, methods=WITHOUT_LOSS, parts=parts)


class ReflectionPadding2D(layers.Layer):
    def __init__(self, padding=(1, 1), **kwargs):
        self.padding = tuple(padding)
        super().__init__(**kwargs)

    def call(self, input_tensor, mask=None):
        width, height = self.padding
        paddings = [[0, 0], [height, height], [width, width], [0, 0]]
        return ops.pad(input_tensor, paddings, mode="reflect")


def _translator(name):
    gamma_init = keras.initializers.RandomNormal(mean=0.0, stddev=0.02)

    def norm(x):
        return layers.GroupNormalization(groups=-1, gamma_initializer=gamma_init)(x)

    inputs = keras.Input((8, 8, 3), name=name + "_img_input")
    x = ReflectionPadding2D()(inputs)
    x = layers.Activation("relu")(norm(layers.Conv2D(4, 3, use_bias=False)(x)))
    for _ in range(2):
        y = layers.Conv2D(4, 3, use_bias=False)(ReflectionPadding2D()(x))
        y = layers.Activation("relu")(norm(y))
        y = norm(layers.Conv2D(4, 3, use_bias=False)(ReflectionPadding2D()(y)))
        x = layers.add([x, y])
    x = layers.Conv2D(3, 3, padding="same", activation="tanh")(x)
    return keras.Model(inputs, x, name=name)


class Cycle(keras.Model):
    """Four models; `call` gives many images, and its step takes pairs of images."""

    def __init__(self, generator_G, generator_F, discriminator_X, discriminator_Y):
        super().__init__()
        self.gen_G, self.gen_F = generator_G, generator_F
        self.disc_X, self.disc_Y = discriminator_X, discriminator_Y
        self.lambda_cycle = 10.0

    def call(self, inputs):
        fake = self.gen_G(inputs)
        return self.disc_X(inputs), self.disc_Y(fake), self.gen_F(fake)

    def compile(self, optimizers, gen_loss_fn, disc_loss_fn):
        super().compile()
        self.optimizers = optimizers
        self.generator_loss_fn = gen_loss_fn
        self.discriminator_loss_fn = disc_loss_fn
        self.cycle_loss_fn = keras.losses.MeanAbsoluteError()

    def train_step(self, batch_data):
        real_x, real_y = batch_data
        with tf.GradientTape(persistent=True) as tape:
            fake_y, fake_x = self.gen_G(real_x), self.gen_F(real_y)
            cycle = self.cycle_loss_fn(real_x, self.gen_F(fake_y, training=True))
            cycle += self.cycle_loss_fn(real_y, self.gen_G(fake_x, training=True))
            judged = self.disc_X(fake_x), self.disc_Y(fake_y)
            gen_loss = sum(map(self.generator_loss_fn, judged))
            gen_loss = gen_loss + cycle * self.lambda_cycle
            disc_loss = self.discriminator_loss_fn(self.disc_X(real_x), judged[0])
            disc_loss += self.discriminator_loss_fn(self.disc_Y(real_y), judged[1])
        pairs = (self.gen_G, self.gen_F), (self.disc_X, self.disc_Y)
        losses = gen_loss, disc_loss
        for loss, models, optimizer in zip(losses, pairs, self.optimizers, strict=True):
            weights = [w for m in models for w in m.trainable_variables]
            optimizer.apply(tape.gradient(loss, weights), weights)
        return {"gen_loss": gen_loss, "disc_loss": disc_loss}


def cycle():
    mse = keras.losses.MeanSquaredError()
    discriminators = _discriminator(3), _discriminator(3)
    discriminators[1].name = "discriminator_Y"
    model = Cycle(_translator("G"), _translator("F"), *discriminators)
    model.compile(
        [keras.optimizers.Adam(2e-4, beta_1=0.5), keras.optimizers.Adam(2e-4)],
        gen_loss_fn=lambda fake: mse(ops.ones_like(fake), fake),
        disc_loss_fn=lambda real, fake: (
            mse(ops.ones_like(real), real) + mse(ops.zeros_like(fake), fake)
        ),
    )
    model(images())
    return Case(model, (images(), images()[::-1].copy()), methods=WITHOUT_LOSS)


def _denoiser(size=8):
    @keras.saving.register_keras_serializable("corpus")
    def sinusoidal_embedding(x):
        frequencies = ops.exp(ops.linspace(0.0, 3.0, 4))
        angular_speeds = ops.cast(2.0 * np.pi * frequencies, "float32")
        parts = [ops.sin(angular_speeds * x), ops.cos(angular_speeds * x)]
        return ops.concatenate(parts, axis=3)

    def residual(width):
        def apply(x):
            same = x if x.shape[3] == width else layers.Conv2D(width, 1)(x)
            x = layers.BatchNormalization(center=False, scale=False)(x)
            x = layers.Conv2D(width, 3, padding="same", activation="swish")(x)
            return layers.Add()([layers.Conv2D(width, 3, padding="same")(x), same])

        return apply

    noisy = keras.Input((size, size, 3))
    variances = keras.Input((1, 1, 1))
    e = layers.Lambda(sinusoidal_embedding, output_shape=(1, 1, 8))(variances)
    e = layers.UpSampling2D(size=size, interpolation="nearest")(e)
    x = layers.Concatenate()([layers.Conv2D(4, kernel_size=1)(noisy), e])
    skip = x = residual(6)(x)
    x = layers.AveragePooling2D(pool_size=2)(x)
    x = layers.UpSampling2D(size=2, interpolation="bilinear")(residual(8)(x))
    x = residual(6)(layers.Concatenate()([x, skip]))
    x = layers.Conv2D(3, kernel_size=1, kernel_initializer="zeros")(x)
    return keras.Model([noisy, variances], x, name="residual_unet")


class Diffusion(keras.Model):
    """A network, its running mean, and no `call`."""

    def __init__(self, ema=0.9):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = _denoiser()
        self.ema = ema

    def fit(self, *args, **kwargs):
        self.ema_network = keras.models.clone_model(self.network)
        self.ema_network.set_weights(self.network.get_weights())
        return super().fit(*args, **kwargs)

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")

    @property
    def metrics(self):
        return [self.noise_loss_tracker]

    def train_step(self, images):
        images = self.normalizer(images, training=True)
        noises = keras.random.normal(ops.shape(images))
        angles = keras.random.uniform((ops.shape(images)[0], 1, 1, 1), 0.02, 1.5)
        signal_rates, noise_rates = ops.cos(angles), ops.sin(angles)
        noisy = signal_rates * images + noise_rates * noises
        with tf.GradientTape() as tape:
            predicted = self.network([noisy, noise_rates**2], training=True)
            noise_loss = self.loss(noises, predicted)
        weights = self.network.trainable_weights
        self.optimizer.apply(tape.gradient(noise_loss, weights), weights)
        self.noise_loss_tracker.update_state(noise_loss)
        pairs = zip(self.network.weights, self.ema_network.weights, strict=True)
        for weight, ema_weight in pairs:
            ema_weight.assign(self.ema * ema_weight + (1 - self.ema) * weight)
        return {m.name: m.result() for m in self.metrics}


def diffusion():
    model = Diffusion()
    model.normalizer.adapt(images(8))
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4),
        loss=keras.losses.mean_absolute_error,
    )
    data = (images(),)
    return Case(model, data, methods=WITHOUT_LOSS, parts=("network",))


class NoisePrediction(keras.Model):
    """Draws its noise within `call`, and compares with it in `compute_loss`."""

    def __init__(self, network, timesteps=10):
        super().__init__()
        self.network = network
        self.alphas = np.cumprod(1 - np.linspace(1e-4, 0.2, timesteps), dtype="float32")
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, x, training=None):
        n = ops.shape(x)[0]
        seed = self.seed_generator
        t = keras.random.randint((n,), 0, len(self.alphas), seed=seed)
        share = ops.reshape(ops.take(self.alphas, t), (-1, 1, 1, 1))
        noise = keras.random.normal(ops.shape(x), seed=seed)
        noisy = ops.sqrt(share) * x + ops.sqrt(1 - share) * noise
        return {"noise": noise, "predicted": self.network([noisy, 1 - share])}

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return ops.mean((y_pred["noise"] - y_pred["predicted"]) ** 2)


def noise_prediction():
    network = _denoiser()
    # Its last kernel is zeros, and nothing before it would get a gradient.
    last = network.layers[-1].kernel
    last.assign(keras.initializers.GlorotUniform(0)(last.shape))
    model = NoisePrediction(network)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model(images())
    return Case(model, (images(),))


def _coupling(units=6, dim=2):
    x = keras.Input((dim,))
    t, s = x, x
    for _ in range(2):
        regularizer = keras.regularizers.l2(0.01)
        t = layers.Dense(units, "relu", kernel_regularizer=regularizer)(t)
        s = layers.Dense(units, "relu", kernel_regularizer=regularizer)(s)
    t = layers.Dense(dim, activation="linear")(t)
    s = layers.Dense(dim, activation="tanh")(s)
    return keras.Model(inputs=x, outputs=[s, t])


class RealFlow(keras.Model):
    """A list of models, masks that are no weights, and calls in both directions."""

    def __init__(self, num_coupling_layers):
        super().__init__()
        self.masks = np.array([[0, 1], [1, 0]] * (num_coupling_layers // 2), "float32")
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.layers_list = [_coupling() for _ in range(num_coupling_layers)]

    @property
    def metrics(self):
        return [self.loss_tracker]

    def call(self, x, training=True):
        log_det_inv, direction = 0, -1 if training else 1
        for i in range(len(self.layers_list))[::direction]:
            masked, reversed_mask = x * self.masks[i], 1 - self.masks[i]
            s, t = self.layers_list[i](masked)
            s, t = s * reversed_mask, t * reversed_mask
            gate = (direction - 1) / 2
            scaled = x * ops.exp(direction * s) + direction * t * ops.exp(gate * s)
            x = reversed_mask * scaled + masked
            log_det_inv += gate * ops.sum(s, axis=1)
        return x, log_det_inv

    def log_loss(self, data):
        y, logdet = self(data)
        likelihood = -0.5 * ops.sum(y**2 + np.log(2 * np.pi), axis=1)
        return -ops.mean(likelihood + logdet)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.log_loss(data)
        g = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(g, self.trainable_variables, strict=True))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


def real_flow():
    model = RealFlow(num_coupling_layers=4)
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=1e-4))
    model(floats(6, 2))
    return Case(model, (floats(6, 2),), methods=WITHOUT_LOSS)


class MaskedConv(layers.Layer):
    """Zeros in its kernel's future, anew in every call."""

    def __init__(self, mask_type, **kwargs):
        super().__init__()
        self.mask_type = mask_type
        self.conv = layers.Conv2D(**kwargs)

    def build(self, input_shape):
        self.conv.build(input_shape)
        height, width = self.conv.kernel.shape[:2]
        self.mask = np.zeros(self.conv.kernel.shape, "float32")
        self.mask[: height // 2] = 1.0
        self.mask[height // 2, : width // 2] = 1.0
        if self.mask_type == "B":
            self.mask[height // 2, width // 2] = 1.0

    def call(self, inputs):
        self.conv.kernel.assign(self.conv.kernel * self.mask)
        return self.conv(inputs)


class MaskedResidual(layers.Layer):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = layers.Conv2D(filters, kernel_size=1, activation="relu")
        self.pixel_conv = MaskedConv(
            "B", filters=filters // 2, kernel_size=3, activation="relu", padding="same"
        )
        self.conv2 = layers.Conv2D(filters, kernel_size=1, activation="relu")

    def call(self, inputs):
        return layers.add([inputs, self.conv2(self.pixel_conv(self.conv1(inputs)))])


def pixel_convnet():
    inputs = keras.Input((8, 8, 1), batch_size=4)
    options = {"filters": 8, "activation": "relu", "padding": "same"}
    x = MaskedConv(mask_type="A", kernel_size=5, **options)(inputs)
    x = MaskedResidual(filters=8)(x)
    x = MaskedConv(mask_type="B", kernel_size=1, strides=1, **options)(x)
    x = layers.Conv2D(1, 1, activation="sigmoid", padding="valid")(x)
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.RMSprop(5e-4), loss="binary_crossentropy")
    pixels = tokens(4, 64, 2, low=0).reshape(4, 8, 8, 1).astype("float32")
    return Case(model, (pixels, pixels))


MODELS = {
    f.__name__: f
    for f in (
        variational_autoencoder,
        callable_autoencoder,
        quantized_autoencoder,
        denoising_autoencoder,
        unlabelled_autoencoder,
        adversaries,
        conditional_critics,
        cycle,
        diffusion,
        noise_prediction,
        real_flow,
        pixel_convnet,
    )
}
