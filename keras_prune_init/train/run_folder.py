"""The folder of a run: it is never overwritten or half-written, and can be resumed."""

import csv
import datetime
import functools
import json
import math
import pathlib
import tempfile
import zipfile

import keras

from keras_prune_init import _files
from keras_prune_init._arguments import is_number, is_whole
from keras_prune_init._files import TEMPORARY, atomic
from keras_prune_init.train import default_config
from keras_prune_init.train.run_lock import LOCK, not_writable

# The names a reader of the folder meets; "model" is written again and again.
CONFIG = "config.json"
REPORT = "report.json"
PLOT = "report.png"
HISTORY = "history.csv"
EVENTS = "tensorboard"
MODEL = "model.keras"
STRIPPED = "stripped.keras"
RESULT = "result.json"
PROGRESS = "progress-{}.json"  # what there is of the epoch that a step belongs to


def saving(folder: pathlib.Path, when: str, advice: str):
    """Return a context that explains errors while a run is written."""
    return _files.explained(f"The run in {folder} could not be saved {when}", advice)


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
    """Return the content of a JSON file, or `None` if it does not exist.

    Raises:
        ValueError: If it is damaged.
    """
    if not path.exists():
        return None
    try:
        return json.loads(_files.regular(path).read_text())
    except (ValueError, RecursionError) as e:
        raise damaged(path, e) from e


def read_result(folder: pathlib.Path) -> dict | None:
    """Return the content of result.json, or `None` if there is none yet.

    Raises:
        ValueError: If it is damaged.
    """
    result = read_json(folder / RESULT)
    if result is None:
        return None
    if not isinstance(result, dict) or not isinstance(result.get("finished"), bool):
        raise damaged(folder / RESULT, "it does not say whether the run is finished")
    numbers = {"kept": is_whole, "total": is_whole, "sparsity": is_number}
    if result["finished"]:
        numbers |= dict.fromkeys(("test_accuracy", "test_loss"), is_number)
        numbers["epochs"] = functools.partial(is_whole, least=1)
    for key, fits in numbers.items():
        if not fits(result.get(key)):
            raise damaged(folder / RESULT, f"{key} is {result.get(key)!r}")
    effective = result.get("effective_sparsity")
    if not (effective is None or is_number(effective)):
        raise damaged(folder / RESULT, f"effective_sparsity is {effective!r}")
    return result


def check_finished(folder: pathlib.Path, result: dict) -> None:
    """Raise a ValueError if a file of a finished run is damaged or missing."""
    read_history(folder, result["epochs"])
    for name in (MODEL, STRIPPED):
        _check_archive(folder / name)
    _check_report(folder)


def check_unfinished(folder: pathlib.Path, result: dict | None) -> None:
    """Raise a ValueError if a file of an unfinished run is damaged or missing."""
    if (folder / MODEL).exists():
        if result is None:
            raise damaged(folder / RESULT, "it is not there")
        _check_report(folder)
    elif (folder / HISTORY).exists() or [*folder.glob(PROGRESS.format("*"))]:
        raise damaged(folder / MODEL, "it is not there")


def _check_report(folder):
    if not isinstance(read_json(folder / REPORT), dict):
        raise damaged(folder / REPORT, "it is no report")
    if not (folder / PLOT).is_file():
        raise damaged(folder / PLOT, "it is no file")


def _check_archive(path):
    try:
        with zipfile.ZipFile(_files.regular(path)) as archive:
            broken = archive.testzip()  # Keras reads on past a wrong checksum
    except Exception as e:  # whatever zipfile meets in a damaged file
        raise damaged(path, e) from e
    if broken:
        raise damaged(path, f"a wrong checksum of {broken}")


def read_model(folder: pathlib.Path) -> keras.Model:
    """Return the model with which training continues.

    Raises:
        ValueError: If its file is damaged, or Keras cannot load it.
    """
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
        writer = csv.DictWriter(
            file, fieldnames=dict.fromkeys(k for r in rows for k in r)
        )
        writer.writeheader()
        writer.writerows(rows)


def read_history(folder: pathlib.Path, epochs: int) -> list[dict]:
    """Return the lines of the first `epochs` epochs.

    Raises:
        ValueError: If the file has other lines, or is missing.
    """
    if epochs == 0:
        return []
    path = folder / HISTORY
    try:
        with _files.regular(path).open(newline="") as file:
            rows = list(csv.DictReader(file, strict=True))[:epochs]
        numbers = [int(row["epoch"]) for row in rows]
        values = [float(v) for row in rows for v in row.values()]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as e:
        raise damaged(path, e) from e
    if numbers != list(range(1, epochs + 1)) or not all(map(math.isfinite, values)):
        raise damaged(
            path, f"it must have a line of numbers for each of {epochs} epochs"
        )
    return rows


def write_progress(folder: pathlib.Path, progress: dict) -> None:
    """Write the state of an unfinished epoch, before the model is saved."""
    write_json(folder / PROGRESS.format(progress["step"]), progress)


def read_progress(folder: pathlib.Path, step: int) -> dict:
    """Return what was written at this step.

    Raises:
        ValueError: If it is damaged or missing.
    """
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

    Args:
        folder: The folder of the run.
        config: The configuration as nested dicts of JSON values.
        resume: Whether to continue a run of the same configuration in the folder. A
            folder that does not exist yet is no error, so the same command can always
            start a job that may be stopped at any moment.

    Raises:
        FileExistsError: If something is in the folder and `resume` is false, or if it
            is not the folder of a run.
        ValueError: If the run in the folder has another configuration, or a damaged
            one.
        PermissionError: If the folder cannot be written to.
    """
    used = folder.exists() and any(
        not path.name.startswith(TEMPORARY) and path.name != LOCK
        for path in folder.iterdir()
    )
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
    earlier = {**_flat(defaults), **_flat(earlier or config)}
    changed = _differences(earlier, {**_flat(defaults), **_flat(config)})
    if changed:
        raise ValueError(
            "A run is resumed with the configuration it was started with. Received: "
            f"workdir={folder}, and other values for {'; '.join(changed)}. Use the "
            "values of the first start, or choose another --workdir."
        )
    _check_writable(folder)


def _check_writable(folder):
    """Check that the folder can be written to, and delete files of killed processes."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=there):
            pass
        for path in folder.glob(f"{TEMPORARY}*"):
            path.unlink()
    except OSError as e:
        raise not_writable(folder, there, e) from e


def _flat(config, prefix=""):
    """Return `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _differences(old, new):
    return [
        f"{key} (then {old.get(key)!r}, now {new.get(key)!r})"
        for key in sorted(old.keys() | new.keys())
        if (key in old, old.get(key)) != (key in new, new.get(key))
    ]
