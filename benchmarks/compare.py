"""All methods on LeNet-300-100 or LeNet-5 and MNIST, with equal budgets of steps.

    python benchmarks/compare.py --net=lenet300 --data=idx:FOLDER --work=FOLDER
    python benchmarks/compare.py --net=lenet5 --steps=1500 --data=... --work=...

Each row takes `--steps` training steps in all, those before pruning too, from the same
initial weights of a seed: Adam at 1.2e-3 with a cosine decay over each phase (a round
is one), batches of 60. The error is that after the last step, on the test images. The
cost counts a step with the fraction of the kernels' weights that are left: what ideal
sparse hardware would pay. Methods score on batches of 500 images, as many as they ask
for. Finished runs are in `--work`, which several processes may share, each with some
`--rows`.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import pathlib
import sys
import time

import common
import compare_during
import compare_pictures
import keras
import numpy as np
import tf_keras
from compare_run import NETS, Run

import keras_prune_init as kpi
from keras_prune_init._files import atomic
from keras_prune_init.train.data.loading import load_images


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--net", choices=list(NETS), default="lenet300")
    add("--data", required=True, help="idx:FOLDER or npz:FILE of MNIST")
    add("--work", required=True, type=pathlib.Path)
    add("--steps", type=int, default=3000, help="a multiple of 10")
    add("--seeds", type=int, default=5)
    add("--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.98, 0.99])
    add("--rows", default="", help="run only rows with this in their label")
    options = parser.parse_args()
    if options.steps % 10:
        parser.error(f"--steps must be a multiple of 10, not {options.steps}")
    return options


def dense(run):
    return run.train(run.start, run.steps)


def at_init(run, method, **options):
    return run.train(run.prune(run.start, method, **options), run.steps)


def once(run, method, **options):
    half = run.steps // 2
    pruned = run.prune(run.trained(half), method, **options)
    run.before = run.error(pruned)
    return run.train(pruned, half)


def fine_tuned(run, method):
    # With one schedule over all rounds the rate is too small for the last of them.
    return run.rounds(run.trained(run.steps // 2), 5, "learning_rate", run.steps // 10)


def lottery(run, method):
    fifth = run.steps // 5
    return run.rounds(run.start, 4, 0, fifth)


def rate_rewound(run, method):
    fifth = run.steps // 5
    return run.rounds(run.trained(fifth), 4, "learning_rate", fifth)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: `methods` are the names of one method, the first is used."""

    label: str
    how: object
    methods: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)
    may_refuse: bool = False

    def run(self, run):
        """Return the numbers of a run, or the reason why there are none."""
        try:
            model = self.how(run, *self.methods[:1], **self.options)
        except ValueError as e:  # what `prune` refuses
            if not self.methods and not self.may_refuse:
                raise
            return {"reason": str(e)}
        return run.result(model)


ROWS = [
    Row("dense", dense),
    Row("random with ERK, at init", at_init, ("random",), {"allocation": "erk"}),
    Row("magnitude, at init", at_init, ("magnitude",), {"allocation": "uniform"}),
    Row("SNIP, at init", at_init, ("snip", "sbp")),
    Row("GraSP, at init", at_init, ("grasp", "hbp")),
    Row("SynFlow, at init", at_init, ("synflow",)),
    Row("Robust, at init", at_init, ("robust",)),
    Row("SBP-SR, at init", at_init, ("sbp_sr",)),
    Row("GraSP-SR, at init", at_init, ("grasp_sr",)),
    Row("magnitude, trained", once, ("magnitude",)),
    Row("SNIP, trained", once, ("snip",)),
    Row("OBD, trained", once, ("obd",)),
    Row("OBS, trained", once, ("obs",)),
    Row("L-OBS, trained", once, ("lobs",)),
    Row("skeletonization, trained", once, ("skeleton",), {"what": "channels"}),
    Row("magnitude, 5 rounds", fine_tuned, ("magnitude",)),
    Row("lottery ticket, 4 rounds", lottery, ("magnitude",)),
    Row("rate rewound, 4 rounds", rate_rewound, ("magnitude",)),
    *[
        Row(name, compare_during.moving, options={"name": name})
        for name in compare_during.MOVING
    ],
    Row("gradual magnitude of tfmot", compare_during.gradual),
    Row("hard-concrete gates", compare_during.gates),
    Row("learning-compression", compare_during.learning_compression),
    Row("low rank", compare_during.low_rank, may_refuse=True),
    Row("hinges", compare_during.hinges, may_refuse=True),
]


def check_rows():
    """Every method must have a row."""
    here, known = {m for row in ROWS for m in row.methods}, set(kpi.method_names())
    if here != known:
        raise ValueError(
            "The table needs a row for every method. Received: "
            f"{sorted(here ^ known)} only in one of both. Change ROWS."
        )


def path_of(row, sparsity, seed, options):
    words = "".join(c if c.isalnum() else " " for c in row.label.lower()).split()
    name = [options.net, str(options.steps), *words, f"{sparsity:g}", str(seed)]
    return options.work / f"{'-'.join(name)}.json"


def run_all(rows, options):
    images = load_images(options.data)
    mean, scale = images.normalisation
    test = ((images.x_test - mean) * scale).astype("float32"), images.y_test
    for seed, row in itertools.product(range(options.seeds), rows):
        for sparsity in [0.0] if row.how is dense else options.sparsities:
            path = path_of(row, sparsity, seed, options)
            if path.exists() or options.rows not in row.label:
                continue
            begun = time.perf_counter()
            result = row.run(Run(images, test, options, sparsity, seed))
            result["seconds"] = time.perf_counter() - begun
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(result))
            shown = result.get("reason") or f"{result['error']:.2f} %"
            sys.stderr.write(f"{path.stem}: {shown}, {result['seconds']:.0f} s\n")
            for k in (keras, tf_keras):
                k.backend.clear_session()
            gc.collect()


def collected(rows, options):
    """The finished runs as rows of the results file: means over seeds."""
    found = []
    for row in rows:
        for sparsity in [0.0] if row.how is dense else options.sparsities:
            paths = [path_of(row, sparsity, s, options) for s in range(options.seeds)]
            results = [json.loads(p.read_text()) for p in paths if p.exists()]
            line = {"net": options.net, "row": row.label, "sparsity": sparsity}
            if reasons := [r["reason"] for r in results if "reason" in r]:
                found.append(line | {"reason": reasons[0], "seeds": len(results)})
            elif results:
                found.append(line | means(results))
    return found


def means(results):
    errors = [r["error"] for r in results]
    spread = float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0
    line = {"error": float(np.mean(errors)), "spread": spread, "seeds": len(errors)}
    for key in [k for k in results[0] if k not in line]:
        values = [r[key] for r in results]
        line[key] = None if None in values else float(np.mean(values))
    return line


if __name__ == "__main__":
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    check_rows()
    run_all(ROWS, options)
    found = collected(ROWS, options)
    common.save(f"compare_{options.net}", found)
    sys.stdout.write(compare_pictures.table(found) + "\n")
    compare_pictures.save(f"compare_{options.net}", found)
