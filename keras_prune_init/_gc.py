"""Python's garbage collector, which TensorFlow's million objects slow down."""

from __future__ import annotations

import contextlib
import gc

_aside = False


@contextlib.contextmanager
def old_objects_aside():
    """Spare the collector what existed before: with TensorFlow 0.2 s a walk."""
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
