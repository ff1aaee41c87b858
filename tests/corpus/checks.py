"""What must hold of every pruned model, whoever wrote it."""

from __future__ import annotations

import math

import keras
import numpy as np
from helpers import masked_list, masks

import keras_prune_init as kpi
from corpus import Case
from keras_prune_init.layers.kernel_paths import get_kernel

SPARSITY = 0.9
WITHOUT_DATA = ("random", "magnitude")


def train(model: keras.Model, case: Case, eagerly: bool = False) -> dict:
    """Train for one epoch, as Keras does; the history, of which all must be finite."""
    if not model.compiled:
        model.compile("adam", case.loss)
    data, preprocessor = case.data, None
    if eagerly:  # which spares the trace, most of the time of one step
        model.run_eagerly = True
        preprocessor = getattr(model, "preprocessor", None)
        if preprocessor:  # which `fit` would trace all the same
            data, model.preprocessor = preprocessor(*data), None
    data = dict(zip(("x", "y", "sample_weight"), data, strict=False))
    history = model.fit(**data, epochs=1, verbose=0).history
    if preprocessor:
        model.preprocessor = preprocessor
    assert history, "fit reports no loss"
    for name, values in history.items():
        assert np.isfinite(values).all(), f"{name} is {values}"
    return history


def prune(case: Case, method: str, model=None, sparsity=SPARSITY, **options):
    data = None if method in WITHOUT_DATA else case.scoring or case.data
    return kpi.prune_at_init(
        model or case.model,
        data,
        method,
        sparsity=sparsity,
        loss=case.loss,
        verbose=0,
        **options,
    )


def outputs(model: keras.Model, x) -> list[np.ndarray]:
    """What a model gives in inference. It stays as it is, also its random seeds."""
    before = [(v, np.array(v)) for v in model.non_trainable_variables]
    y = keras.tree.flatten(model(_tensors(x), training=False))
    for variable, value in before:
        variable.assign(value)
    return [keras.ops.convert_to_numpy(v) for v in y]


def _tensors(x):
    return keras.tree.map_structure(keras.ops.convert_to_tensor, x)


def assert_same(model, other, x, tolerance=1e-4):
    """Two models compute the same, to a fraction of the largest output."""
    pairs = zip(outputs(model, x), outputs(other, x), strict=True)
    for y, z in pairs:
        assert y.shape == z.shape
        if y.dtype.kind == "f":
            size = np.max(np.abs(y), initial=0)
            assert np.max(np.abs(y - z), initial=0) <= tolerance * size
        else:
            np.testing.assert_array_equal(y, z)


def assert_same_class(model, pruned):
    assert isinstance(pruned, type(model))
    assert type(pruned).__name__ == type(model).__name__
    # Attributes that are no layers or weights: those that the class's own code reads.
    assert pruned.name == model.name
    assert pruned.compiled == model.compiled


def assert_exact(pruned, sparsity=SPARSITY):
    """Exactly that share of all weights is gone; its masks."""
    found = masks(pruned)
    total = sum(m.size for m in found)
    kept = sum(int(m.sum()) for m in found)
    assert total and kept == total - math.floor(sparsity * total)
    return found


def assert_report(pruned, sparsity=SPARSITY):
    """The report counts the same."""
    found = kpi.report(pruned)
    assert found.total == sum(m.size for m in masks(pruned))
    assert found.kept == found.total - math.floor(sparsity * found.total)
    assert str(found)
    return found


def assert_unchanged(pruned, before):
    """The masks are those of before, and what they remove is 0 in kernels too.

    Not if an optimizer of the user's moves weights without a gradient: then it is 0 in
    the product, which `strip` is compared with.
    """
    for mask, other in zip(masks(pruned), before, strict=True):
        np.testing.assert_array_equal(mask, other)
    optimizer = pruned.optimizer if pruned.compiled else None
    if optimizer and not type(optimizer).__module__.startswith("keras."):
        return
    for layer in masked_list(pruned):
        if not isinstance(layer, kpi.CompactLayer):  # which has no others to store
            for name, mask in layer.masks.items():
                kernel = get_kernel(layer.layer, name)
                assert not np.asarray(kernel)[np.asarray(mask) == 0].any(), layer.path


def check_removing_nothing(case: Case):
    """A copy from which nothing is removed computes what the model does."""
    pruned = prune(case, "magnitude", sparsity=0.0)
    assert_same_class(case.model, pruned)
    assert_same(case.model, pruned, case.x, 1e-6)


