"""Keep Python's garbage collector from searching the million objects of TensorFlow."""

from __future__ import annotations

import contextlib
import gc

_aside = False


@contextlib.contextmanager
def old_objects_aside():
    """Let the collector skip older objects; with TensorFlow a search takes 0.2 s."""
    global _aside
    # The count, too, is a walk over what is frozen. What the user froze stays so.
    if _aside or gc.get_freeze_count():
        yield
        return
    _aside = True
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        _aside = False
