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


@pytest.fixture(params=MODELS)
def case(request):
    return MODELS[request.param]()


def test_keras_trains_it(case):
    checks.train(case.model, case, eagerly=True)


def test_it_is_pruned_trained_and_stripped(case):
    if case.parts:
        checks.check_parts(case)
        return
    checks.check_removing_nothing(case)
    method = "magnitude" if case.methods == WITHOUT_LOSS else "snip"
    pruned = checks.check_masked(case, method, eagerly=True)
    checks.check_cost(case, pruned)
    checks.check_compact(case, "magnitude", eagerly=True)
