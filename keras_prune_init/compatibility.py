"""What the package runs on, asked once on import."""

from __future__ import annotations

MINIMUM = (3, 15)


def check() -> None:
    """Raise an `ImportError` if Keras is too old or runs on another backend."""
    import keras

    version = keras.__version__
    if tuple(int(v) for v in version.split(".")[:2]) < MINIMUM:
        raise ImportError(
            f"keras_prune_init needs Keras {'.'.join(map(str, MINIMUM))} or newer. "
            f"Received: Keras {version}. Run `pip install -U keras`."
        )
    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            "keras_prune_init runs on the TensorFlow backend of Keras. "
            f"Received: {keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow "
            "before Keras is imported."
        )
