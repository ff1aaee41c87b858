"""Models in the idioms of others: Keras trains them, so they are pruned as they are."""

import importlib

import pytest
from corpus import WITHOUT_LOSS, checks

AREAS = (
    "vision",
    "vision_blocks",
    "vision_tasks",
    "similarity",
    "generative",
    "text",
    "sequences",
    "time_series",
    "tabular",
    "graphs",
    "audio",
    "hub",
)
MODELS = {
    f"{area}-{name}": make
    for area in AREAS
    for name, make in importlib.import_module(f"corpus.{area}").MODELS.items()
}


# The other layout takes a third of the time; the benchmark has it for all.
COMPACT = frozenset([*MODELS][::6])


@pytest.mark.parametrize("name", MODELS)
def test_models_of_others_are_pruned_trained_and_stripped(name):
    """In one pass; `benchmarks/corpus.py` has all methods, and more that is done."""
    case = MODELS[name]()
    if case.parts:
        checks.check_parts(case)
        return
    method = "magnitude" if case.methods == WITHOUT_LOSS else "snip"
    pruned = checks.check_masked(case, method, eagerly=True)
    if name in COMPACT or case.borrows:
        checks.check_layouts(case, pruned)
