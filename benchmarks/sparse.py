"""Layouts that compute with the kept weights only, beside the others: time of a step.

    python benchmarks/sparse.py steps [NETWORK ...]
    python benchmarks/sparse.py sparselab --sparselab-python=PATH
    python benchmarks/sparse.py break-even growth threads rates parts memory
    python benchmarks/sparse.py accuracy --data=idx:FOLDER
    python benchmarks/sparse.py picture

Steps are whole ones: forward, backward, and an update by SGD. Each cell of a table has
a process of its own, where the layouts take turns with the dense network; figures are
medians of pairwise ratios. Cells that are in `results/sparse_SECTION.json` are not
measured again without `--again`.

`steps`: networks pruned at random, the same in each layer, or by SynFlow (VGG-16,
ResNet-20); "kept products" is the share of the dense multiply-adds. `sparselab`: the
library for PyTorch, if the interpreter at PATH has it, two threads each. `break-even`:
the density at which one layer takes as long as with all weights, and the density at
which `layout="auto"` expects it. `growth`: with batch, width and kept weights.
`threads`: one and two. `rates`: the loops alone. `parts`: where the time of a step
goes. `memory`: see memory.py. `accuracy`: an MLP 784-4096-4096-10 at 98 % by SNIP, five
epochs of Adam.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import common
import memory
import sparse_accuracy
import sparse_layers
import sparse_networks
import sparse_parts
import sparse_pictures
import sparse_rival


class Section(NamedTuple):
    """What is measured for some cells of a table, which have the same keys."""

    measure: Callable[..., list[dict]]
    cells: Callable[[argparse.Namespace], list[dict]]
    more: tuple[str, ...] = ()  # options that it needs, too


def steps(options):
    return [
        {"network": network, "sparsity": sparsity}
        for network in options.networks or sparse_networks.NETWORKS
        for sparsity in sparse_networks.SPARSITIES
    ]


def sparselab(options):
    command = [options.python, "-c", "import sparselab"]
    if subprocess.run(command, capture_output=True).returncode:
        sys.stderr.write("No sparselab here. Give --sparselab-python=PATH.\n")
        return []
    return [{"sparsity": s} for s in sparse_networks.SPARSITIES[1:]]


def parts(_):
    names = "network", "sparsity"
    return [dict(zip(names, v, strict=True)) for v in sparse_parts.CELLS.items()]


def growth(_):
    names = "batch", "width", "percent"
    return [
        {"of": of, **dict(zip(names, values, strict=True))}
        for of, cells in sparse_layers.GROWTH.items()
        for values in cells
    ]


def accuracy(options):
    return [
        {"seed": seed, "layout": layout}
        for seed in range(options.seeds)
        for layout in sparse_accuracy.LAYOUTS
    ]


SECTIONS = {
    "steps": Section(sparse_networks.steps, steps),
    "sparselab": Section(sparse_rival.sparselab, sparselab, ("python",)),
    "break-even": Section(
        sparse_layers.break_even, lambda _: [{"layer": v} for v in sparse_layers.LAYERS]
    ),
    "growth": Section(sparse_layers.growth, growth),
    "threads": Section(
        sparse_networks.threads, lambda _: [{"threads": n} for n in (1, 2)]
    ),
    "rates": Section(
        sparse_layers.rates,
        lambda _: [{"sparsity": s} for s in sparse_networks.SPARSITIES],
    ),
    "parts": Section(sparse_parts.parts, parts),
    "accuracy": Section(sparse_accuracy.accuracy, accuracy, ("data",)),
}


def measure(name, cell):
    return SECTIONS[name].measure(**json.loads(cell))


def run(name, options):
    """Measure the cells of a section that are missing, and show all."""
    section, file = SECTIONS[name], f"sparse_{name.replace('-', '_')}"
    more = {key: getattr(options, key) for key in section.more}
    for cell in section.cells(options):
        rows = common.saved(file)
        if not options.again and any(cell.items() <= row.items() for row in rows):
            continue
        sys.stderr.write(f"{name}: {cell}\n")
        given = json.dumps({**cell, **more})
        found = common.fresh_process(__file__, "measure", name, given)
        common.save_networks(file, [{**cell, **row} for row in found], tuple(cell))
    if name != "steps" and common.saved(file):
        sys.stdout.write(f"\n{name}\n\n{common.table(shown(common.saved(file)))}\n")


def shown(rows):
    """Rows without lists, with a word for what never happens, and percents."""
    return [
        {k: text(k, v) for k, v in row.items() if type(v) is not list} for row in rows
    ]


def text(key, value):
    if value is None:
        return "never"
    return f"{100 * value:g} %" if key == "sparsity" else value


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, names = parser.add_argument, list(sparse_networks.NETWORKS)
    known = [*SECTIONS, "memory", "picture"]
    add("sections", nargs="+", metavar="SECTION", help=", ".join([*known, *names]))
    add("--again", action="store_true", help="measure what is in the results, too")
    add("--data", help="idx:FOLDER or npz:FILE of MNIST")
    add("--seeds", type=int, default=3)
    default = os.environ.get("SPARSELAB_PYTHON", sys.executable)
    add("--sparselab-python", dest="python", default=default, metavar="PATH")
    options = parser.parse_args()
    options.networks = [v for v in options.sections if v in names]
    options.sections = [v for v in options.sections if v not in names]
    if unknown := set(options.sections) - set(known):
        parser.error(f"{', '.join(unknown)}: choose from {', '.join([*known, *names])}")
    if "accuracy" in options.sections and not options.data:
        parser.error("accuracy needs --data")
    return options


if __name__ == "__main__":
    common.work_for_another(measure)
    options = parse()
    for name in options.sections:
        if name == "memory":
            memory.run(["3 x 4096"])
        elif name != "picture":
            run(name, options)
        if name in ("steps", "sparselab", "picture"):
            sparse_pictures.save()
            sys.stdout.write(f"\n{sparse_pictures.table()}\n")
