"""Check Keras's version and backend; importing this refuses what does not work."""

import keras
import tensorflow as tf

MINIMUM = (3, 15)

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
# Unless `tf.keras` was looked up before, tensorflow-model-optimization makes it Keras
# 2, and KerasCV cannot be imported any more.
tf.keras.layers  # noqa: B018
