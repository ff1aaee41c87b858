"""What masks cost: time of a `fit` step of the pruned model over the dense one.

The sparse layout, which multiplies with kept weights only, stands beside them.

    python benchmarks/overhead.py

Steps of the models alternate in one process, so that a change of the machine's speed
meets all; the figure is the median of 40 pairwise ratios.
"""

from __future__ import annotations

import sys

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


def compare(name):
    import keras_prune_init as kpi

    dense = build(name)
    masked = kpi.prune_at_init(dense, None, "random", sparsity=0.95)
    sparse = kpi.to_layout(masked, "sparse")
    models = {"dense": dense, "masked": masked, "sparse": sparse}
    found = common.step_ratios(name, models, *common.cifar_batch(128))
    return {
        "model": name,
        "dense step s": round(found["dense"]["seconds"], 4),
        "ratio": found["masked"]["ratio"],
        "quartiles": found["masked"]["quartiles"],
        "aim": AIMS[name],
        "sparse": found["sparse"]["ratio"],
        "batch": 128,
    }


if __name__ == "__main__":
    rows = [compare(name) for name in AIMS]
    sys.stdout.write(common.table(rows) + "\n")
    common.save("overhead", rows)
