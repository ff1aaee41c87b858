"""The folder of some rounds: every round is saved whole, and its model comes last."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init._arguments import is_whole
from keras_prune_init._files import (
    TEMPORARY,
    atomic,
    check_archive,
    explained,
    regular,
)
from keras_prune_init.distribute import workers
from keras_prune_init.rounds.history import RoundsHistory
from keras_prune_init.rounds.rewinding import State
from keras_prune_init.surgery.rebuild import enable_workers

SETTINGS = "settings.json"
HISTORY = "history.json"
REWIND = "rewind.npz"
MODEL = "round-{}.keras"


class Nowhere:
    """What stands in for a folder if nothing is saved."""

    rounds = 0

    def begin(self) -> None:
        """Write what the rounds are, unless some are there already."""

    def history(self) -> RoundsHistory:
        """Return the rows of the rounds whose models are saved."""
        return RoundsHistory([])

    def model(self) -> keras.Model | None:
        """Return the model of the last round."""
        return None

    def state(self) -> State | None:
        """Return what later rounds go back to, or `None` if nothing is saved."""
        return None

    def write_state(self, state: State) -> None:
        """Save what later rounds go back to."""

    def write(self, model: keras.Model, history: RoundsHistory) -> None:
        """Save the round that has ended."""


class Folder(Nowhere):
    """Where rounds are kept. Of several processes, the first writes.

    Args:
        path: The folder. It need not exist.
        settings: What must be the same when the rounds go on, as
            `Settings.description` makes it.
        strategy: That of the model.

    Raises:
        ValueError: If the folder holds something else, or rounds of other settings.
    """

    def __init__(
        self, path: str | os.PathLike, settings: dict, strategy: tf.distribute.Strategy
    ):
        self.path, self.strategy = pathlib.Path(path), strategy
        self.writes = strategy.extended.should_checkpoint
        self.settings = json.loads(json.dumps(settings))
        self.rounds = self._rounds()
        told = json.dumps([self.settings, self.rounds]).encode()
        advice = "Call it with the same arguments, and a `folder` that they share."
        workers.check_same(strategy, "arguments and folder", [told], advice)

    def _rounds(self):
        """Check the folder; return the number of the next round that it lacks."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise ValueError(
                f"`folder` must be a folder. Received: folder={path}, which is a file. "
                "Choose another name."
            )
        names = {p.name for p in path.glob("*") if not p.name.startswith(TEMPORARY)}
        if names and SETTINGS not in names:
            raise ValueError(
                "Rounds are saved in a folder of their own. Received: "
                f"folder={path}, which has other files. Choose another one."
            )
        found = [p.stem.rpartition("-")[2] for p in path.glob(MODEL.format("*"))]
        rounds = 1 + max((int(n) for n in found if n.isdecimal()), default=-1)
        if rounds:
            self._check_settings(self._read(SETTINGS, json.loads))
            if is_whole(self.settings["rewind"]) and not (path / REWIND).exists():
                raise self._damaged(path / REWIND, "it is not there")
        return rounds

    def _check_settings(self, then):
        now = self.settings
        changed = [
            f"{key} (then {then.get(key)!r}, now {now.get(key)!r})"
            for key in sorted(then | now)
            if then.get(key) != now.get(key)
        ]
        if changed:
            raise ValueError(
                "Rounds go on with the arguments that they were started with. "
                f"Received: folder={self.path}, and other values of "
                f"{'; '.join(changed)}. Pass those of the first call, or another "
                "folder."
            )

    def _read(self, name, parse):
        path = self.path / name
        try:
            return parse(regular(path).read_text())
        except Exception as e:  # whatever is wrong with the content of a file
            raise self._damaged(path, e) from e

    def _damaged(self, path, found):
        return ValueError(
            "The files of rounds must be as they were written. Received: "
            f"{path}, which is damaged ({found}). Put back a copy of it, or begin anew "
            "in another folder."
        )

    def begin(self):
        if self.writes:
            with self._saving(f"before round {self.rounds}"):
                self.path.mkdir(parents=True, exist_ok=True)
                for path in self.path.rglob(f"{TEMPORARY}*"):  # of killed processes
                    path.unlink()
                if not self.rounds:
                    self._write(SETTINGS, json.dumps(self.settings, indent=2))

    def history(self):
        history = self._read(HISTORY, RoundsHistory.from_json)
        rows = history.rows[: self.rounds]
        if [row.round for row in rows] != list(range(self.rounds)):
            raise self._damaged(self.path / HISTORY, "a round is missing")
        return RoundsHistory(rows)

    def model(self):
        path = self.path / MODEL.format(self.rounds - 1)
        try:
            check_archive(path)
        except Exception as e:  # whatever zipfile meets in a damaged file
            raise self._damaged(path, e) from e
        try:
            with self.strategy.scope():
                return enable_workers(keras.models.load_model(path))
        except Exception as e:  # whatever the classes in it raise
            raise ValueError(
                "The model of a round must load, to go on with it. Received: "
                f"{path}, of which Keras says: {e}. Register your own classes and "
                "functions with `keras.saving.register_keras_serializable`."
            ) from e

    def state(self):
        path = self.path / REWIND
        if not path.exists():
            return None
        try:
            return State.read(path)
        except Exception as e:  # whatever numpy meets in a damaged file
            raise self._damaged(path, e) from e

    def write_state(self, state):
        if self.writes:
            with self._saving("for rewinding"):
                state.write(self.path / REWIND)

    def write(self, model, history):
        number = history.rows[-1].round
        if self.writes:
            with self._saving(f"after round {number}"):
                self._write(HISTORY, history.to_json())
                with atomic(self.path / MODEL.format(number)) as path:
                    model.save(path)

    def _write(self, name, text):
        with atomic(self.path / name) as path:
            path.write_text(text + "\n")

    def _saving(self, when):
        advice = "Earlier rounds are; the same call goes on after them."
        return explained(f"The rounds in {self.path} could not be saved {when}", advice)


def described(value: Any) -> Any:
    """Return what of an argument can be compared with that of another process."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(k): described(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        sha = hashlib.sha256(value.tobytes())
        return f"{value.dtype} {value.shape} {sha.hexdigest()[:16]}"
    name = getattr(value, "__qualname__", None)
    return name or type(value).__qualname__


def described_object(value: Any) -> Any:
    """Describe an object of this package by its class and its attributes."""
    return [type(value).__qualname__, described(vars(value))]
