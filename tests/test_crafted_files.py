"""Files of pruned models whose numbers no pruning makes are refused on loading."""

import functools
import io
import tempfile
import zipfile

import h5py
import keras
import numpy as np
import pytest
from helpers import mlp

import keras_prune_init as kpi


@functools.cache
def saved(layout):
    """The parts of the file of a pruned model."""
    pruned = kpi.prune_at_init(mlp(), None, "magnitude", layout=layout, sparsity=0.5)
    with tempfile.TemporaryDirectory() as folder:
        pruned.save(f"{folder}/a.keras")
        with zipfile.ZipFile(f"{folder}/a.keras") as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def crafted(folder, layout, change):
    """A saved model with other variables in its first layer."""
    parts = dict(saved(layout))
    weights = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        variables = file[f"layers/{layout}_layer/vars"]
        for name, value in change.items():
            del variables[name]
            variables[name] = value
    parts["model.weights.h5"] = weights.getvalue()
    with zipfile.ZipFile(folder / "b.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return folder / "b.keras"


HALF = np.full((5, 8), 0.5, "float32")
SCALE = np.full((1, 8), 2, "float32")
GAPS = np.ones(20, "uint8")
VALUES = np.ones(20, "float32")


def test_other_numbers_that_a_pruning_makes_are_loaded(tmp_path):
    path = crafted(tmp_path, "masked", {"0": 2 * HALF, "1": SCALE})
    model = keras.models.load_model(path)
    assert model.layers[0].mask.numpy().all()
    path = crafted(tmp_path, "compact", {"2": VALUES[:5], "3": GAPS[:5], "0": SCALE})
    model = keras.models.load_model(path)
    assert np.flatnonzero(model.layers[0].kept_mask("kernel")).tolist() == [
        *(1, 2, 3, 4, 5)
    ]


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("masked", {"0": HALF}, "a mask of kernel with other values than 0 and 1"),
        ("masked", {"0": HALF * np.nan}, "a mask of kernel with other values than"),
        ("masked", {"1": SCALE * np.inf}, "a scale of kernel that is no finite number"),
        ("compact", {"0": SCALE * np.nan}, "a scale of kernel that is no finite"),
        ("compact", {"3": GAPS * 0}, "positions of kernel that do not rise"),
        (
            "compact",
            {"3": GAPS * 3},
            "positions of kernel that do not rise, or too far",
        ),
        ("compact", {"3": -GAPS.astype("int64")}, "positions of kernel"),
        ("compact", {"3": GAPS.astype("uint64") << 62}, "positions of kernel"),
        ("compact", {"3": GAPS * 0.5}, "positions of kernel"),
        ("compact", {"3": GAPS[None]}, "positions of kernel"),
        ("compact", {"2": VALUES[:5], "3": GAPS[:6]}, "5 values at 6 positions"),
    ],
)
def test_numbers_that_no_pruning_makes_are_refused(tmp_path, layout, change, message):
    path = crafted(tmp_path, layout, change)
    with pytest.raises(ValueError, match=f"loads what one saved. Received: {message}"):
        keras.models.load_model(path)
