"""Files that were saved before modules moved load, and compute what they did."""

import pathlib

import keras
import numpy as np
import pytest

import keras_prune_init as kpi

L = keras.layers
FILES = pathlib.Path(__file__).parent / "files"


@keras.saving.register_keras_serializable("saved_files")
class Block(L.Layer):
    """A layer of a user's own, with layers inside."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.first, self.second = L.Dense(units), L.Dense(units)

    def call(self, x):
        return x + self.second(keras.ops.relu(self.first(x)))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_a_saved_model_loads_and_computes_the_same(layout, eagerly):
    with np.load(FILES / "expected.npz") as expected:
        inputs = {"image": expected["image"], "tokens": expected["tokens"]}
        outputs, digest = expected[layout], str(expected[f"{layout}_digest"])
    model = keras.models.load_model(FILES / f"{layout}.keras")
    assert kpi.report(model).digest == digest
    np.testing.assert_allclose(model.predict(inputs, verbose=0), outputs, atol=1e-6)
    again = kpi.to_layout(model, "masked")
    np.testing.assert_allclose(again.predict(inputs, verbose=0), outputs, atol=1e-6)
