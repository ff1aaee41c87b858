"""Layers of low rank become two smaller ones, with an error that is known."""

import keras
import numpy as np
import pytest
from helpers import L, batch, mlp, net, subclassed, transformer, two_inputs_two_outputs
from runs import mirrored

import keras_prune_init as kpi
from keras_prune_init.factorize import matrices
from keras_prune_init.graph.inputs import ones_input

FORMS = pytest.mark.parametrize("form", ["pointwise", "separable"])


def lower_ranks(model, form="pointwise"):
    """Give every kernel that has a matrix the rank 1, up to rounding."""
    rng = np.random.default_rng(0)
    kernels, _ = matrices.matrix_kernels("test", model, form, None)
    for kernel in kernels:
        rows, columns = matrices.to_matrix(kernel.value, form).shape
        # Positive, so that signals pass all layers.
        outer = np.outer(*(rng.uniform(0.5, 1.5, n) for n in (rows, columns))) / rows
        kernel.assign(matrices.from_matrix(outer, kernel.shape, form))
    return model


def assert_same(a, b, x, tolerance=1e-5):
    for one, other in zip(*(keras.tree.flatten(m(x)) for m in (a, b)), strict=True):
        size = np.abs(one).max()
        np.testing.assert_allclose(one, other, atol=tolerance * size)
        assert size > 1e-3


def test_matrix_of_a_convolution_is_that_of_the_paper_or_of_two_axes():
    kernel = np.random.default_rng(0).normal(size=(3, 2, 4, 5))
    # theta: an output unit in each row
    theta = np.stack([kernel[..., s].ravel() for s in range(5)])
    np.testing.assert_array_equal(matrices.to_matrix(kernel, "pointwise"), theta.T)
    separable = matrices.to_matrix(kernel, "separable")
    assert separable.shape == (3 * 4, 2 * 5)
    assert separable[1 * 4 + 2, 1 * 5 + 3] == kernel[1, 1, 2, 3]
    for form in matrices.FORMS:
        matrix = matrices.to_matrix(kernel, form)
        back = matrices.from_matrix(matrix, kernel.shape, form)
        np.testing.assert_array_equal(back, kernel)


@FORMS
def test_the_error_of_a_kernel_is_what_its_discarded_singular_values_say(form):
    model = keras.Sequential([keras.Input((8, 8, 6)), L.Conv2D(10, 3, name="conv")])
    kernel = model.layers[0].kernel.numpy().astype(float)
    small = kpi.factorize(model, 0.6, form=form)
    first, second = (v.kernel.numpy().astype(float) for v in small.layers[0].layers)
    if form == "pointwise":
        product = np.einsum("abcr,r s->abcs", first, second[0, 0])
        matrix = kernel.reshape(-1, 10)
    else:
        product = np.einsum("acr,brs->abcs", first[:, 0], second[0])
        matrix = kernel.transpose(0, 2, 1, 3).reshape(18, 30)
    values = np.linalg.svd(matrix, compute_uv=False)
    kept = np.cumsum(values**2) / np.sum(values**2)
    rank = first.shape[-1]
    assert kept[rank - 1] >= 0.6 > kept[rank - 2]
    error = np.linalg.norm(kernel - product)
    np.testing.assert_allclose(error, np.sqrt(np.sum(values[rank:] ** 2)), rtol=1e-5)
    [row] = kpi.factorize_report(model, 0.6, form=form).layers
    assert (row.rank, row.full_rank) == (rank, len(values))
    np.testing.assert_allclose(row.energy, kept[rank - 1], rtol=1e-6)


def test_the_error_of_a_dense_kernel_is_what_its_discarded_singular_values_say():
    model = keras.Sequential([keras.Input((12,)), L.Dense(9)])
    kernel = model.layers[0].kernel.numpy().astype(float)
    small = kpi.factorize(model, 0.6)
    first, second = (v.kernel.numpy().astype(float) for v in small.layers[0].layers)
    values = np.linalg.svd(kernel, compute_uv=False)
    rank = first.shape[1]
    kept = np.cumsum(values**2) / np.sum(values**2)
    assert kept[rank - 1] >= 0.6 > kept[rank - 2]
    error = np.linalg.norm(kernel - first @ second)
    np.testing.assert_allclose(error, np.linalg.norm(values[rank:]), rtol=1e-5)


