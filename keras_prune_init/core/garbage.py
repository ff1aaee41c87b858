"""Python's garbage collector, which TensorFlow's million objects slow down."""

from __future__ import annotations

import contextlib
import gc


@contextlib.contextmanager
def old_objects_aside():
    """Spare the collector what existed before: with TensorFlow 0.2 s a walk."""
    if gc.get_freeze_count():  # the user's own doing, not to be undone
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
