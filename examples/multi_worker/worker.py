"""One worker; start.py starts two. On a cluster, start it on each host with TF_CONFIG.

The lines are those of one machine, but for the strategy. All workers see the whole
dataset: batches to score on are dealt out by number, batches to train on are split.
"""

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else runs

import keras  # noqa: E402

import keras_prune_init as kpi  # noqa: E402
from keras_prune_init import models  # noqa: E402
from keras_prune_init.train.data.loading import load_images  # noqa: E402

keras.utils.set_random_seed(0)
images = load_images("fashion_mnist_mini")
with strategy.scope():
    model = models.mlp(images.input_shape, images.classes, depth=3, width=300)
    model.compile(
        keras.optimizers.Adam(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
pruned = kpi.prune_at_init(model, images.train(128), "snip", sparsity=0.95, batches=8)

steps = images.steps(128)
pruned.fit(
    images.train(128, epochs=3),
    steps_per_epoch=steps,
    epochs=3,
    shuffle=False,
    verbose=0,
)
loss, accuracy = pruned.evaluate(images.test(256), verbose=0)
print(f"Masks {kpi.report(pruned).digest[:16]}, test accuracy {accuracy:.3f}")
