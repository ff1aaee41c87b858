"""Train with every combination of some values of a configuration.

    python -m keras_prune_init.sweep --workdir=sweeps/methods \\
        --grid="prune.method=snip,synflow;prune.sparsity=0.9,0.98;seed=0,1,2"

Each run is a process of its own, `python -m keras_prune_init.train --resume`, in a
folder of its own. The same command continues a sweep that was stopped. Finished runs
are not repeated. SIGTERM also ends the current run, after it has saved. Other flags,
such as --config.train.epochs=2, are passed to all runs. At the end --workdir has a
table, table.md and accuracy.png.
"""

import pathlib
import sys

from absl import app, flags, logging

from keras_prune_init.sweep import grid, results, runs
from keras_prune_init.train import config_checks

CONFIG = flags.DEFINE_string("config", None, "As for keras_prune_init.train.")
GRID = flags.DEFINE_string("grid", None, "key=a,b;key=c,d", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs.", required=True)


def _main(arguments):
    cells = grid.parse(GRID.value, CONFIG.value)
    common = [f"--config={CONFIG.value}"] if CONFIG.value else []
    common += arguments[1:]
    folder = pathlib.Path(WORKDIR.value)
    flags_of = {grid.name(cell): [*common, *grid.as_flags(cell)] for cell in cells}
    for given in flags_of.values():
        config_checks.check_config(grid.load(given))
    for name, given in flags_of.items():
        runs.prepare(folder / name, given)
    failed = []
    for number, (name, given) in enumerate(flags_of.items(), 1):
        logging.info("run %d of %d: %s", number, len(cells), name)
        if not runs.run(folder / name, given):
            failed.append(name)
            logging.error("%s failed, see %s.log", name, folder / name)
    found = results.read(folder, cells)
    if found:
        sys.stdout.write(results.table(found) + "\n")
        results.save(folder, found)
    if failed:
        sys.exit(f"{len(failed)} of {len(cells)} runs failed: {', '.join(failed)}")


def _parse(arguments):
    return [arguments[0], *flags.FLAGS(arguments, known_only=True)[1:]]


if __name__ == "__main__":
    flags.FLAGS.set_default("verbosity", logging.INFO)
    app.run(_main, flags_parser=_parse)