CONVOLUTIONS = {
    "plain": lambda: L.Conv2D(7, 3, activation="relu"),
    "strides": lambda: L.Conv2D(7, (3, 2), strides=(1, 2), padding="same"),
    "dilation": lambda: L.Conv2D(7, 3, dilation_rate=(2, 1), use_bias=False),
    "uneven": lambda: L.Conv2D(7, (1, 3), padding="same", bias_initializer="ones"),
    "causal": lambda: L.Conv1D(7, 4, padding="causal", strides=2),
    "volume": lambda: L.Conv3D(7, 2, activation="tanh"),
    "dense": lambda: L.Dense(7, "softmax", bias_initializer="ones"),
}


@FORMS
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_with_all_energy_a_layer_of_low_rank_computes_the_same(name, form):
    layer = CONVOLUTIONS[name]()
    axes = getattr(layer, "rank", 2)
    model = keras.Sequential([keras.Input((8,) * axes + (6,)), layer])
    lower_ranks(model, form)
    small = kpi.factorize(model, 1.0, form=form)
    pair = small.layers[0]
    assert [v.kernel.shape[-1] for v in pair.layers] == [1, 7]
    assert pair.name == layer.name
    assert_same(model, small, batch(model)[0])


@pytest.mark.parametrize(
    "make", [net, mlp, subclassed, two_inputs_two_outputs, transformer]
)
def test_any_model_computes_the_same_with_all_energy_also_from_a_file(make, tmp_path):
    model = make()
    model = lower_ranks(model[0] if isinstance(model, tuple) else model)
    x = ones_input(model)
    small = kpi.factorize(model, 1.0)
    assert small.count_params() < model.count_params()
    assert_same(model, small, x)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert [v.shape for v in loaded.weights] == [v.shape for v in small.weights]
    assert_same(small, loaded, x, 1e-6)
    loaded.save(tmp_path / "again.keras")
    assert_same(small, keras.models.load_model(tmp_path / "again.keras"), x, 1e-6)


def test_shared_layers_stay_shared_and_the_model_is_unchanged():
    model = lower_ranks(two_inputs_two_outputs())
    before = model.get_weights()
    small = kpi.factorize(model, 1.0, filters="^shared$")
    shared = [v for v in small.layers if v.name == "shared"]
    assert [type(v) for v in shared] == [keras.Sequential]
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_subclassed_model_trains_prunes_and_strips_after_it(tmp_path):
    small = kpi.factorize(lower_ranks(subclassed()), 1.0)
    small.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.ones((8, 5), "float32"), np.zeros(8)
    small.fit(x, y, verbose=0)
    pruned = kpi.prune_at_init(small, (x, y), "magnitude", sparsity=0.5)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    assert_same(pruned, loaded, x, 1e-6)
    plain = kpi.strip(loaded)
    plain.save(tmp_path / "plain.keras")
    assert_same(plain, keras.models.load_model(tmp_path / "plain.keras"), x, 1e-6)
    new = kpi.sanity.reinitialize(loaded, seed=1)
    shapes = [[v.shape for v in m.weights] for m in (new, loaded)]
    assert shapes[0] == shapes[1]


def test_what_else_a_layer_has_goes_on():
    options = {"kernel_regularizer": "l2", "bias_regularizer": "l1"}
    layers = [
        L.Dense(9, "relu", name="a", dtype="mixed_float16", **options),
        L.Dense(9, name="b", trainable=False, activity_regularizer="l2"),
        L.Dense(9, name="c", kernel_constraint="non_neg"),
    ]
    model = lower_ranks(keras.Sequential([keras.Input((9,)), *layers]))
    model.compile("adam", "mse")
    small = kpi.factorize(model, 1.0)
    a, b, c = small.layers
    assert [v.dtype_policy.name for v in a.layers] == ["mixed_float16"] * 2
    assert all(
        isinstance(v.kernel.regularizer, keras.regularizers.L2) for v in a.layers
    )
    assert isinstance(a.layers[1].bias.regularizer, keras.regularizers.L1)
    assert [v.activation.__name__ for v in a.layers] == ["linear", "relu"]
    assert not b.trainable_variables and len(b.variables) == 3
    assert isinstance(b.layers[1].activity_regularizer, keras.regularizers.L2)
    assert type(c) is L.Dense
    assert isinstance(small.optimizer, keras.optimizers.Adam)
    small.fit(np.ones((4, 9)), np.ones((4, 9)), verbose=0)
    [(path, reason)] = kpi.factorize_report(model, 1.0).skipped
    assert path.endswith("c") and reason.startswith("its kernel has a constraint")


