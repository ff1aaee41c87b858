"""Write files so that they are complete or absent."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
import zipfile
from collections.abc import Iterator

import tensorflow as tf

# In front of names, because Keras and matplotlib choose the format by the ending.
TEMPORARY = "tmp-"


@contextlib.contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Raise an OSError for errors while files are written.

    `what` says what could not be done; `advice` says what is there now, and what to do.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as e:
        reason = e.message if isinstance(e, tf.errors.OpError) else e
        raise OSError(f"{what}: {reason}. {advice}") from e


def regular(path: str | os.PathLike) -> pathlib.Path:
    """Return the path of a file, or of nothing; a pipe or device may never end."""
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(
            "Only an ordinary file can be read or replaced. Received: "
            f"{path}, which is a folder, a pipe or a device. Pass the path of a file."
        )
    return path


@contextlib.contextmanager
def atomic(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a path beside `path` to write to; at the end, move that file to `path`."""
    path = regular(path)
    # Another process may be writing the same file.
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file)  # or a machine that stops may keep the name and no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_archive(path: pathlib.Path) -> None:
    """Raise some error unless a file, such as a model, is a whole zip archive."""
    with zipfile.ZipFile(regular(path)) as archive:
        broken = archive.testzip()  # Keras reads on past a wrong checksum
    if broken:
        raise ValueError(f"a wrong checksum of {broken}")
