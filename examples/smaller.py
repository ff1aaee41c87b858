"""Half of the multiply-adds before the first training step: smaller, fast everywhere.

    python examples/smaller.py

Takes half a minute on two cores, and needs no download; with `pip install '.[export]'`.
Writes smaller.tflite.
"""

import keras

import keras_prune_init as kpi
from keras_prune_init import models
from keras_prune_init.train.data.loading import load_images

EPOCHS, BATCH = 3, 64
images = load_images("fashion_mnist_mini")

model = models.resnet(images.input_shape, images.classes, depth=14)
model.compile(
    keras.optimizers.SGD(0.05, momentum=0.9),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)

# Whole channels go, with all that they are added to and all who read them.
small = kpi.prune_at_init(
    model,
    images.train(BATCH),
    "snip",
    sparsity=0.5,
    what=kpi.Channels(budget="flops", multiple_of=8),
)
x, _ = next(iter(images.train(BATCH)))
print(kpi.shrink_report(model, small, x))

# An ordinary Keras model: no masks, no wrappers.
small.fit(
    images.train(BATCH, epochs=EPOCHS),
    steps_per_epoch=images.steps(BATCH),
    epochs=EPOCHS,
    shuffle=False,
)
print(f"Test accuracy: {small.evaluate(images.test(100), verbose=0)[1]:.3f}")
print(kpi.export_tflite(small, "smaller.tflite"))