def test_layers_stay_where_two_would_cost_as_much_and_the_report_says_so():
    # 4 x 4 of rank 2: as many weights in the factors as in the kernel.
    model = keras.Sequential([keras.Input((4,)), L.Dense(4), L.Dense(4)])
    model.layers[0].kernel.assign(np.diag([2.0, 1.0, 0.0, 0.0]))
    model.layers[1].kernel.assign(np.diag([3.0, 0.0, 0.0, 0.0]))
    report = kpi.factorize_report(model, 1.0)
    first, second = report.layers
    assert (first.rank, first.replaced, first.weights, first.macs) == (
        *(2, False),
        *((16, 16), (16, 16)),
    )
    assert (second.rank, second.replaced, second.weights, second.macs) == (
        *(1, True),
        *((16, 8), (16, 8)),
    )
    assert report.weights == (40, 32) and report.macs == (32, 24)
    lines = str(report).splitlines()
    assert lines[2].endswith("stays") and lines[3].endswith(" 8")
    small = kpi.factorize(model, 1.0)
    assert [type(v) for v in small.layers] == [L.Dense, keras.Sequential]
    # With less energy, 4 / 5 of it in the first value, the rank is 1.
    assert kpi.factorize_report(model, 0.8).layers[0].rank == 1
    assert kpi.factorize_report(model, 0.81).layers[0].rank == 2


def test_multiply_adds_count_where_a_separable_layer_reads_more_than_it_makes():
    # Of 8 x 8 pixels one is left: 8 x 1 is applied at 8 places, of 1 x 8 at one.
    model = keras.Sequential([keras.Input((8, 8, 4)), L.Conv2D(2, 8)])
    matrix = np.zeros((8 * 4, 8 * 2))
    matrix[0, 0], matrix[1, 1] = 2, 1
    kernel = model.layers[0].kernel
    kernel.assign(matrices.from_matrix(matrix, kernel.shape, "separable"))
    [one], [two] = (
        kpi.factorize_report(model, energy, form="separable").layers
        for energy in (0.8, 1.0)
    )
    assert (one.rank, one.replaced) == (1, True)
    assert (one.weights, one.macs) == ((512, 48), (512, 8 * 32 + 16))
    # Of rank 2 they have fewer weights, but 2 * 272 multiply-adds.
    assert (two.rank, two.replaced) == (2, False)
    assert two.weights == two.macs == (512, 512)


def test_layers_of_other_classes_are_left_out_with_a_reason():
    class Own(L.Dense):
        pass

    layers = [Own(4, name="own"), L.Conv1D(4, 1, groups=2, name="grouped"), L.LSTM(4)]
    model = keras.Sequential([keras.Input((3, 4)), *layers, L.Dense(4, name="kept")])
    found = kpi.factorize_report(lower_ranks(model), 1.0).skipped
    skipped = {path.split("/")[1]: reason for path, reason in found}
    assert skipped["own"] == "its class, Own, stays as it is"
    assert "groups" in skipped["grouped"]
    assert len(skipped) == 3
    with pytest.raises(ValueError, match=r"own \(its class.*grouped \(its groups"):
        kpi.factorize(model, filters=["own", "grouped"])


def test_layers_with_one_kernel_between_them_are_left_out():
    model = lower_ranks(mlp((5, 5)))
    vars(model.layers[1])["_kernel"] = model.layers[0]._kernel
    names = [path for path, _ in kpi.factorize_report(model, 1.0).skipped]
    assert names == [v.path for v in model.layers[:2]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"energy": 0}, ValueError, "above 0 and up to 1. Received: energy=0"),
        ({"energy": 1.1}, ValueError, "energy=1.1"),
        ({"form": "tucker"}, ValueError, "`form` must be one of 'pointwise'"),
        ({"filters": "none"}, ValueError, "choose no layer with a kernel"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    for function in (kpi.factorize, kpi.factorize_report):
        with pytest.raises(error, match=message):
            function(mlp(), **options)


def test_pruned_models_and_weights_that_are_no_numbers_are_refused():
    model = mlp()
    pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.5)
    with pytest.raises(
        ValueError, match="without masks.*is a MaskedLayer. Call `strip`"
    ):
        kpi.factorize(pruned)
    kernel = model.layers[1].kernel
    kernel.assign(np.where(np.eye(*kernel.shape), np.nan, kernel))
    with pytest.raises(FloatingPointError, match=f"6 in {kernel.path} that are NaN"):
        kpi.factorize(model)


def test_the_smaller_model_belongs_to_the_strategy_of_the_model():
    strategy = mirrored(2)
    with strategy.scope():
        model = lower_ranks(mlp((8, 8)))
    small = kpi.factorize(model, 1.0)
    assert small.distribute_strategy is strategy
    small.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    small.fit(*batch(model, 16), verbose=0)
    assert np.isfinite(small.layers[0].layers[0].kernel.numpy()).all()
