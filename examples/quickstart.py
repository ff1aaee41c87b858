"""Prune a network before its first training step, then train it like any other.

    python examples/quickstart.py

Takes a quarter of a minute on two cores, and needs no download.
"""

import keras

import keras_prune_init as kpi
from keras_prune_init import models
from keras_prune_init.train.data.loading import load_images

images = load_images("fashion_mnist_mini")  # 10,000 real images, part of the package

model = models.mlp(images.input_shape, images.classes, depth=3, width=300)
model.compile(
    keras.optimizers.Adam(),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)

# 90 % of the weights go, chosen by SNIP on one batch. `model` itself is not changed.
pruned = kpi.prune_at_init(model, images.train(128), method="snip", sparsity=0.9)
print(kpi.report(pruned))

# The dataset holds the five epochs one after the other, already shuffled.
steps = images.steps(128)
pruned.fit(images.train(128, epochs=5), steps_per_epoch=steps, epochs=5, shuffle=False)
loss, accuracy = pruned.evaluate(images.test(256), verbose=0)
print(f"Test accuracy with a tenth of the weights: {accuracy:.3f}")

kpi.strip(pruned).save("quickstart.keras")  # ordinary Keras layers, zeros in place
