"""What copying a model costs, over what `keras.models.clone_model` takes.

    python benchmarks/copying.py

`clone_model` makes the layers anew from their configs and draws new weights; a copy has
the weights and what was compiled, too. Both take turns in one process, after one turn
that is not counted; the figure is the median of 40 pairwise ratios.
"""

from __future__ import annotations

import sys

import common

AIM = 0.5


def build(name):
    import keras

    import keras_prune_init as kpi

    if name == "resnet32":
        return kpi.models.resnet(depth=32)
    return keras.applications.ResNet50(
        weights=None, input_shape=(32, 32, 3), classes=10
    )


def compare(name):
    import keras

    from keras_prune_init.surgery import rebuild

    model = build(name)
    measures = {
        "dense": lambda: common.seconds(lambda: keras.models.clone_model(model)),
        "copy": lambda: common.seconds(lambda: rebuild.copy_model(model)),
    }
    for measure in measures.values():
        measure()
    found = common.ratios(measures)
    return {
        "model": name,
        "clone_model s": round(found["dense"]["seconds"], 3),
        "copy s": round(found["copy"]["seconds"], 3),
        "ratio": found["copy"]["ratio"],
        "quartiles": found["copy"]["quartiles"],
        "aim": AIM,
    }


if __name__ == "__main__":
    rows = [compare(name) for name in ("resnet32", "resnet50")]
    sys.stdout.write(common.table(rows) + "\n")
    common.save("copying", rows)
