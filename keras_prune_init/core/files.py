"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator

# In front of names, because Keras and matplotlib choose the format by the ending.
TEMPORARY = "tmp-"


@contextlib.contextmanager
def atomic(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path beside `path` to write to, and moves it there when that is done."""
    # Another process may be writing the same file.
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file)  # or a machine that stops may keep the name and no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
