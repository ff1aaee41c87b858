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


# Each idiom once, and of other packages those of which no other has the parts.
TESTED = [
    "vision_blocks-capsules",
    "vision_blocks-video_convnet",
    "vision_tasks-deep_supervision",
    "vision_tasks-detector",
    "similarity-metric_learning",
    "similarity-frozen_encoder",
    "generative-variational_autoencoder",
    "generative-cycle",
    "generative-pixel_convnet",
    "text-given_embeddings",
    "text-mini_gpt",
    "sequences-lstm_translation",
    "tabular-deep_and_cross",
    "tabular-oblivious_trees",
    "graphs-graph_convolutions",
    "graphs-traffic",
    "audio-letters_in_images",
    "hub-llama",
    "hub-backbone_in_sequential",
    "hub-kimm_repvgg",
    "hub-rs_retrieval",
]
# The other layout takes a third of the time.
COMPACT = frozenset(TESTED[1::4])


@pytest.mark.parametrize("name", TESTED)
def test_models_of_others_are_pruned_trained_and_stripped(name):
    case = MODELS[name]()
    if case.parts:
        checks.check_parts(case)
        return
    # All are differentiated when they train; scores of the data are made of half.
    by_data = case.methods != WITHOUT_LOSS and TESTED.index(name) % 2 == 0
    method = "snip" if by_data else "magnitude"
    # More leaves some of them no path to the outputs, which are 0 then, however made.
    pruned = checks.check_masked(case, method, eagerly=True, sparsity=0.5)
    if name in COMPACT or case.borrows:
        checks.check_layouts(case, pruned)
