"""Write a Keras model, pruned or not, as a checked .tflite file.

    python -m keras_prune_init.export --model=run/model.keras --out=model.tflite \\
        --precision=float16

It prints what became of each kernel, the sizes, and what a phone will do with the file.
"""

import sys

import keras
import numpy as np
from absl import app, flags

import keras_prune_init as kpi
from keras_prune_init import _gc
from keras_prune_init.export import convert

MODEL = flags.DEFINE_string("model", None, "The .keras file.", required=True)
OUT = flags.DEFINE_string("out", None, "The .tflite file to write.", required=True)
PRECISION = flags.DEFINE_enum(
    "precision", "float32", convert.PRECISIONS, "Of the kernels; int8 needs --data."
)
SPARSE = flags.DEFINE_enum(
    "sparse", "auto", ["auto", "true", "false"], "Store kernels as sparse tensors."
)
DATA = flags.DEFINE_string(
    "data", None, "A .npy file of inputs, for int8 and for the comparison with Keras."
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "The only one the file will take. Default: the model's, or any."
)
CHECK = flags.DEFINE_bool("check", True, "Run the file and compare it with Keras.")


def _main(arguments):
    if arguments[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(arguments[1:])}")
    # The loaded model is not among the old objects: its memory serves the converter.
    with _gc.old_objects_aside():
        report = kpi.export_tflite(
            keras.models.load_model(MODEL.value),
            OUT.value,
            precision=PRECISION.value,
            sparse={"auto": "auto", "true": True, "false": False}[SPARSE.value],
            representative_data=DATA.value and np.load(DATA.value),
            batch_size=BATCH_SIZE.value,
            check=CHECK.value,
        )
    sys.stdout.write(f"{report}\n")


if __name__ == "__main__":
    app.run(_main)
