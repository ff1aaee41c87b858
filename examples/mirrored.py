"""Score, prune and train on all GPUs of this machine, or else on two virtual devices.

    python examples/mirrored.py

Takes half a minute on two cores, and needs no download.
"""

import keras
import tensorflow as tf

import keras_prune_init as kpi
from keras_prune_init import models
from keras_prune_init.train import strategies
from keras_prune_init.train.data.loading import load_images

gpus = tf.config.list_physical_devices("GPU")
strategy = strategies.create("mirrored", num_virtual_devices=None if gpus else 2)
print(f"Replicas: {strategy.num_replicas_in_sync}")

images = load_images("fashion_mnist_mini")
with strategy.scope():
    model = models.mlp(images.input_shape, images.classes, depth=3, width=300)
    model.compile(
        keras.optimizers.Adam(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # Keras's own choice does not suit several replicas
    )

# Each replica scores some of the batches. The masks are those of a single device.
pruned = kpi.prune_at_init(model, images.train(128), "snip", sparsity=0.95, batches=8)

steps = images.steps(128)
pruned.fit(images.train(128, epochs=5), steps_per_epoch=steps, epochs=5, shuffle=False)
print(f"Test accuracy: {pruned.evaluate(images.test(256), verbose=0)[1]:.3f}")
print(f"Masks: {kpi.report(pruned).digest[:16]}")
