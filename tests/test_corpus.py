"""Models in the idioms of others: Keras trains them, so they are pruned as they are.

`benchmarks/corpus.py` has all of them, by all methods, and more that is done.
"""

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


# For their time: every fourth of our own writing, and those of other packages of which
# no other has the parts. A classifier has its backbone, Llama is built as Gemma is.
OF_OTHERS = ("bert", "gpt2", "resnet", "gemma", "vit", "kimm_lcnet")
TESTED = [
    name
    for i, name in enumerate(MODELS)
    if (i % 4 == 0 or name.startswith("hub-"))
    and name not in {f"hub-{other}" for other in OF_OTHERS}
]
# The other layout takes a third of the time.
COMPACT = frozenset(TESTED[::4])


@pytest.mark.parametrize("name", TESTED)
def test_models_of_others_are_pruned_trained_and_stripped(name):
    case = MODELS[name]()
    if case.parts:
        checks.check_parts(case)
        return
    # All are differentiated when they train; scores of the data are made of half.
    by_data = case.methods != WITHOUT_LOSS and TESTED.index(name) % 2 == 0
    method = "snip" if by_data else "magnitude"
    pruned = checks.check_masked(case, method, eagerly=True)
    if name in COMPACT or case.borrows:
        checks.check_layouts(case, pruned)
