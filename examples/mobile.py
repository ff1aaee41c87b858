"""A network that a phone runs sparsely: prune, train, export, compare the files.

    python examples/mobile.py

Takes a minute and a half on two cores, and needs no download; with `pip install
'.[export]'`. Writes mobile_dense.tflite and mobile_sparse.tflite.
"""

import keras
import tensorflow as tf

import keras_prune_init as kpi
from keras_prune_init import models
from keras_prune_init.train.data.loading import load_images

EPOCHS, BATCH = 4, 64
images = load_images("fashion_mnist_mini")


def in_color(x, y):
    """Sparse kernels ask for a first convolution on 3 channels."""
    return tf.image.grayscale_to_rgb(tf.image.resize(x, (32, 32))), y


model = models.mobilenet((32, 32, 3), images.classes, alpha=0.5)
model.compile(
    keras.optimizers.Adam(3e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
print(
    "keras.applications' one:",
    kpi.mobile_check(keras.applications.MobileNet(weights=None)),
)

# Nine in ten weights of each 1x1 convolution go, all others stay.
pruned = kpi.prune_at_init(
    model,
    images.train(BATCH).map(in_color),
    "snip",
    sparsity=0.9,
    allocation="uniform",
    filters="pointwise",
)
pruned.fit(
    images.train(BATCH, epochs=EPOCHS).map(in_color),
    steps_per_epoch=images.steps(BATCH),
    epochs=EPOCHS,
    shuffle=False,
)
test = images.test(100).map(in_color)
print(f"Test accuracy: {pruned.evaluate(test, verbose=0)[1]:.3f}")

for name, sparse in (("sparse", "auto"), ("dense", False)):
    report = kpi.export_tflite(
        pruned, f"mobile_{name}.tflite", sparse=sparse, representative_data=test
    )
    print(f"\n{report}")
