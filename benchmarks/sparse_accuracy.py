"""Real data for sparse.py: an MLP, dense and pruned by SNIP, in all layouts."""

from __future__ import annotations

import time

LAYOUTS = ("dense", "masked", "sparse")
SPARSITY, EPOCHS, BATCH = 0.98, 5, 128


def accuracy(layout, seed, data, epochs=EPOCHS):
    """Test accuracy and seconds of `fit` after each epoch."""
    import keras

    import keras_prune_init as kpi
    from keras_prune_init.train.data.loading import load_images

    images = load_images(data)
    keras.utils.set_random_seed(seed)
    model = kpi.models.mlp(images.input_shape, images.classes, depth=3, width=4096)
    if layout != "dense":
        model = kpi.prune_at_init(
            model,
            images.train(BATCH, seed=seed).take(1),
            "snip",
            sparsity=SPARSITY,
            layout=layout,
            seed=seed,
            verbose=0,
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-3)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    seconds, accuracies = [], []
    for epoch in range(epochs):
        begin = time.perf_counter()
        model.fit(images.train(BATCH, seed=1000 * seed + epoch), verbose=0)
        seconds.append(time.perf_counter() - begin)
        accuracies.append(100 * model.evaluate(images.test(1000), verbose=0)[1])
    return [
        {
            "test accuracy %": accuracies[-1],
            "s of training": sum(seconds),
            "after each epoch": accuracies,
            "s of each epoch": seconds,
        }
    ]
