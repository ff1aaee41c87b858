"""Time and memory of `prune_at_init`, in multiples of one training pass.

    python benchmarks/scoring.py --runs 3   # all, 16 minutes on two cores
    python benchmarks/scoring.py --only vgg16 --method synflow

Each row is a fresh process, so imports of TensorFlow's kernels and tracing count. The
unit, measured afterwards in the same process, is the median of a steady, compiled
forward and backward pass of the same model on the same batch of 128. The published
PyTorch code, on this kind of machine and in its own unit, took (ResNet-32 / VGG-16-BN):
SNIP 1.1 / 1.6, GraSP 5.0 / 5.2, SynFlow-100 8.7 / 39.5, magnitude 0.04 / 0.27.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import common

METHODS = ("random", "magnitude", "snip", "grasp", "synflow")
FEW, MANY = 4, 12
AIMS = {
    ("resnet32", "snip"): 4,
    ("vgg16", "snip"): 1.6,
    ("resnet32", "grasp"): 12,
    ("vgg16", "grasp"): 4.5,
    ("resnet32", "synflow"): 6,
    ("vgg16", "synflow"): 8,
}
AIMS_FURTHER = {
    ("resnet32", "snip"): 1.1,
    ("vgg16", "snip"): 1.1,
    ("resnet32", "grasp"): 3.8,
    ("vgg16", "grasp"): 3.1,
}


def build(name):
    import keras_prune_init as kpi

    if name == "resnet32":
        return kpi.models.resnet(depth=32)
    if name.startswith("vgg16"):
        return kpi.models.vgg(depth=16, width=int(name.partition("-")[2] or 64))
    raise ValueError(f"Unknown model {name}.")


def worker(name, method, batches):
    """One measurement; prints JSON."""
    import numpy as np

    import keras_prune_init as kpi

    model = build(name)
    x, y = common.cifar_batch()
    data = np.tile(x, (batches, 1, 1, 1)), np.tile(y, batches)
    start = time.perf_counter()
    kpi.prune_at_init(model, data, method, sparsity=0.95, batches=batches, verbose=0)
    seconds = time.perf_counter() - start
    memory = common.peak_gigabytes()
    unit = common.unit_seconds(model, x, y)
    result = {"seconds": seconds, "unit": unit, "gigabytes": memory}
    sys.stdout.write(json.dumps({**result, "weights": model.count_params()}) + "\n")


def measure(name, method, batches, runs):
    """Median of some fresh processes."""
    got = [
        common.fresh_process(__file__, "--worker", name, method, batches)
        for _ in range(runs)
    ]
    units = [g["seconds"] / g["unit"] for g in got]
    return {
        "units": statistics.median(units),
        "seconds": statistics.median(g["seconds"] for g in got),
        "unit": statistics.median(g["unit"] for g in got),
        "gigabytes": max(g["gigabytes"] for g in got),
        "weights": got[0]["weights"],
    }


def row(name, method, runs):
    first = measure(name, method, 1, runs)
    result = {
        "model": name,
        "method": method,
        "first batch": first["units"],
        "aim": AIMS.get((name, method), 0.3),
        "further batch": "",
        "aim further": AIMS_FURTHER.get((name, method), ""),
        "seconds": first["seconds"],
        "unit seconds": first["unit"],
        "peak GB": first["gigabytes"],
    }
    if method in ("snip", "grasp"):
        few, many = (measure(name, method, n, runs) for n in (FEW, MANY))
        unit = statistics.median([few["unit"], many["unit"]])
        result["further batch"] = (
            (many["seconds"] - few["seconds"]) / (MANY - FEW) / unit
        )
    return result


def growth(runs):
    """Does time grow linearly? SNIP over batches, and over parameters."""
    rows = []
    for name, batches in (
        ("resnet32", 4),
        ("resnet32", 8),
        ("resnet32", 16),
        ("vgg16-32", 1),
        ("vgg16-64", 1),
        ("vgg16-96", 1),
    ):
        got = measure(name, "snip", batches, runs)
        rows.append(
            {
                "model": name,
                "weights": got["weights"],
                "batches": batches,
                "seconds": got["seconds"],
                "units": got["units"],
            }
        )
    return rows


def selection():
    """Seconds to choose masks from 25 million scores."""
    import numpy as np

    import keras_prune_init as kpi

    rng = np.random.default_rng(0)
    scores = {f"layer{i}": rng.random(1_000_000, np.float32) for i in range(25)}
    rows = []
    for allocation in ("global", "uniform", "erk"):
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            kpi.select(scores, 0.95, allocation)
            seconds.append(time.perf_counter() - start)
        rows.append(
            {"select 25M scores": allocation, "seconds": statistics.median(seconds)}
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", nargs=3, metavar=("MODEL", "METHOD", "BATCHES"))
    parser.add_argument("--only", help="one model")
    parser.add_argument("--method", help="one method")
    parser.add_argument("--runs", type=int, default=1, help="fresh processes a figure")
    args = parser.parse_args()
    if args.worker:
        name, method, batches = args.worker
        return worker(name, method, int(batches))
    models = [args.only] if args.only else ["resnet32", "vgg16"]
    methods = [args.method] if args.method else METHODS
    rows = [row(m, method, args.runs) for m in models for method in methods]
    sys.stdout.write(common.table(rows) + "\n")
    if not (args.only or args.method):
        more, chosen = growth(args.runs), selection()
        for part in (more, chosen):
            sys.stdout.write("\n" + common.table(part) + "\n")
        common.save("scoring", rows + more + chosen)


if __name__ == "__main__":
    main()
