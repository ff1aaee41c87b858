"""Prune and train a network whose dense training does not fit into 24 GiB.

    python benchmarks/beyond_memory.py

Four kernels of 20,000 x 20,000 are 6.4 GB of weights, and would be 25.6 GB with their
gradients and Adam's state. 99.9 % of them are removed, the rest is trained for three
steps in the compact layout; each method in a process of its own.
"""

from __future__ import annotations

import sys
import time

import common

WIDTH, SPARSITY, STEPS, BATCH = 20_000, 0.999, 3, 32


def worker(method):
    import keras
    import numpy as np

    import keras_prune_init as kpi

    hidden = [keras.layers.Dense(WIDTH, "relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((WIDTH,)), *hidden, keras.layers.Dense(10)])
    before, start = common.peak_gigabytes(), time.perf_counter()
    pruned = kpi.prune_at_init(
        model, None, method, sparsity=SPARSITY, layout="compact", verbose=0
    )
    scored, peak = time.perf_counter(), common.peak_gigabytes()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, WIDTH)).astype("float32")
    losses = []
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(float(logs["loss"]))
    )
    y = rng.integers(0, 10, len(x))
    pruned.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[seen])
    return {
        "method": method,
        "weights": model.count_params(),
        "stored": pruned.count_params(),
        "GiB with the dense model": before,
        "while pruning": peak,
        "while training": common.peak_gigabytes(),
        "s to prune": scored - start,
        "s to train": time.perf_counter() - scored,
        "losses": losses,
    }


if __name__ == "__main__":
    common.work_for_another(worker)
    rows = [
        common.fresh_process(__file__, "worker", m) for m in ("random", "magnitude")
    ]
    sys.stdout.write(common.table(rows) + "\n")
    common.save("beyond_memory", rows)
