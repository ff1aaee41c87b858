"""Steps of sparselab (PyTorch) beside ours, for sparse.py.

Each library runs in a process of its own, and waits while the other is timed. The
interpreter of sparselab need not have TensorFlow, nor ours PyTorch.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import common

ROUNDS, STEPS, THREADS = 3, 15, 2
WIDTH, DEPTH, BATCH = 4096, 3, 128  # as "3 x 4096" of sparse_networks.py


def serve(sparsity):
    """Time steps of sparselab for each line of the input."""
    import sparselab
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    layers = []
    for _ in range(DEPTH):
        # Without the places that it holds free for weights that move.
        sparse = sparselab.SparseLinear(
            WIDTH, WIDTH, sparsity=sparsity, padding_ratio=0.0
        )
        layers += [sparse, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()

    answer({"sparselab": sparselab.__version__, "torch": torch.__version__})
    for _ in sys.stdin:
        answer(median(step))


def answer(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def median(step):
    """Median seconds of some steps, after two that are not counted."""
    return statistics.median([common.seconds(step) for _ in range(STEPS + 2)][2:])


class Rival:
    """A process that times steps of sparselab when it is called."""

    def __init__(self, python, sparsity, **environment):
        self.process = subprocess.Popen(
            [python, __file__, str(sparsity)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(THREADS), **environment},
        )
        self.versions = self._answer()

    def _answer(self):
        return json.loads(self.process.stdout.readline())

    def __call__(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self):
        self.process.communicate()


def sparselab(sparsity, python):
    """Times of a step of both libraries, and of the dense network, in turns."""
    import sparse_networks
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    network = "3 x 4096"
    models = sparse_networks.forms(network, sparsity, ["sparse"])
    x, y = map(tf.constant, sparse_networks.data(network))
    # PyTorch and sparselab each bring an OpenMP, whose threads wait in loops. They are
    # in each other's way on a busy machine. So this is tried, too, and the best counts.
    patient = Rival(python, sparsity, OMP_WAIT_POLICY="PASSIVE")
    rivals = {"sparselab": Rival(python, sparsity), "sparselab, passive": patient}
    runs = dict(rivals)
    for layout, model in models.items():
        runs[layout] = lambda m=model: median(lambda: m.train_on_batch(x, y))
    rounds = [{k: run() for k, run in runs.items()} for _ in range(ROUNDS)]
    for rival in rivals.values():
        rival.end()
    ms = {k: 1000 * statistics.median(r[k] for r in rounds) for k in runs}
    best = min(ms[k] for k in rivals)
    return [
        {
            **{f"{k} ms": value for k, value in ms.items()},
            "sparse / sparselab": ms["sparse"] / best,
            "sparselab / dense": best / ms["dense"],
            **patient.versions,
        }
    ]


if __name__ == "__main__":
    serve(float(sys.argv[1]))
