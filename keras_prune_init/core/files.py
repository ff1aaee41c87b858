"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def atomic(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path beside `path` to write to, and moves it there when that is done."""
    # In front, because Keras and matplotlib choose the format by the ending.
    temporary = path.with_name(f"tmp-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
