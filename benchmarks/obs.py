"""Time and memory of L-OBS: against a loop of single steps, and of whole networks.

    python benchmarks/obs.py
    python benchmarks/obs.py --only resnet50

The loop passes over the inverse of a row once for each weight that goes. Of wide layers
its first steps are timed, and their time counts for all. Networks are pruned to 50 % on
random images, each in a process of its own: weights and images do not matter for time.
Of VGG-16 for CIFAR-10 it is the largest layer, 512 outputs of 4,608 inputs.
"""

import argparse
import sys
import time

import common
import numpy as np

STEPS = 40
LAYERS = [(576, 64), (1152, 16), (2304, 8), (4608, 4)]  # inputs, rows that are timed
NETWORKS = "vgg16", "mobilenetv2", "resnet50"


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    every = ["layers", *NETWORKS]
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    return parser.parse_args().only


def problem(inputs, rows):
    """The inverse of a Hessian of correlated inputs, and weights."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * inputs, inputs)).astype("float32")
    x *= np.linspace(0.1, 2, inputs, dtype="float32")
    hessian = (x.T @ x).astype(float) / len(x)
    hessian.flat[:: inputs + 1] += 0.01 * np.trace(hessian) / inputs
    return np.linalg.inv(hessian), rng.normal(size=(rows, inputs))


def loop(inverse, w, steps):
    """Remove weights one by one, with a down-date of the whole inverse at each."""
    inverse, w = inverse.copy(), w.copy()
    free = np.ones(len(w), bool)
    for _ in range(steps):
        cost = np.where(free, w * w / np.diag(inverse), np.inf)
        q = np.argmin(cost)
        column = inverse[:, q].copy()
        w -= w[q] / column[q] * column
        inverse -= np.outer(column, column) / column[q]
        inverse[q, q], free[q], w[q] = 1, False, 0


def layer(inputs, rows):
    from keras_prune_init.methods.lobs import WIDEST_DOUBLE
    from keras_prune_init.scoring import elimination

    inverse, weights = problem(int(inputs), int(rows))
    if len(inverse) > WIDEST_DOUBLE:
        inverse = inverse.astype("float32")
    steps = min(STEPS, len(inverse))
    pairs = []
    for _ in range(3):
        start = time.perf_counter()
        loop(inverse, weights[0].astype(inverse.dtype), steps)
        middle = time.perf_counter()
        elimination.removal_costs(inverse[None], weights[None])
        end = time.perf_counter()
        single = (middle - start) / steps * len(inverse)
        pairs.append((single, (end - middle) / len(weights)))
    single, blocked = np.median(pairs, axis=0)
    ratio = float(np.median([a / b for a, b in pairs]))
    return {
        "inputs": len(inverse),
        "loop, seconds a row": single,
        "blocked, seconds a row": blocked,
        "ratio": ratio,
    }


def _inputs(layer):
    kernel = getattr(layer, "kernel", None)
    return 0 if kernel is None else int(np.prod(kernel.shape[:-1]))


def network(name):
    import keras

    import keras_prune_init as kpi

    keras.utils.set_random_seed(0)
    filters = None
    if name == "vgg16":
        model, batch = kpi.models.vgg((32, 32, 3), 10, depth=16), 128
        filters = f"^{max(model.layers, key=_inputs).name}$"
    elif name == "mobilenetv2":
        model = keras.applications.MobileNetV2((224, 224, 3), weights=None)
        batch = 32
    else:
        model, batch = keras.applications.ResNet50(weights=None), 32
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8 * batch, *model.input_shape[1:])).astype("float32")
    data = [x[i : i + batch] for i in range(0, len(x), batch)]
    before, start = common.peak_gigabytes(), time.perf_counter()
    pruned = kpi.prune(
        model, iter((v,) for v in data), "lobs", sparsity=0.5, filters=filters
    )
    return {
        "network": f"{name}, {'largest layer' if filters else '224 pixels'}",
        "weights": kpi.report(pruned).total,
        "images": len(x),
        "minutes": (time.perf_counter() - start) / 60,
        "peak GiB": common.peak_gigabytes(),
        "GiB before": before,
    }


if __name__ == "__main__":
    common.work_for_another(layer, network)
    wanted = parse()
    if "layers" in wanted:
        rows = [common.fresh_process(__file__, "layer", *size) for size in LAYERS]
        sys.stdout.write(common.table(rows) + "\n")
        common.save("obs_layers", rows)
    for name in NETWORKS:
        if name not in wanted:
            continue
        row = common.fresh_process(__file__, "network", name)
        sys.stdout.write(common.table([row]) + "\n")
        sys.stdout.flush()
        common.save_networks("obs", [row])
