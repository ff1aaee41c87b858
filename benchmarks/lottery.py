"""Lottery tickets of LeNet-300-100 on MNIST, against the same masks on other weights.

    python benchmarks/lottery.py --data=idx:FOLDER --work=FOLDER

As Frankle and Carbin (2019, arXiv 1803.03635) for this network: Glorot normal weights,
Adam at 1.2e-3, batches of 60, 20 % of each hidden layer and 10 % of the output layer
removed a round, all training before it counted. Fewer steps than their 50,000. At 21 %
and at 3.6 % of the weights the masks are trained once more from a random draw. The
accuracy is that after the last step, on the test images. It goes on where it stopped.
"""

import argparse
import json
import pathlib
import sys

import common
import keras
import numpy as np

import keras_prune_init as kpi
from keras_prune_init.train.data.loading import load_images

ROUNDS, AGAIN = 15, (7, 15)


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="idx:FOLDER or npz:FILE of MNIST")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    return parser.parse_args()


def compiled(model):
    model.compile(
        keras.optimizers.Adam(1.2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=50,
    )
    return model


def one_seed(images, seed, options):
    """Return the accuracies of all rounds, and of the masks on other weights."""
    keras.utils.set_random_seed(seed)
    model = compiled(
        kpi.models.mlp(
            images.input_shape,
            images.classes,
            depth=3,
            width=(300, 100),
            init="glorot_normal",
        )
    )
    steps = images.steps(60)

    def train(model):
        batches = images.train(60, seed=seed, epochs=-(-options.steps // steps))
        model.fit(batches.take(options.steps), steps_per_epoch=options.steps, verbose=0)

    folder = options.work / f"seed-{seed}-{options.steps}"
    hidden, output = 1 - 0.8**ROUNDS, 1 - 0.9**ROUNDS
    _, history = kpi.iterative_pruning(
        model,
        None,
        "magnitude",
        sparsity=(265_200 * hidden + 1_000 * output) / 266_200,
        allocation={"logits": output, "*": hidden},
        rounds=ROUNDS,
        rewind=0,
        train=train,
        evaluate=images.test(500),
        folder=folder,
        seed=seed,
    )
    rows = [
        {"kept": row.kept / row.total, "ticket": row.metrics["accuracy"]}
        for row in history.rows
    ]
    for number in AGAIN:
        path = folder.with_name(f"{folder.name}-again-{number}.json")
        if not path.exists():
            found = keras.models.load_model(folder / f"round-{number}.keras")
            other = compiled(kpi.sanity.reinitialize(found, seed=1000 + seed))
            train(other)
            accuracy = other.evaluate(images.test(500), return_dict=True, verbose=0)
            path.write_text(json.dumps(accuracy["accuracy"]))
        rows[number]["other weights"] = json.loads(path.read_text())
    return rows


def measure(images, options):
    seeds = [one_seed(images, seed, options) for seed in range(options.seeds)]
    rows = []
    for number, found in enumerate(zip(*seeds, strict=True)):
        row = {"round": number, "kept": found[0]["kept"]}
        for name in ("ticket", "other weights"):
            errors = [100 - 100 * v[name] for v in found if name in v]
            row[f"error of {name}"] = float(np.mean(errors)) if errors else "-"
            row[f"spread of {name}"] = float(np.std(errors)) if errors else "-"
        rows.append(row | {"seeds": options.seeds, "steps": options.steps})
    return rows


if __name__ == "__main__":
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = measure(load_images(options.data), options)
    sys.stdout.write(common.table(rows) + "\n")
    common.save("lottery", rows)
