"""Every `>>>` example in a docstring runs as it stands."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import keras_prune_init as kpi
from keras_prune_init import methods
from keras_prune_init.layers import types
from keras_prune_init.masks import densities

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Classes that users do not make: these are results of functions.
RESULTS = {
    *("CostReport", "ExportReport", "FactorizeReport", "MobileReport"),
    *("PruningReport", "RoundsHistory", "ShrinkReport", "SignalReport"),
    *("DepthScales", "Edge", "Moment"),
}
# What `register_...` functions write to.
TABLES = methods._METHODS, densities.ALLOCATIONS, types.TYPES


def _module(value):
    return getattr(value, "__module__", None)


def _module_names():
    found = pkgutil.walk_packages(kpi.__path__, f"{kpi.__name__}.")
    return [m.name for m in found if not m.name.endswith("__main__")]


def _examples():
    """Tests of all docstrings. `doctest` itself passes over decorated functions."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in _module_names():
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            if _module(value) == name and callable(value):
                tests = finder.find(value, f"{name}.{key}", module=False, globs={})
                yield from (test for test in tests if test.examples)


EXAMPLES = {test.name: test for test in _examples()}


@pytest.fixture(autouse=True)
def as_before(tmp_path, monkeypatch):
    """Examples write files and register names."""
    monkeypatch.chdir(tmp_path)
    before = [dict(table) for table in TABLES]
    yield
    for table, content in zip(TABLES, before, strict=True):
        table.clear()
        table.update(content)


@pytest.mark.parametrize("name", EXAMPLES)
def test_runs(name):
    report = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(EXAMPLES[name], out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize(
    "space",
    [
        *(kpi, methods, kpi.callbacks, kpi.models, kpi.initializers),
        *(kpi.mean_field, kpi.sanity),
    ],
)
def test_everything_public_has_one(space):
    own = [k for k, v in vars(space).items() if _module(v) == space.__name__]
    values = [getattr(space, name) for name in getattr(space, "__all__", own)]
    public = {
        f"{_module(value)}.{value.__name__}"
        for value in values
        if inspect.isfunction(value) or inspect.isclass(value)
        if not value.__name__.startswith("_") and value.__name__ not in RESULTS
    }
    assert public - set(EXAMPLES) == set()
