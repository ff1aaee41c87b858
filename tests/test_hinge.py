"""Hinges: proximal steps, what they do to a training, and what is merged."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch
from runs import assert_replicas_equal, mirrored
from scipy import optimize

import keras_prune_init as kpi
from keras_prune_init.hinge import groups
from keras_prune_init.hinge.attach import hinge_matrices
from keras_prune_init.hinge.proximal import PENALTIES, proximal, shrunk
from keras_prune_init.layers.walk import flatten
from keras_prune_init.surgery.rebuild import copy_model

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def chain(channels=(5, 6, 4), size=3, **options):
    """A Sequential model of convolutions, with random biases."""
    options = {"padding": "same", "activation": "relu"} | options
    layers = [
        L.Conv2D(n, size, bias_initializer="normal", name=f"conv{i}", **options)
        for i, n in enumerate(channels)
    ]
    ends = [L.GlobalAveragePooling2D(), L.Dense(3)]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, *ends])


def resnet():
    return kpi.models.resnet((8, 8, 3), classes=3, depth=8, width=4)


def nested():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="inner0")(inputs)
    x = L.Conv2D(8, 3, padding="same", name="inner1")(x)
    inner = keras.Model(inputs, L.ReLU()(x), name="part")
    x = L.DepthwiseConv2D(3, name="deep")(inner(inputs))
    x = L.Conv2D(6, 1, activation="relu", use_bias=False, name="point")(x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


MODELS = {"chain": chain, "resnet": resnet, "nested": nested}
EACH = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def kernels(model):
    return [v.numpy() for v in model.trainable_variables]


def sides(model):
    return [matrix.sparse for matrix in hinge_matrices(model)]


# --- proximal operators ---------------------------------------------------------------

FORMULAS = {
    "l1": lambda n: n.sum(),
    "l1/2": lambda n: np.sqrt(n).sum(),
    "l1-2": lambda n: n.sum() - np.linalg.norm(n),
    "logsum": lambda n: np.log(n + 1e-8).sum(),
}


def minimum(norms, t, penalty):
    """By brute force: from many starts, each number also as 0."""
    formula = FORMULAS[penalty]
    best, value = None, np.inf
    for alive in itertools.product((0, 1), repeat=len(norms)):
        alive = np.array(alive, float)

        def target(x, alive=alive):
            x = np.abs(x) * alive
            return np.sum((x - norms) ** 2) / 2 + t * formula(x)

        options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000}
        for start in (norms, norms / 2):
            found = optimize.minimize(
                target, start, method="Nelder-Mead", options=options
            )
            if found.fun < value - 1e-12:
                best, value = np.abs(found.x) * alive, found.fun
    return best


def test_every_penalty_has_a_formula_here():
    assert [*FORMULAS] == [*PENALTIES]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("t", [0.02, 0.3, 1.1])
@pytest.mark.parametrize("norms", [(2.0, 0.5), (0.3, 0.9), (1.5, 1.4)])
def test_a_proximal_step_is_the_minimum_that_a_search_finds(penalty, t, norms):
    norms = np.array(norms)
    found = shrunk(tf.constant(norms), t, penalty).numpy()
    np.testing.assert_allclose(found, minimum(norms, t, penalty), atol=1e-5)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_nothing_comes_of_zeros_or_of_a_step_of_zero(penalty):
    zeros = np.zeros((3, 4), "float32")
    assert not proximal(zeros, 0.1, penalty, "rows").numpy().any()
    values = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    left = proximal(values, 0.0, penalty, "columns")
    np.testing.assert_allclose(left, values, rtol=1e-5)


def test_rows_and_columns_get_shorter_as_a_whole():
    values = np.array([[3.0, 4.0], [0.0, 1.0]])
    rows = proximal(values, 2.0, "l1", "rows")  # norms 5 and 1
    np.testing.assert_allclose(rows, [[1.8, 2.4], [0, 0]])
    columns = proximal(values, 1.5, "l1", "columns")  # 3 and sqrt(17)
    factor = 1 - 1.5 / np.sqrt(17)
    np.testing.assert_allclose(columns, [[1.5, 4 * factor], [0, factor]])


# --- adding them ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "init"),
    [(chain, "svd"), (chain, "identity"), (resnet, "svd2"), (nested, "svd2")],
)
def test_hinges_change_nothing_at_first(make, init):
    model = make()
    x, _ = batch(model)
    hinged = kpi.add_hinges(model, init=init)
    assert type(hinged) is type(model)
    for training in (False, True):
        expected = model(x, training=training)
        np.testing.assert_allclose(hinged(x, training=training), expected, atol=2e-5)


def test_a_kernel_is_the_product_of_orthogonal_filters_and_the_matrix():
    model = chain()
    hinged = kpi.add_hinges(model)
    kernel = model.get_layer("conv1").kernel.numpy().reshape(-1, 6)
    first = hinged.get_layer("conv1").kernel.numpy().reshape(-1, 6)
    second = hinged.get_layer("conv1_hinge").kernel.numpy()[0, 0]
    np.testing.assert_allclose(first.T @ first, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(first @ second, kernel, atol=1e-5)
    # Rows have the singular values as norms, columns the norms of filters.
    values = np.linalg.svd(kernel, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(second, axis=1), values, rtol=1e-4)
    lengths = np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(np.linalg.norm(second, axis=0), lengths, rtol=1e-4)


def test_a_kernel_of_few_inputs_is_split_by_its_rank():
    model = chain((7, 5), size=1)
    hinged = kpi.add_hinges(model)
    assert hinged.get_layer("conv0").kernel.shape == (1, 1, 3, 3)
    assert hinged.get_layer("conv0_hinge").kernel.shape == (1, 1, 3, 7)


def test_columns_and_rows_take_turns():
    assert sides(kpi.add_hinges(chain())) == ["columns", "rows", "columns"]
    assert sides(kpi.add_hinges(chain(), groups="rows")) == ["rows"] * 3
    assert sides(kpi.add_hinges(chain(), groups="columns")) == ["columns"] * 3


@pytest.mark.parametrize("groups", ["alternating", "columns"])
def test_outputs_that_are_added_to_others_do_not_go_alone(groups):
    hinged = kpi.add_hinges(resnet(), groups=groups)
    found = {v.name: v.sparse for v in hinge_matrices(hinged)}
    columns = {name for name, sparse in found.items() if sparse == "columns"}
    assert columns == {f"stage{i}_block0_conv1_hinge" for i in (1, 2, 3)}


def test_what_cannot_have_a_hinge_is_left_alone_and_named(caplog):
    inputs = keras.Input((8, 8, 4))
    twice = L.Conv2D(4, 3, padding="same", name="twice")
    x = L.Conv2D(4, 3, groups=2, padding="same", name="grouped")(inputs)
    x = twice(twice(L.DepthwiseConv2D(3, padding="same", name="deep")(x)))
    x = L.Conv2D(4, 3, kernel_constraint="non_neg", name="bound")(x)
    x = L.Conv2D(4, 3, name="out")(L.Conv2D(4, 3, name="plain")(x))
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))
    with caplog.at_level("INFO", logger="absl"):
        hinged = kpi.add_hinges(model, filters=lambda layer: layer.name != "out")
    assert [v.name for v in hinge_matrices(hinged)] == ["plain_hinge"]
    assert [line.partition(": ")[2] for line in caplog.messages] == [
        "grouped, which is grouped",
        "deep, which is depthwise",
        "twice, which is called several times, or in a way that is not known",
        "bound, whose kernel has a constraint",
        "out, which `filters` leave out",
    ]


def test_what_it_cannot_do_is_refused():
    dense = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    with pytest.raises(ValueError, match="needs a Conv2D. Received: .* Use `prune`"):
        kpi.add_hinges(dense)
    with pytest.raises(ValueError, match="there is none .* which `filters` leave out"):
        kpi.add_hinges(chain(), filters="nothing")
    pruned = kpi.prune_at_init(chain(), method="magnitude", verbose=0)
    with pytest.raises(ValueError, match="Received: .*, which is pruned"):
        kpi.add_hinges(pruned)
    hinged = kpi.add_hinges(chain())
    with pytest.raises(ValueError, match="without hinges"):
        kpi.add_hinges(hinged)
    for name in ("groups", "regularizer", "init"):
        with pytest.raises(ValueError, match=f"`{name}` must be one of .*'l7'"):
            kpi.add_hinges(chain(), **{name: "l7"})
    with pytest.raises(ValueError, match="`merge_hinges` takes a model that `add_hin"):
        kpi.merge_hinges(dense, 0.5)
    dense.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="`Hinge` takes a model that `add_hinges`"):
        callback = kpi.callbacks.Hinge(0.5)
        dense.fit(*batch(dense), callbacks=[callback], verbose=0)


def test_models_with_hinges_are_merged_before_anything_else():
    hinged = kpi.add_hinges(chain())
    hinged.compile("sgd", LOSS)
    before = hinged.get_weights()

    def fit(callback):
        hinged.fit(*batch(hinged), callbacks=[callback], verbose=0)

    for call in (
        lambda: kpi.prune(hinged, None, "magnitude"),
        lambda: kpi.prune(hinged, None, "magnitude", what="channels"),
        lambda: kpi.score(hinged, None, "magnitude"),
        lambda: kpi.shrink(hinged),
        lambda: kpi.factorize(hinged),
        lambda: kpi.add_gates(hinged, penalty=1.0, data_size=9),
        lambda: kpi.sanity.reinitialize(hinged),
        lambda: kpi.callbacks.LearningCompression(0.5, every=1).attach(hinged),
        lambda: fit(kpi.callbacks.CompressionAware(0.1)),
        lambda: fit(kpi.callbacks.RigL()),
    ):
        with pytest.raises(ValueError, match=r"without hinges.*Call `merge_hinges\("):
            call()
    for a, b in zip(before, hinged.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("sparsity", 1), ("sparsity", "0.5"), ("least", 0), ("strength", -1.0)),
        *(("rate_ratio", 0), ("rate_ratio", 1.5), ("momentum", 1), ("annealing", 0.5)),
        *(("threshold", float("nan")), ("stop_within", 1.0)),
    ],
)
def test_numbers_out_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a number, .* Received: "):
        kpi.callbacks.Hinge(**({"sparsity": 0.5} | {name: value}))


# --- training -------------------------------------------------------------------------


def trained(hinged, epochs=2, optimizer=None, callback=None, **options):
    optimizer = optimizer or keras.optimizers.SGD(0.02)
    hinged.compile(optimizer, LOSS, **options)
    data = batch(hinged, 16)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "epochs": epochs}
    return hinged.fit(*data, callbacks=[callback or hinge()], **options).history


def hinge(sparsity=0.5, strength=0.4, rate_ratio=0.25, **options):
    options = {"stop_within": None} | options
    return kpi.callbacks.Hinge(sparsity, strength, rate_ratio, **options)


def test_steps_are_those_of_the_paper():
    hinged = kpi.add_hinges(chain((4, 4)))
    rate, others, momentum, strength = 0.08, 0.02, 0.1, 0.4
    x, y = batch(hinged, 16)
    matrices = hinge_matrices(hinged)
    start = [v.numpy() for v in hinged.trainable_variables]
    buffers = {id(m.kernel): 0.0 for m in matrices}
    along = {id(m.kernel): {"rows": 3, "columns": 2}[m.sparse] for m in matrices}
    for part in np.split(np.arange(16), 2):
        with tf.GradientTape() as tape:
            loss = LOSS(y[part], hinged(x[part], training=True))
        gradients = tape.gradient(loss, hinged.trainable_variables)
        for v, g in zip(hinged.trainable_variables, gradients, strict=True):
            p, g = v.numpy().astype("float64"), g.numpy()
            if id(v) not in along:
                v.assign(p - others * g)
                continue
            z = p - rate * g
            n = np.linalg.norm(z, axis=along[id(v)], keepdims=True)
            z = z * np.maximum(0, 1 - strength * rate / n)
            buffers[id(v)] = momentum * buffers[id(v)] + (z - p)
            v.assign(z + momentum * buffers[id(v)])
    expected = kernels(hinged)
    for v, value in zip(hinged.trainable_variables, start, strict=True):
        v.assign(value)
    trained(hinged, 1, keras.optimizers.SGD(others))
    for a, b in zip(kernels(hinged), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_without_the_callback_the_optimizer_trains_alone():
    hinged = kpi.add_hinges(chain((4, 4)))
    x, y = batch(hinged, 16)
    with tf.GradientTape() as tape:
        loss = LOSS(y, hinged(x, training=True))
    gradients = tape.gradient(loss, hinged.trainable_variables)
    expected = [
        v.numpy() - 0.1 * g.numpy()
        for v, g in zip(hinged.trainable_variables, gradients, strict=True)
    ]
    hinged.compile(keras.optimizers.SGD(0.1), LOSS)
    hinged.fit(x, y, batch_size=16, verbose=0)
    for a, b in zip(kernels(hinged), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_groups_become_zero_and_training_stops(regularizer):
    hinged = kpi.add_hinges(chain(), regularizer=regularizer)
    callback = hinge(0.5, 2.0, stop_within=0.05)
    history = trained(hinged, 60, callback=callback)
    *before, last = history["removed"]
    assert last >= 0.45
    assert all(v < 0.45 for v in before) and len(before) < 59
    zero = [m.kernel.numpy()[0, 0] for m in hinge_matrices(hinged)]
    zero = [np.sum(~v.any(1)) + np.sum(~v.any(0)) for v in zero]
    assert sum(zero) > 0
    assert not any(m.settings.numpy().any() for m in hinge_matrices(hinged))


def test_the_strength_falls_with_what_is_reached(monkeypatch):
    callback = hinge(0.4, 0.4, annealing=2.0)
    found, given = [], iter([0.0, 0.19, 0.2, 0.31])
    monkeypatch.setattr(callback, "_removed", lambda: next(given))
    for epoch in range(4):
        callback.on_epoch_begin(epoch)
        found.append(callback._now)
    assert found == [0.4, 0.4, 0.2, 0.1]


@EACH
def test_a_training_that_was_saved_goes_on_as_if_it_had_not_stopped(make, tmp_path):
    keras.utils.set_random_seed(1)
    hinged = kpi.add_hinges(make())
    hinged.save(tmp_path / "start.keras")
    optimizer = keras.optimizers.SGD(0.02, momentum=0.5)
    trained(hinged, 4, optimizer)
    half = keras.models.load_model(tmp_path / "start.keras")
    trained(half, 2, keras.optimizers.SGD(0.02, momentum=0.5))
    half.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    data = batch(loaded, 16)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "epochs": 2}
    loaded.fit(*data, callbacks=[hinge()], **options)
    assert sides(loaded) == sides(hinged)
    for a, b in zip(loaded.get_weights(), hinged.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_has_the_state_of_the_steps(tmp_path):
    hinged = kpi.add_hinges(chain())
    trained(hinged)
    path = tf.train.Checkpoint(hinged).save(str(tmp_path / "state"))
    buffers = [m.buffer.numpy() for m in hinge_matrices(hinged)]
    assert all(b.any() for b in buffers)
    for m in hinge_matrices(hinged):
        m.buffer.assign(np.zeros(m.buffer.shape))
    tf.train.Checkpoint(hinged).restore(path).assert_existing_objects_matched()
    for m, value in zip(hinge_matrices(hinged), buffers, strict=True):
        np.testing.assert_array_equal(m.buffer, value)


def test_a_copy_takes_steps_of_its_own():
    hinged = kpi.add_hinges(chain())
    copy = copy_model(hinged)
    before = hinged.get_weights()
    trained(copy)
    for a, b in zip(hinged.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    trained(hinged)
    for a, b in zip(hinged.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_two_replicas_train_as_one_device():
    model = chain()
    hinged = kpi.add_hinges(model)
    with mirrored(2).scope():
        same = chain()
    same.set_weights(model.get_weights())
    same = kpi.add_hinges(same)
    assert same.distribute_strategy is mirrored(2)
    histories = [trained(v)["removed"] for v in (hinged, same)]
    np.testing.assert_allclose(*histories)
    for a, b in zip(same.get_weights(), hinged.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert_replicas_equal(v for m in hinge_matrices(same) for v in m.weights)
    small = kpi.merge_hinges(same, 0.4)
    assert small.distribute_strategy is mirrored(2)


@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"steps_per_execution": 2}], ids=str
)
def test_compiled_steps_are_the_same(options):
    model = chain()
    one, other = kpi.add_hinges(model), kpi.add_hinges(model)
    trained(one)
    trained(other, **options)
    for a, b in zip(kernels(one), kernels(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_accumulated_gradients_make_one_step():
    model = chain()
    one, other = kpi.add_hinges(model), kpi.add_hinges(model)
    callback = hinge()
    trained(one, 1, keras.optimizers.SGD(0.02, gradient_accumulation_steps=2))
    other.compile(keras.optimizers.SGD(0.02), LOSS)
    options = {"callbacks": [callback], "verbose": 0}
    other.fit(*batch(other, 16), batch_size=16, shuffle=False, **options)
    for a, b in zip(kernels(one), kernels(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_mixed_precision_trains_and_merges():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = chain()
    finally:
        keras.config.set_dtype_policy("float32")
    hinged = kpi.add_hinges(model)
    matrix = hinge_matrices(hinged)[0]
    assert (matrix.compute_dtype, matrix.kernel.dtype) == ("float16", "float32")
    before = matrix.kernel.numpy()
    trained(hinged)
    assert type(hinged.optimizer) is keras.optimizers.LossScaleOptimizer
    assert np.abs(matrix.kernel.numpy() - before).max() > 1e-3
    small = kpi.merge_hinges(hinged, 0.3)
    assert small.get_layer("conv0").compute_dtype == "float16"


# --- merging --------------------------------------------------------------------------


def zeroed(hinged, small):
    """A copy without the groups of the smallest norms, as many as `small` has lost."""
    model = keras.models.clone_model(hinged)
    model.set_weights(hinged.get_weights())
    shapes = {v.name: tuple(v.kernel.shape) for v in flatten(small) if "conv" in v.name}
    for matrix in hinge_matrices(model):
        value, name = matrix.kernel.numpy(), matrix.name.removesuffix("_hinge")
        axis = {"rows": 3, "columns": 2}[matrix.sparse]
        norms = np.linalg.norm(value, axis=axis).ravel()
        left = shapes[name][-1]
        if matrix.sparse == "rows" and matrix.name not in shapes:
            left = len(norms)  # merged, so all are left
        gone = np.argsort(norms)[: len(norms) - left]
        if matrix.sparse == "rows":
            value[:, :, gone] = 0
        else:
            value[..., gone] = 0
            matrix.bias.assign(
                np.where(np.isin(range(len(norms)), gone), 0, matrix.bias)
            )
        matrix.kernel.assign(value)
    return model


@pytest.mark.parametrize("sparsity", [0.2, 0.5])
@pytest.mark.parametrize("groups", ["alternating", "rows", "columns"])
def test_a_merged_model_computes_what_is_left(groups, sparsity):
    keras.utils.set_random_seed(3)
    model = chain((8, 10, 9))
    hinged = kpi.add_hinges(model, groups=groups)
    x, _ = batch(model)
    small = kpi.merge_hinges(hinged, sparsity)
    expected = zeroed(hinged, small)(x)
    assert np.abs(expected - hinged(x)).max() > 1e-3
    np.testing.assert_allclose(small(x), expected, atol=1e-5)


@EACH
@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_what_it_costs_is_what_was_asked_for(make, sparsity, tmp_path):
    model = make()
    hinged = kpi.add_hinges(model)
    x, _ = batch(model)
    before = hinged.get_weights()
    small = kpi.merge_hinges(hinged, sparsity, least=0.1)
    whole, left = kpi.cost(model).macs, kpi.cost(small).macs
    found = groups.Hinges(hinged)
    kept = found.choose(sparsity, 0.1)
    assert (found.total, found.macs(kept)) == (whole, left)
    for a, b in zip(hinged.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    # Groups go one by one, the smallest first, until it is cheap enough.
    _, order = found._order(0.1)
    costs = [found.macs(found._without(order[:n])) for n in range(len(order) + 1)]
    goal = whole - np.floor(sparsity * whole)
    assert left == next(cost for cost in costs if cost <= goal)
    assert all(type(v).__module__.startswith("keras.") for v in flatten(small))
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(x), small(x))


@EACH
def test_nothing_removed_gives_the_model_back(make):
    model = make()
    x, _ = batch(model)
    same = kpi.merge_hinges(kpi.add_hinges(model), 0)
    assert [v.name for v in same.layers] == [v.name for v in model.layers]
    for a, b in zip(same.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(same(x), model(x), atol=1e-5)


def test_rows_leave_the_best_approximation_of_low_rank():
    keras.utils.set_random_seed(2)
    model = chain((12, 12, 12))
    hinged = kpi.add_hinges(model, filters="conv1", groups="rows")
    small = kpi.merge_hinges(hinged, 0.3)
    rank = small.get_layer("conv1").filters
    first = small.get_layer("conv1").kernel.numpy().reshape(-1, rank)
    product = first @ small.get_layer("conv1_hinge").kernel.numpy()[0, 0]
    kernel = model.get_layer("conv1").kernel.numpy().reshape(-1, 12)
    values = np.linalg.svd(kernel, compute_uv=False)
    assert 0 < rank < 12
    error = np.linalg.norm(kernel - product)
    np.testing.assert_allclose(error, np.linalg.norm(values[rank:]), rtol=1e-4)


def test_two_layers_stay_only_where_they_are_cheaper():
    model = chain((12, 12, 12))
    small = kpi.merge_hinges(kpi.add_hinges(model, filters="conv1", groups="rows"), 0.3)
    names = [v.name for v in small.layers]
    assert names[:4] == ["conv0", "conv1", "conv1_hinge", "conv2"]
    pair, one = small.get_layer("conv1"), small.get_layer("conv1_hinge")
    assert (pair.use_bias, pair.activation) == (False, keras.activations.linear)
    assert (one.use_bias, one.activation) == (True, keras.activations.relu)
    assert 9 * 12 * pair.filters + 12 * pair.filters < 9 * 12 * 12
    small = kpi.merge_hinges(
        kpi.add_hinges(model, filters="conv1", groups="columns"), 0.3
    )
    assert [v.name for v in small.layers] == [v.name for v in model.layers]
    assert small.get_layer("conv1").filters == small.get_layer("conv2").kernel.shape[2]
    assert small.get_layer("conv1").filters < 12


def test_every_matrix_keeps_a_part_and_the_error_says_what_is_possible():
    hinged = kpi.add_hinges(chain())
    with pytest.raises(ValueError, match=r"least=0.5, which allow 0\.\d+ at most") as e:
        kpi.merge_hinges(hinged, 0.95, least=0.5)
    most = float(str(e.value).partition("allow ")[2].split()[0])
    small = kpi.merge_hinges(hinged, most, least=0.5)
    assert [small.get_layer(f"conv{i}").filters for i in (0, 2)] == [3, 2]


def test_a_merged_model_is_compiled_and_trains():
    model = chain()
    model.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"])
    small = kpi.merge_hinges(kpi.add_hinges(model), 0.4)
    before = kernels(small)
    small.fit(*batch(small, 8), verbose=0)
    assert all(np.any(a != b) for a, b in zip(before, kernels(small), strict=True))


def test_weights_that_are_not_finite_are_refused():
    hinged = kpi.add_hinges(chain())
    matrix = hinge_matrices(hinged)[0]
    matrix.kernel.assign(np.full(matrix.kernel.shape, np.nan))
    with pytest.raises(FloatingPointError, match="`Hinge` takes weights"):
        trained(hinged)
    with pytest.raises(FloatingPointError, match="`merge_hinges` takes weights"):
        kpi.merge_hinges(hinged, 0.3)
