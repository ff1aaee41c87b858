"""Bad input is refused before any work, with the rule, what came and the fix."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp

import keras_prune_init as kpi

BAD_ARGUMENTS = [
    ({"sparsity": 1.0}, "0 <= sparsity < 1. Received: sparsity=1.0"),
    ({"sparsity": -0.1}, "Received: sparsity=-0.1"),
    ({"sparsity": "90%"}, "Received: sparsity='90%'. For 90 %, pass 0.9"),
    ({"method": "snap"}, "Received: method='snap'. Did you mean 'snip'"),
    ({"method": "Synflow"}, "Did you mean 'synflow'"),
    ({"allocation": "layerwise"}, "Received: allocation='layerwise'"),
    ({"iterations": 0}, "whole number, 1 to 100000. Received: iterations=0"),
    ({"iterations": 2, "schedule": "cubic"}, "Received: schedule='cubic'"),
    ({"batch_norm": "off"}, "'train', 'eval'. Received: batch_norm='off'"),
    ({"method": "magnitude", "batch_norm": "eval"}, "does not take these options"),
    ({"method": kpi.get_method("snip"), "iterations": 3}, "beside a SNIP object"),
    ({"batches": 0}, "Received: batches=0"),
    ({"batches": 5}, "batches=5, and a dataset of 1. Lower `batches`"),
    ({"min_per_layer": 30}, "Lower one of the two"),
    ({"filters": "no such layer"}, "at least one layer that can be pruned"),
    ({"dataset": None}, "needs data. Received: method=SNIP, dataset=None"),
    (
        {"dataset": tf.data.Dataset.range(0).map(lambda i: (i, i))},
        "Received: an empty dataset",
    ),
    (
        {
            "dataset": tf.data.Dataset.from_tensor_slices(
                (np.ones((4, 5)), [0, 1, 2, 0])
            )
        },
        "must be batched: .* `dataset.batch",
    ),
    (
        {"dataset": (np.ones((4, 5)), np.array([0, 1, 2, 3]))},
        "from 0 to 2, .* labels from 0 to 3",
    ),
    ({"dataset": (np.ones((4, 5)), np.ones((4, 7)))}, "labels of shape \\(4, 7\\)"),
    (
        {"dataset": (np.ones((4, 6)), np.zeros(4, int))},
        "x of shape \\(4, 6\\) for an input",
    ),
    ({"dataset": (np.ones((4, 5)), np.zeros(3, int))}, "same number of samples"),
    (
        {"dataset": tf.data.Dataset.from_tensors(np.ones((4, 5)))},
        "must give \\(x, y\\)",
    ),
    ({"samples_per_class": 9}, "samples_per_class=9; class 0 has only"),
]


@pytest.mark.parametrize("change, message", BAD_ARGUMENTS)
@pytest.mark.parametrize("function", [kpi.prune_at_init, kpi.score])
def test_bad_arguments_are_refused(function, change, message):
    model = mlp()
    arguments = {"dataset": batch(model), "method": "snip", **change}
    with pytest.raises(ValueError, match=message):
        function(model, **arguments)


def unbuilt():
    return keras.Sequential([L.Dense(3)])


def without_kernels():
    return keras.Sequential([keras.Input((4,)), L.BatchNormalization(), L.ReLU()])


@pytest.mark.parametrize(
    "make, message",
    [
        (
            unbuilt,
            "must be built, so that it has weights. Received: .*Give it an `Input`",
        ),
        (without_kernels, "at least one layer that can be pruned. .*only vectors"),
    ],
)
def test_models_that_cannot_be_pruned_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        kpi.prune_at_init(make(), None, "random")


def test_other_types_are_refused():
    with pytest.raises(
        TypeError, match="must be a keras.Model .* Received: builtins.list"
    ):
        kpi.prune_at_init([], None, "random")
    with pytest.raises(TypeError, match="`dataset` must be .* Received: list"):
        kpi.prune_at_init(mlp(), [1, 2])


def test_scores_that_are_no_numbers_name_the_layer():
    model = mlp()
    model.layers[1].kernel.assign(np.full(model.layers[1].kernel.shape, np.nan))
    with pytest.raises(
        ValueError, match=f"NaN or infinite .*/{model.layers[1].name}/kernel"
    ):
        kpi.prune_at_init(model, None, "magnitude")


@pytest.mark.parametrize(
    "function",
    [
        *(kpi.report, kpi.strip, kpi.shrink, kpi.cost, kpi.stabilize, kpi.rescale),
        *(kpi.enable_workers, lambda model: kpi.export_tflite(model, "a.tflite")),
    ],
)
def test_what_is_no_model_is_refused(function):
    with pytest.raises(TypeError, match="must be a keras.Model.*NoneType. Pass a mod"):
        function(None)


@pytest.mark.parametrize("function", [kpi.shrink, kpi.cost, kpi.report])
def test_models_without_weights_are_refused(function):
    with pytest.raises(ValueError, match="must be built.*which is not built. Give it"):
        function(keras.Sequential([keras.layers.Dense(3)]))


@pytest.mark.parametrize(
    "schedule",
    [
        lambda progress, sparsity: float("nan"),
        lambda progress, sparsity: 5,
        lambda progress, sparsity: sparsity * (1 - progress),
        lambda progress, sparsity: "half",
    ],
)
def test_schedules_that_do_not_rise_to_the_sparsity_are_refused(schedule):
    options = {"iterations": 3, "schedule": schedule, "verbose": 0}
    with pytest.raises(ValueError, match="that rise from 0.* for progress 0.[36].*Use"):
        kpi.prune_at_init(mlp(), None, "synflow", **options)


@pytest.mark.parametrize("seed", [-1, None, 0.5, True])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(ValueError, match="`seed` must be a whole number, 0 or more"):
        kpi.prune_at_init(mlp(), None, "random", seed=seed, verbose=0)


def test_a_list_is_no_name():
    with pytest.raises(ValueError, match=r"must be a Method.*Received: .*\['snip'\]"):
        kpi.get_method(["snip"])
    with pytest.raises(ValueError, match=r"must be one of.*Received: .*\['erk'\]"):
        kpi.select({"a": np.ones(3)}, 0.5, ["erk"])
