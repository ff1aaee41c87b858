"""Prune models in the idioms of others with every method, and say what became of each.

    python benchmarks/corpus.py [part of a name, such as vision or hub-bert] [method]

prints a table in markdown: a row for each model of `tests/corpus`, a column for each
method and each other thing that can be done with a pruned model, and below it the
reasons. A cell is one of

- works: class kept, count exact, zeros stay zeros in `fit`, stripped it is the same;
- refused: by an error of this package, which says why before any work starts;
- failed: by any other error, in someone else's words;
- wrong: without an error, but not what it should be.

The column keras says whether Keras trains the model before it is pruned. One method,
magnitude unless another is named, trains in graphs; the others eagerly, as tracing
takes most of the time of so few steps.
"""

from __future__ import annotations

import collections
import importlib
import os
import pathlib
import pkgutil
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# First, as this file has the name of the package.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

import corpus  # noqa: E402
import keras  # noqa: E402
from corpus import checks  # noqa: E402

OTHERS = ("keras", "copy", "compact", "shrink", "cost", "signals")
KINDS = ("works", "refused", "failed", "wrong")
COLUMNS = (*corpus.METHODS, *OTHERS)


def models():
    """`(area, name, make)` of all."""
    for module in pkgutil.iter_modules(corpus.__path__):
        if module.name != "checks":
            found = importlib.import_module(f"corpus.{module.name}").MODELS
            yield from ((module.name, name, make) for name, make in found.items())


def outcome(check) -> tuple[str, str]:
    """What became of it, and the reason."""
    try:
        check()
    except AssertionError as e:
        return "wrong", _first_line(e)
    except Exception as e:  # whatever a model of someone else may raise
        ours = isinstance(e, ValueError | TypeError) and "Received:" in str(e)
        kind = "refused" if ours and "keras_prune_init" in _origin(e) else "failed"
        return kind, f"{type(e).__name__}: {_first_line(e)}"
    return "works", ""


def _origin(error):
    """The file that raised it."""
    frames = error.__traceback__
    while frames.tb_next:
        frames = frames.tb_next
    return frames.tb_frame.f_code.co_filename


def _first_line(error):
    return " ".join(str(error).split())[:300]


def row(make, traced: str) -> dict[str, tuple[str, str]]:
    """`{column: (what became of it, reason)}` of one model."""
    case = make()
    cells = {"keras": outcome(lambda: checks.train(make().model, case, eagerly=True))}
    if case.parts:
        return {**cells, "magnitude": outcome(lambda: checks.check_parts(case))}
    cells["copy"] = outcome(lambda: checks.check_removing_nothing(case))
    for method in case.methods:
        eagerly = method != traced
        cells[method] = outcome(lambda m=method, e=eagerly: _masked(case, m, e))
    cells["compact"] = outcome(lambda: checks.check_compact(case, "magnitude", True))
    for name in ("shrink", "cost", "signals"):
        if name != "signals" or case.methods != corpus.WITHOUT_LOSS:
            cells[name] = outcome(lambda n=name: _with_pruned(case, n))
    return cells


def _masked(case, method, eagerly):
    checks.check_layouts(case, checks.check_masked(case, method, eagerly))


def _with_pruned(case, name):
    pruned = checks.prune(case, "magnitude")
    getattr(checks, f"check_{name}")(case, pruned)


def main(part="", traced="magnitude"):
    print("| model | " + " | ".join(COLUMNS) + " | seconds |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    reasons, counts = collections.defaultdict(list), collections.Counter()
    for area, name, make in models():
        if part not in f"{area}-{name}":
            continue
        keras.utils.set_random_seed(0)
        begin = time.time()
        cells = row(make, traced)
        texts = [cells.get(c, ("", ""))[0] for c in COLUMNS]
        seconds = f"{time.time() - begin:.0f}"
        print(f"| {area}-{name} | " + " | ".join(texts) + f" | {seconds} |", flush=True)
        for column, (kind, reason) in cells.items():
            counts[column in corpus.METHODS, kind] += 1
            if reason:
                reasons[kind, reason].append(f"{area}-{name} {column}")
        keras.backend.clear_session(free_memory=False)
    for kind in ("wrong", "failed", "refused"):
        print(f"\n**{kind}**\n")
        for (k, reason), places in reasons.items():
            if k == kind:
                print(f"- {reason} *({', '.join(places)})*")
    for prunings, title in ((True, "prunings"), (False, "other steps")):
        found = {
            k: counts[prunings, k] for k in ("works", "refused", "failed", "wrong")
        }
        print(f"\n{sum(found.values())} {title}: {found}")


if __name__ == "__main__":
    main(*sys.argv[1:])
