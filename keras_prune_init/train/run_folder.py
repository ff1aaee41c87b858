"""The folder of a run: it is never overwritten or half-written, and can be resumed.

Functions that read or check files raise a ValueError that names the one that is damaged
or missing.
"""

import csv
import datetime
import json
import math
import pathlib

import keras

from keras_prune_init._arguments import is_number, is_whole
from keras_prune_init._files import TEMPORARY, atomic, check_archive, explained, regular
from keras_prune_init.train import default_config
from keras_prune_init.train.config_checks import flat
from keras_prune_init.train.run_lock import LOCK

# The names a reader of the folder meets; "model" is written again and again.
CONFIG = "config.json"
REPORT = "report.json"
PLOT = "report.png"
HISTORY = "history.csv"
EVENTS = "tensorboard"
MODEL = "model.keras"
STRIPPED = "stripped.keras"
# Of quantization-aware training: the model, its file for phones, and what an unfinished
# one goes on from.
QUANTIZED = "quantized.h5"
INT8 = "int8.tflite"
QUANTIZING = "quantizing.npz"
RESULT = "result.json"
# Of rounds: a folder with those that are whole, and in it one for the training of each.
ROUNDS = "rounds"
ROUNDS_PLOT = "rounds.png"
PROGRESS = "progress-{}.json"  # what there is of the epoch that a step belongs to


def saving(folder: pathlib.Path, when: str, kept: str):
    """Return a context that explains errors while a run is written."""
    advice = f"{kept} Go on with --resume, when the folder can be written to."
    return explained(f"The run in {folder} could not be saved {when}", advice)


def new(config_file: str) -> str:
    """Return a name for the folder of a run, from FILE.py[:ARGUMENT] and the time."""
    file = pathlib.Path(config_file).name
    name = file.replace("_config.py", "").replace(".py", "").replace(":", "-")
    return f"runs/{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def write(path: pathlib.Path, text: str) -> None:
    """Write a text file."""
    with atomic(path) as temporary:
        temporary.write_text(text + "\n")


def write_json(path: pathlib.Path, content) -> None:
    """Write `content` as JSON that people can read."""
    write(path, json.dumps(content, indent=2))


def damaged(path: pathlib.Path, found: object) -> ValueError:
    """Return an error for a file that is not as a run wrote it."""
    return ValueError(
        "The files of a run must be as it wrote them. Received: "
        f"{path}, which is damaged ({found}). Put back a copy of it, or begin anew in "
        "another --workdir."
    )


def read_json(path: pathlib.Path):
    """Return the content of a JSON file, or `None` if it does not exist."""
    if not path.exists():
        return None
    try:
        return json.loads(regular(path).read_text())
    except (ValueError, RecursionError) as e:
        raise damaged(path, e) from e


def read_result(folder: pathlib.Path) -> dict | None:
    """Return the content of result.json, or `None` if there is none yet."""
    result = read_json(folder / RESULT)
    if result is None:
        return None
    if not isinstance(result, dict) or not isinstance(result.get("finished"), bool):
        raise damaged(folder / RESULT, "it does not say whether the run is finished")
    numbers: dict = {"kept": is_whole, "total": is_whole, "sparsity": is_number}
    numbers["effective_sparsity"] = lambda v: v is None or is_number(v)
    if result["finished"]:
        numbers |= dict.fromkeys(("test_accuracy", "test_loss"), is_number)
        numbers |= dict.fromkeys(("epochs", "steps"), lambda v: is_whole(v, 1))
    for key, fits in numbers.items():
        if not fits(result.get(key)):
            raise damaged(folder / RESULT, f"{key} is {result.get(key)!r}")
    return result


def check_files(folder: pathlib.Path, result: dict | None) -> None:
    """Check the files of a run with this result."""
    if result and result["finished"]:
        read_history(folder, result["epochs"])
        for name in (MODEL, STRIPPED):
            _check_archive(folder / name)
        for name in (QUANTIZED, INT8) if "int8_test_accuracy" in result else ():
            if not regular(folder / name).is_file():
                raise damaged(folder / name, "it is not there")
    elif not (folder / MODEL).exists():
        if (folder / HISTORY).exists() or [*folder.glob(PROGRESS.format("*"))]:
            raise damaged(folder / MODEL, "it is not there")
        return  # it did not begin
    elif not result:
        raise damaged(folder / RESULT, "it is not there")
    if not isinstance(read_json(folder / REPORT), dict):
        raise damaged(folder / REPORT, "it is no report")
    if not (folder / PLOT).is_file():
        raise damaged(folder / PLOT, "it is no file")


