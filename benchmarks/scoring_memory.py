"""Peak memory of scoring the ResNet-50 of keras.applications, 8 images of 224x224.

    python benchmarks/scoring_memory.py

Each method in a process of its own; all of the process counts, also TensorFlow itself.
"""

from __future__ import annotations

import sys

import common

METHODS = ("random", "synflow", "snip", "grasp")
AIMS = {"snip": 6, "grasp": 12}  # GiB


def worker(method):
    import keras
    import numpy as np

    import keras_prune_init as kpi

    model = keras.applications.ResNet50(weights=None)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 224, 224, 3)).astype("float32")
    y = rng.integers(0, 1000, 8)
    before = common.peak_gigabytes()
    kpi.prune_at_init(model, (x, y), method, sparsity=0.9, verbose=0)
    return {
        "method": method,
        "peak GiB": common.peak_gigabytes(),
        "aim": AIMS.get(method, ""),
        "before scoring": before,
    }


if __name__ == "__main__":
    common.work_for_another(worker)
    rows = [common.fresh_process(__file__, "worker", method) for method in METHODS]
    sys.stdout.write(common.table(rows) + "\n")
    common.save("scoring_memory", rows)
