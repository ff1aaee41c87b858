"""Run as a process of its own: load pruned models, compare their weights and outputs.

Arguments: a folder, and names of models in it that need this package only; after
`--helpers` names of those that need the classes of the user too. Each is a pair of
`NAME.keras` and `NAME.npz` (x, y and the weights).
"""

import pathlib
import sys

import numpy as np

import keras_prune_init  # noqa: F401, the only package import that loading may need


def compare(path):
    import keras

    model = keras.saving.load_model(path)
    data = np.load(path.with_suffix(".npz"))
    for number, value in enumerate(model.get_weights()):
        np.testing.assert_array_equal(value, data[f"arr_{number}"])
    # Kernels that split sums over threads do not round alike in every process.
    y = model(data["x"], training=False)
    size = np.abs(data["y"]).max()
    np.testing.assert_allclose(np.asarray(y), data["y"], rtol=0, atol=1e-5 * size)


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    for name in names:
        if name == "--helpers":
            import helpers  # noqa: F401, registers the classes of the user

            continue
        compare(pathlib.Path(folder, f"{name}.keras"))
        sys.stdout.write(f"{name}\n")
