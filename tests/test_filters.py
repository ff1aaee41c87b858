"""Which layers may be pruned, as users say it."""

import keras
import pytest
from helpers import L

import keras_prune_init as kpi
from keras_prune_init.layers.prunable import prunable


def model_of(*layers, shape=(5,)):
    return keras.Sequential([keras.Input(shape), *layers, L.Dense(3)])


def test_filters_of_trainable_kernels():
    model = model_of(L.Dense(4, name="a"), L.Bidirectional(L.LSTM(2)), shape=(3, 5))
    model.get_layer("a").trainable = False
    model.layers[1].backward_layer.trainable = False
    pruned = kpi.prune_at_init(model, None, "random", filters="trainable")
    paths = [t.path for t in kpi.report(pruned).tensors]
    cell = model.layers[1].forward_layer.cell
    kernels = cell.kernel, cell.recurrent_kernel, model.layers[-1].kernel
    assert paths == [kernel.path for kernel in kernels]
    assert prunable(model, "trainable")[1] == [
        (model.get_layer("a").path, "left out by `filters` or `what`")
    ]
    model.trainable = False
    with pytest.raises(ValueError, match="at least one layer that can be pruned"):
        kpi.prune_at_init(model, None, "random", filters="trainable")


@pytest.mark.parametrize(
    "filters, error, message",
    [
        ("dense(", ValueError, r"regular expression .*Received: 'dense\(', of"),
        (["a", "*"], ValueError, r"Received: '\*', of .* nothing to repeat"),
        (3, TypeError, "a regular expression, a list .* Received: filters=3"),
        ([L.Dense], TypeError, "a function from layer to bool"),
    ],
)
def test_bad_filters_are_refused(filters, error, message):
    with pytest.raises(error, match=message):
        kpi.prune_at_init(model_of(), None, "random", filters=filters)
