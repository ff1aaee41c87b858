"""Runs the cells of a figure, each once, and remembers them in `benchmarks/results/`.

A cell is a dict of settings, such as `{"depth": 10, "sparsity": 0.5, "seed": 0}`; a
script's `cell(settings, options)` turns it into a dict of results. Every finished cell
is saved at once, so a run that was stopped goes on where it was, also in another
checkout. Cells run in processes of their own, `--workers` at a time.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable
from concurrent import futures

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import common  # noqa: E402
from tqdm import tqdm  # noqa: E402

# Options that say how to run, not what is measured.
RUNNER = ("data", "seeds", "workers", "threads", "only", "draw")


def parser(description: str, data: str, seeds: int) -> argparse.ArgumentParser:
    """The options that all scripts share, with this script's defaults.

    A script adds its own. Those that are lists only say which cells to run; any other
    must be the same each time a results file is added to.
    """
    result = argparse.ArgumentParser(
        description=description.splitlines()[0], allow_abbrev=False
    )
    add = result.add_argument
    add("--data", default=data, help="data source, as in keras_prune_init.train.data")
    add("--seeds", type=int, default=seeds, help="how many, from 0")
    add("--workers", type=int, default=1, help="cells to run at a time")
    add("--threads", type=int, default=0, help="threads of each worker; 0: TF's choice")
    add("--only", action="append", default=[], metavar="KEY=VALUE,...", type=_only)
    add("--draw", action="store_true", help="redraw the figure and run nothing")
    return result


def _only(text):
    key, _, values = text.partition("=")
    return key, values.split(",")


def run(
    name: str,
    options: argparse.Namespace,
    cells: list[dict],
    cell: Callable[[dict, argparse.Namespace], dict],
    draw: Callable[[dict], object],
    results: pathlib.Path = common.RESULTS,
) -> dict:
    """Run the cells that `results/paper_NAME.json` lacks, then draw `paper_NAME.png`.

    Args:
        name: Name of the figure.
        options: What the script's parser returned.
        cells: Settings of each cell, JSON values; all with a `"seed"`.
        cell: A function of the script's top level, from settings to results.
        draw: From the content of the JSON file to a matplotlib figure.
        results: The folder.

    Returns:
        The content of the JSON file.

    Raises:
        ValueError: If the file was made with other options.
    """
    path = results / f"paper_{name}.json"
    content = _read(path, options)
    done = {_key(row["cell"]) for row in content["rows"]}
    wanted = [
        c for c in cells if all(str(c[k]) in values for k, values in options.only)
    ]
    missing = [c for c in wanted if _key(c) not in done]
    if missing and not options.draw:
        _note_run(content, options)
        for row in _measure(name, missing, cell, options):
            content["rows"].append(row)
            _write(path, content)
    if content["rows"]:
        draw(content).savefig(path.with_suffix(".png"), dpi=150)
    return content


def _read(path, options):
    """What is in the file, or the beginning of a new one."""
    fixed = {k: v for k, v in vars(options).items() if k not in RUNNER}
    fixed = {k: v for k, v in fixed.items() if not isinstance(v, list)}
    new = {"commands": [], "data": data_name(options.data), "options": fixed}
    new["rows"] = []
    if not path.exists():
        return new
    old = json.loads(path.read_text())
    if options.draw:
        return old
    then, now = ({"data": c["data"], **c["options"]} for c in (old, new))
    changed = [
        f"{k} (then {then.get(k)!r}, now {now.get(k)!r})"
        for k in sorted(then.keys() | now.keys())
        if then.get(k) != now.get(k)
    ]
    if changed:
        raise ValueError(
            "A results file is continued with the options it was started with. "
            f"Received: {path.name}, and other values for {'; '.join(changed)}. Use "
            "the values of the first run, or move the file away."
        )
    return old


def _note_run(content, options):
    command = common.command()
    if command not in content["commands"]:
        content["commands"].append(command)
    content["versions"] = common.versions()
    content["processors"] = os.cpu_count()


def _measure(name, cells, cell, options):
    """Rows, as the cells are finished."""
    # Spawned, because TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    start = functools.partial(_start_worker, options.threads)
    with futures.ProcessPoolExecutor(options.workers, context, start) as pool:
        jobs = [pool.submit(_timed, cell, c, options) for c in cells]
        try:
            for job in tqdm(futures.as_completed(jobs), name, len(jobs), smoothing=0):
                yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(threads):
    # Not inherited by the other parts of this process: each reads its own setting.
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def _timed(cell, settings, options):
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(settings["seed"])
    start = time.perf_counter()
    result = cell(settings, options)
    seconds = round(time.perf_counter() - start, 2)
    return {"cell": settings, "result": result, "seconds": seconds}


def _key(settings):
    return json.dumps(settings, sort_keys=True)


def _write(path, content):
    """JSON with a line for each row, in one move."""
    from keras_prune_init.train import run_folder

    head = {k: v for k, v in content.items() if k != "rows"}
    rows = ",\n".join(f"  {json.dumps(row)}" for row in content["rows"])
    text = json.dumps(head, indent=1).removesuffix("\n}")
    path.parent.mkdir(exist_ok=True)
    run_folder.write(path, f'{text},\n "rows": [\n{rows}\n ]\n}}')


def data_name(source: str) -> str:
    """A data source without the place where it lies: `"idx:mnist"`."""
    kind, colon, where = source.partition(":")
    return kind + colon + pathlib.Path(where).stem


@functools.lru_cache(1)
def load(source: str):
    """The images of a source, once a process."""
    from keras_prune_init.train.data.loading import load_images

    return load_images(source)


def scoring_batches(data, seed: int, size: int = 100):
    """Normalised batches of the training set, shuffled by the seed, to score on."""
    return data.train(size, seed=seed)


def first_batch(data, seed: int, size: int = 100):
    """The first of them, as arrays."""
    return next(scoring_batches(data, seed, size).as_numpy_iterator())