def _check_archive(path):
    try:
        check_archive(path)
    except Exception as e:  # whatever zipfile meets in a damaged file
        raise damaged(path, e) from e


def read_model(folder: pathlib.Path) -> keras.Model:
    """Return the model with which training continues."""
    path = folder / MODEL
    _check_archive(path)
    try:
        model = keras.models.load_model(path)
    except Exception as e:  # whatever the classes in it raise
        raise ValueError(
            "The model of a run must load, to go on with it. Received: "
            f"{path}, of which Keras says: {e}. Are the modules with its classes, and "
            "the same versions of all packages, installed here?"
        ) from e
    if not getattr(model, "optimizer", None):
        raise damaged(path, "it has no optimizer")
    return model


def write_history(folder: pathlib.Path, rows: list[dict]) -> None:
    """Write one line for each epoch."""
    with atomic(folder / HISTORY) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(k for r in rows for k in r))
        writer.writeheader()
        writer.writerows(rows)


def read_history(folder: pathlib.Path, epochs: int) -> list[dict]:
    """Return the lines of the first `epochs` epochs."""
    if epochs == 0:
        return []
    path = folder / HISTORY
    try:
        with regular(path).open(newline="") as file:
            rows = list(csv.DictReader(file, strict=True))[:epochs]
        numbers = [int(row["epoch"]) for row in rows]
        values = [float(v) for row in rows for v in row.values()]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as e:
        raise damaged(path, e) from e
    if numbers != list(range(1, epochs + 1)) or not all(map(math.isfinite, values)):
        found = f"it must have a line of numbers for each of {epochs} epochs"
        raise damaged(path, found)
    return rows


def read_progress(folder: pathlib.Path, step: int) -> dict:
    """Return the state of an unfinished epoch that was written at this step."""
    path = folder / PROGRESS.format(step)
    progress = read_json(path)
    if progress is None:
        raise damaged(path, "it is not there")
    try:
        known = is_whole(progress["batches"], 1) and progress["step"] == step
        known = known and all(map(is_number, progress["logs"].values()))
    except (KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise damaged(path, "it does not tell what was seen of an epoch")
    return progress


def forget_progress(folder: pathlib.Path, step: int | None) -> None:
    """Delete what was written at other steps; with `None`, at all steps."""
    for path in folder.glob(PROGRESS.format("*")):
        if path.name != PROGRESS.format(step):
            path.unlink(missing_ok=True)


def check_settings(folder: pathlib.Path, config: dict, resume: bool) -> None:
    """Check that a run of `config` may use `folder`, and delete half-written files.

    `config` is nested dicts of JSON values. To `resume`, a run in the folder must have
    the same. An empty folder is no error, so one command can always start a job that
    may be stopped at any moment.

    Raises:
        FileExistsError: If something is in the folder and `resume` is false, or if it
            is not the folder of a run.
        ValueError: If the run in the folder has another configuration.
    """
    names = {path.name for path in folder.iterdir()} - {LOCK}
    used = any(not name.startswith(TEMPORARY) for name in names)
    if used and not resume:
        raise FileExistsError(
            f"A run folder is never overwritten. Received: workdir={folder}, which is "
            "not empty. Add --resume to go on with the run in it, or choose another "
            "--workdir."
        )
    earlier = read_json(folder / CONFIG)
    if not isinstance(earlier, dict | None):
        raise damaged(folder / CONFIG, "it is no configuration")
    if used and earlier is None:
        raise FileExistsError(
            f"Only the folder of a run can be resumed. Received: workdir={folder}, "
            f"which has files but no {CONFIG}. Choose another --workdir."
        )
    # A key that was added to the package since then had its default.
    defaults = json.loads(default_config.get_config().to_json())
    then = flat(defaults) | flat(earlier or config)
    now = flat(defaults) | flat(config)
    changed = [
        f"{key} (then {then.get(key)!r}, now {now.get(key)!r})"
        for key in sorted(then | now)
        if (key in then, then.get(key)) != (key in now, now.get(key))
    ]
    if changed:
        raise ValueError(
            "A run is resumed with the configuration it was started with. Received: "
            f"workdir={folder}, and other values for {'; '.join(changed)}. Use the "
            "values of the first start, or choose another --workdir."
        )
    for path in folder.glob(f"{TEMPORARY}*"):  # of killed processes
        path.unlink()