def check_masked(
    case: Case, method: str, eagerly: bool = False, sparsity=SPARSITY
) -> keras.Model:
    """Pruned, trained and stripped, with masks; the pruned and trained model."""
    pruned = prune(case, method, sparsity=sparsity)
    assert_same_class(case.model, pruned)
    before = assert_exact(pruned, sparsity)
    assert_unchanged(pruned, before)
    train(pruned, case, eagerly)
    assert_unchanged(pruned, before)
    plain = kpi.strip(pruned)
    assert_same_class(case.model, plain)
    assert not masked_list(plain)
    if eagerly:  # as what its users do with it is traced, too
        plain.run_eagerly = True
    assert_same(pruned, plain, case.x)
    if case.use:
        one, other = case.use(pruned), case.use(plain)
        if isinstance(one, str):
            assert one == other
        else:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    return pruned


def check_layouts(case: Case, pruned: keras.Model) -> None:
    """A trained model has the same outputs and masks in the other layout."""
    if case.borrows:
        message = refusal(lambda: kpi.to_layout(pruned, "compact"))
        assert "must compute what the model does" in message
        return
    compact = kpi.to_layout(pruned, "compact")
    assert_same_class(pruned, compact)
    assert_unchanged(compact, masks(pruned))
    assert_same(pruned, compact, case.x)


def check_compact(case: Case, method: str, eagerly: bool = False) -> None:
    """The compact layout is made, computes the same, trains and is stripped."""
    if case.borrows:
        refusal(lambda: prune(case, method, layout="compact"))
        return
    compact = prune(case, method, layout="compact")
    assert_same_class(case.model, compact)
    before = assert_exact(compact)
    assert_same(kpi.to_layout(compact, "masked"), compact, case.x)
    train(compact, case, eagerly)
    assert_unchanged(compact, before)
    assert_same(compact, kpi.strip(compact), case.x)


def refusal(call) -> str:
    """What the package says when it refuses to do something."""
    try:
        call()
    except (TypeError, ValueError) as e:
        assert "Received:" in str(e), f"no error of this package: {e}"
        return str(e)
    raise AssertionError("it is not refused")


def check_shrink(case: Case, pruned: keras.Model) -> None:
    """What is not connected can be cut out of graphs; other models are refused."""
    if _is_graph(pruned):
        small = kpi.shrink(pruned)
        assert_same_class(case.model, small)
        assert_same(pruned, small, case.x)
        assert small.count_params() <= pruned.count_params()
        train(small, case, eagerly=True)
    else:
        message = refusal(lambda: kpi.shrink(pruned))
        assert "Sequential and Functional" in message, message


def _is_graph(model):
    """Sequential, Functional, or a class that is Functional by its constructor."""
    try:
        return bool(model.inputs) and model.get_layer(index=0) is not None
    except (AttributeError, ValueError):
        return False


def check_cost(case: Case, pruned: keras.Model) -> None:
    dense, sparse = kpi.cost(case.model), kpi.cost(pruned)
    assert sparse.weights == dense.weights
    found = assert_report(pruned)
    assert sparse.kept == dense.weights - (found.total - found.kept)
    assert str(sparse)


def check_signals(case: Case, pruned: keras.Model) -> None:
    """Signals of every kernel that is used, all finite, by the loss of `fit`."""
    found = kpi.signal_report(pruned, case.scoring or case.data, case.loss)
    assert found.rows
    for row in found.rows:
        assert np.isfinite(row.gradient), f"{row.layer}: {row.gradient}"
    assert found.diagnosis


def check_parts(case: Case) -> None:
    """Of a model without `call` the parts are pruned, and it trains with them."""
    message = refusal(lambda: prune(case, "magnitude"))
    assert all(name in message for name in case.parts), message
    for name in case.parts:
        part = getattr(case.model, name)
        x = [keras.ops.ones((2, *v.shape[1:]), v.dtype) for v in part.inputs]
        x = x[0] if len(x) == 1 else x
        assert_same(part, kpi.prune_at_init(part, None, "magnitude", sparsity=0.0), x)
        pruned = kpi.prune_at_init(part, None, "magnitude", sparsity=SPARSITY)
        assert_same_class(part, pruned)
        assert_exact(pruned)
        assert_same(pruned, kpi.to_layout(pruned, "compact"), x)
        setattr(case.model, name, pruned)
    train(case.model, case, eagerly=True)
    for name in case.parts:
        pruned = getattr(case.model, name)
        assert_unchanged(pruned, assert_exact(pruned))
        kpi.strip(pruned)
