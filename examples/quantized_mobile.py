"""From images to a sparse int8 file: prune, train, train with rounding, export.

    python examples/quantized_mobile.py

Takes two minutes on two cores, and needs no download; with `pip install
'.[export,tfmot]'`. Writes quantized_mobile.tflite, and beside it the int8 file that
needs no training with rounding, to compare.
"""

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import keras_prune_init as kpi
from keras_prune_init import models
from keras_prune_init.train.data.loading import load_images

EPOCHS, QUANTIZED_EPOCHS, BATCH = 4, 1, 64
images = load_images("fashion_mnist_mini")
test = images.test(100)


def fit(model, epochs):
    model.fit(
        images.train(BATCH, epochs=epochs),
        steps_per_epoch=images.steps(BATCH),
        epochs=epochs,
        shuffle=False,
    )
    return model.evaluate(test, verbose=0)[1]


def accuracy_of_file(path):
    run = Interpreter(path).get_signature_runner()
    [name] = run.get_input_details()
    right = [
        next(iter(run(**{name: x.numpy()}).values())).argmax(-1) == y.numpy()
        for x, y in test
    ]
    return np.mean(right)


model = models.mobilenet(images.input_shape, images.classes, alpha=0.5)
model.compile(
    keras.optimizers.Adam(3e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
pruned = kpi.prune_at_init(model, images.train(BATCH), "snip", sparsity=0.9)
print(f"Pruned, in floats: {fit(pruned, EPOCHS):.3f}")

quantized = kpi.tfmot.quantize_aware(pruned)
quantized.optimizer.learning_rate = 3e-4
print(f"With the rounding of int8: {fit(quantized, QUANTIZED_EPOCHS):.3f}")

report = kpi.tfmot.export_int8(
    quantized, "quantized_mobile.tflite", representative_data=test
)
print(f"\n{report}\n")
kpi.export_tflite(
    pruned,
    "quantized_after_training.tflite",
    precision="int8",
    representative_data=images.train(BATCH),
)
for path in ("quantized_mobile.tflite", "quantized_after_training.tflite"):
    print(f"{path}: {accuracy_of_file(path):.3f}")
