"""What masks cost: time of a `fit` step of the pruned model over the dense one.

    python benchmarks/overhead.py

Short `fit` calls of both models alternate in one process, so that a change of the
machine's speed meets both; the figure is the median of the pairwise ratios.
"""

from __future__ import annotations

import statistics
import sys
import time

import common

AIMS = {"resnet20": 1.05, "mlp2048": 1.10}


def build(name):
    import keras

    import keras_prune_init as kpi

    if name == "resnet20":
        model = kpi.models.resnet(depth=20)
    else:
        model = kpi.models.mlp((32, 32, 3), 10, depth=4, width=2048)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    return model


def compare(name, pairs=15, steps=4):
    import keras_prune_init as kpi

    dense = build(name)
    pruned = kpi.prune_at_init(dense, None, "random", sparsity=0.95)
    x, y = common.cifar_batch(128 * steps)

    def step_seconds(model):
        start = time.perf_counter()
        model.fit(x, y, batch_size=128, shuffle=False, verbose=0)
        return (time.perf_counter() - start) / steps

    for model in (dense, pruned):
        step_seconds(model)
        step_seconds(model)
    ratios, times = [], []
    for i in range(pairs):
        order = (dense, pruned) if i % 2 else (pruned, dense)
        seconds = {id(m): step_seconds(m) for m in order}
        ratios.append(seconds[id(pruned)] / seconds[id(dense)])
        times.append(seconds[id(dense)])
    quarters = statistics.quantiles(ratios, n=4)
    return {
        "model": name,
        "dense step s": round(statistics.median(times), 4),
        "ratio": statistics.median(ratios),
        "quartiles": f"{quarters[0]:.2f}-{quarters[2]:.2f}",
        "aim": AIMS[name],
        "batch": 128,
        "pairs": pairs,
    }


if __name__ == "__main__":
    rows = [compare(name) for name in AIMS]
    sys.stdout.write(common.table(rows) + "\n")
    common.save("overhead", rows)
