"""Run as a process of its own: load pruned models and compare their outputs.

Arguments: a folder with `NAME.keras`, `NAME.npz` (x_*, y_*) pairs.
"""

import pathlib
import sys

import numpy as np

import keras_prune_init  # noqa: F401, the only package import that loading may need

if __name__ == "__main__":
    import keras

    if "--helpers" in sys.argv:
        import helpers  # noqa: F401, registers the classes of the user

    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
        model = keras.saving.load_model(path)
        data = np.load(path.with_suffix(".npz"))
        y = model(data["x"], training=False)
        np.testing.assert_array_equal(np.asarray(y), data["y"])
        sys.stdout.write(f"same {path.stem}\n")
