"""Real architectures: prune by every method, fit, save, and load all in a new process.

`benchmarks/applications.py` has every family of keras.applications; test_stable.py has
a backbone of KerasCV.
"""

import keras
import numpy as np
import pytest
from helpers import subclassed, transformer
from processes import Forked

import keras_prune_init as kpi

SYNFLOW = kpi.methods.SynFlow(iterations=2)
# The last is the one by which it is trained.
METHODS = {
    "mobilenet": ("grasp",),
    "transformer": ("random", "snip"),
    "subclassed": (SYNFLOW, "grasp"),
}


def mobilenet():
    return keras.applications.MobileNet(
        weights=None, input_shape=(32, 32, 3), classes=5, alpha=0.25
    )


# Attention and normalization make SynFlow run, but its theory does not hold there.
ARCHITECTURES = {
    "mobilenet": mobilenet,
    "transformer": lambda: transformer(length=3),
    "subclassed": subclassed,
}
# Those whose classes are the user's; their files come after all others.
OF_THE_USER = ("transformer", "subclassed")


def data_for(name):
    rng = np.random.default_rng(0)
    if name == "transformer":
        return rng.integers(0, 20, (6, 3)), rng.integers(0, 3, 6)
    shape, classes = ((5,), 3) if name == "subclassed" else ((32, 32, 3), 5)
    return rng.normal(size=(6, *shape)).astype("float32"), rng.integers(0, classes, 6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of all the files."""
    return tmp_path_factory.mktemp("saved")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prune_fit_and_save(name, saved, eagerly):
    x, y = data_for(name)
    model = ARCHITECTURES[name]()
    logits = name != "mobilenet"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss)
    for method in METHODS[name]:
        pruned = kpi.prune_at_init(model, (x, y), method, sparsity=0.9, verbose=0)
        report = kpi.report(pruned)
        assert report.kept == report.total - int(0.9 * report.total + 1e-6)
    assert report.effective is not None
    pruned.fit(x, y, verbose=0)
    pruned.save(saved / f"{name}.keras")
    outputs = np.asarray(pruned(x, training=False))
    np.savez(saved / f"{name}.npz", *pruned.get_weights(), x=x, y=outputs)


def test_all_load_in_a_new_process(saved):
    names = sorted(path.stem for path in saved.glob("*.keras"))
    assert names
    ours = [name for name in names if name.startswith(OF_THE_USER)]
    names = [name for name in names if name not in ours]
    arguments = [saved, *names, "--helpers", *ours]
    process = Forked(saved / "log", "load_and_compare", *arguments)
    assert process.wait() == 0, process.printed()
    compared = [v for v in process.printed().splitlines() if v in ARCHITECTURES]
    assert compared == [*names, *ours]
