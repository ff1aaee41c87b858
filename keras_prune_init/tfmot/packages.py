"""tf_keras (Keras 2) and tfmot, which are imported when they are first needed."""

from __future__ import annotations

import importlib
import os
from typing import Any

# With it, `tf.keras` is Keras 2.
LEGACY = "TF_USE_LEGACY_KERAS"


def keras2() -> Any:
    """Return the package `tf_keras`."""
    return _imported("tf_keras")


def tfmot() -> Any:
    """Return the package `tensorflow_model_optimization`."""
    return _imported("tensorflow_model_optimization")


def _imported(name):
    before = os.environ.get(LEGACY)
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ImportError(
            "Keras 2 models need tensorflow-model-optimization: pip install "
            f"'keras_prune_init[tfmot]'. Python says: {e}"
        ) from e
    finally:
        # tfmot sets it, for processes that this one starts too.
        if before is None:
            os.environ.pop(LEGACY, None)


def is_keras2(value: Any) -> bool:
    """Whether a class, or that of an object, is one of Keras 2 or derived from one."""
    cls = value if isinstance(value, type) else type(value)
    return any(c.__module__.split(".")[0] == "tf_keras" for c in cls.__mro__)
