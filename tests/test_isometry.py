"""Approximate isometry: the penalty, what descent does to kernels, the report."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, masked_list, mlp

import keras_prune_init as kpi
from keras_prune_init.theory import isometry
from keras_prune_init.theory.isometry import approximate_isometry, singular_values


def pruned_mlp(sparsity=0.5, **options):
    model = mlp((12, 12), inputs=12, classes=12, **options)
    return kpi.prune_at_init(
        model, method="random", sparsity=sparsity, allocation="uniform"
    )


def pruned_dense(kernel, mask):
    """A network of one layer, with these weights."""
    kernel = np.array(kernel, "float32")
    layer = L.Dense(kernel.shape[1], use_bias=False)
    model = keras.Sequential([keras.Input(kernel.shape[:1]), layer])
    layer.kernel.assign(kernel)
    pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0)
    (masked,) = masked_list(pruned)
    masked.mask.assign(mask)
    masked.layer.kernel.assign(kernel * np.array(mask))
    return pruned


def test_the_penalty_is_the_one_by_hand():
    v = tf.constant([[[3.0, 0.0], [0.0, 2.0]]])
    penalty, gradient = isometry._penalty(v)
    assert float(penalty) == pytest.approx((8**2 + 3**2) ** 0.5)
    # d sqrt((a^2 - 1)^2 + (b^2 - 1)^2) / da = 2 a (a^2 - 1) / penalty
    expected = np.diag([48, 12]) / 73**0.5
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-6)


def test_the_penalty_of_groups_is_that_of_their_block_diagonal_matrix():
    v = np.random.default_rng(0).normal(size=(2, 4, 3))
    blocks = np.zeros((8, 6))
    blocks[:4, :3], blocks[4:, 3:] = v
    expected = np.linalg.norm(blocks.T @ blocks - np.eye(6))
    assert float(isometry._penalty(tf.constant(v))[0]) == pytest.approx(expected)


def test_the_gradient_is_that_of_finite_differences():
    v = np.random.default_rng(0).normal(size=(2, 4, 3))
    gradient = isometry._penalty(tf.constant(v))[1].numpy()
    for index in np.ndindex(v.shape):
        step = np.zeros_like(v)
        step[index] = 1e-6
        ends = [float(isometry._penalty(tf.constant(v + s))[0]) for s in (step, -step)]
        assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


def test_the_gradient_is_zero_at_an_isometry():
    penalty, gradient = isometry._penalty(tf.eye(3)[None])
    assert float(penalty) == 0
    np.testing.assert_array_equal(gradient, np.zeros((1, 3, 3)))


def test_one_step_is_the_one_by_hand():
    # V = [[3, 0], [0, 2]]: less 0.01 times the gradient above.
    pruned = pruned_dense([[3, 0], [0, 2]], np.eye(2))
    approximate_isometry(pruned, steps=1, learning_rate=0.01)
    expected = np.diag([3 - 0.48 / 73**0.5, 2 - 0.12 / 73**0.5])
    np.testing.assert_allclose(masked_list(pruned)[0].layer.kernel, expected, rtol=1e-6)


def test_diagonal_masks_end_at_signs():
    pruned = pruned_dense([[3, 0], [0, -0.2]], np.eye(2))
    report = approximate_isometry(pruned)
    kernel = masked_list(pruned)[0].layer.kernel
    np.testing.assert_allclose(kernel, [[1, 0], [0, -1]], atol=1e-3)
    (row,) = report.kernels
    assert row.penalty[0] == pytest.approx((8**2 + 0.96**2) ** 0.5)
    assert row.values[0] == pytest.approx((1.6, 0.2, 3, 1.4), rel=1e-5)
    assert row.values[1] == pytest.approx((1, 1, 1, 0), abs=1e-3)


def test_singular_values_come_near_one_and_removed_weights_stay_zero():
    pruned = pruned_mlp()
    masks = [np.array(v.mask) for v in masked_list(pruned)]
    before = singular_values(pruned)
    report = approximate_isometry(pruned)
    after = singular_values(pruned)
    for path in before:
        assert np.mean(abs(after[path] - 1)) < 0.05 < np.mean(abs(before[path] - 1))
    for layer, mask in zip(masked_list(pruned), masks, strict=True):
        np.testing.assert_array_equal(layer.mask, mask)
        assert not np.any(np.asarray(layer.layer.kernel)[mask == 0])
    for row in report.kernels:
        assert row.penalty[1] < 0.1 < row.penalty[0]
        np.testing.assert_allclose(
            row.values[1].mean, np.mean(after[row.path]), rtol=1e-5
        )


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_tall_and_wide_kernels_reach_the_same(shape):
    rng = np.random.default_rng(0)
    pruned = pruned_dense(rng.normal(size=shape), rng.random(shape) < 0.7)
    (row,) = approximate_isometry(pruned).kernels
    assert row.shape == (1, *shape) and row.zeros == 0
    assert row.penalty[1] < 0.05
    kernel = masked_list(pruned)[0].layer.kernel.numpy()
    product = kernel.T @ kernel if shape == (12, 5) else kernel @ kernel.T
    np.testing.assert_allclose(product, np.eye(5), atol=0.05)


def test_the_penalty_never_rises():
    pruned = pruned_dense(np.eye(3), np.eye(3))
    (row,) = approximate_isometry(pruned, steps=250, tolerance=0).kernels
    assert row.penalty == (0, 0)
    np.testing.assert_array_equal(masked_list(pruned)[0].layer.kernel, np.eye(3))


def test_empty_columns_are_counted_and_keep_the_penalty_up():
    mask = np.ones((4, 3))
    mask[:, 1] = 0
    pruned = pruned_dense(np.random.default_rng(0).normal(size=(4, 3)), mask)
    report = approximate_isometry(pruned)
    (row,) = report.kernels
    assert row.zeros == 1 and row.values[1].min < 1e-12
    assert row.penalty[1] == pytest.approx(1, abs=1e-2)
    assert str(report).splitlines()[-1].endswith(" 1")


def test_convolutions_of_all_kinds_are_brought_near_isometry():
    layers = [
        L.Conv2D(8, 3, padding="same", groups=2),
        L.DepthwiseConv2D(3, depth_multiplier=2),
        L.Conv2DTranspose(4, 3),
        L.SeparableConv2D(5, 3),
    ]
    model = keras.Sequential([keras.Input((6, 6, 4)), *layers])
    pruned = kpi.prune_at_init(
        model, method="random", sparsity=0.3, allocation="uniform"
    )
    report = approximate_isometry(pruned)
    shapes = [row.shape for row in report.kernels]
    expected = [(2, 18, 4), (8, 9, 2), (1, 144, 4), (4, 9, 1), (1, 4, 5)]
    assert shapes == expected
    assert all(row.penalty[1] < 0.1 for row in report.kernels if not row.zeros)
    # One channel of the depthwise kernel, by hand: two filters of norm 1, orthogonal.
    filters = masked_list(pruned)[1].layer.kernel.numpy()[:, :, 3].reshape(9, 2)
    np.testing.assert_allclose(filters.T @ filters, np.eye(2), atol=0.05)


def test_singular_values_are_of_mask_times_scale_times_weights():
    pruned = pruned_dense([[3, 5], [0, 2]], [[1, 0], [1, 1]])
    masked_list(pruned)[0].scale.assign([[10, 100]])
    (values,) = singular_values(pruned).values()
    np.testing.assert_allclose(values, [200, 30])


def test_singular_values_of_dense_models():
    model = mlp(kernel_initializer=kpi.initializers.Orthogonal(seed=0))
    values = singular_values(model)
    assert list(values) == [layer.kernel.path for layer in model.layers]
    assert [len(v) for v in values.values()] == [5, 6, 3]
    np.testing.assert_allclose(np.concatenate([*values.values()]), 1, rtol=1e-5)


def test_the_recipe_of_the_paper_trains():
    model = mlp((20, 20), inputs=10)
    kpi.initializers.reinitialize(model, "orthogonal")
    data = batch(model, 64)
    pruned = kpi.prune_at_init(model, data, "snip", sparsity=0.7)
    approximate_isometry(pruned, steps=10)
    pruned.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    pruned.fit(*data, verbose=0)
    assert kpi.report(pruned).sparsity == pytest.approx(0.7, abs=1e-2)


def test_other_layers_and_biases_stay_as_they_are():
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            L.Embedding(9, 4),
            L.SimpleRNN(4),
            L.Dense(4),
        ]
    )
    pruned = kpi.prune_at_init(model, method="random", sparsity=0.3)
    before = {v.path: np.array(v) for v in pruned.variables}
    report = approximate_isometry(pruned)
    changed = [v.path for v in pruned.variables if np.any(before[v.path] != v.numpy())]
    assert changed == [row.path for row in report.kernels]
    assert len(changed) == 1


def rescaled():
    pruned = pruned_mlp()
    masked_list(pruned)[1].scale.assign(masked_list(pruned)[1].scale.value * 2)
    return pruned


@pytest.mark.parametrize(
    "make, options, message",
    [
        (mlp, {}, "takes a pruned model"),
        (rescaled, {}, "are alternatives. Received: .*dense_.*/kernel"),
        (pruned_mlp, {"steps": 1.5}, "Received: .*steps=1.5"),
        (pruned_mlp, {"steps": -1}, "Received: .*steps=-1"),
        (pruned_mlp, {"learning_rate": 0}, "Received: .*learning_rate=0"),
        (pruned_mlp, {"tolerance": -1}, "Received: .*tolerance=-1"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(make, options, message):
    model = make()
    before = [np.array(v) for v in model.variables]
    with pytest.raises(ValueError, match=message):
        approximate_isometry(model, **options)
    np.testing.assert_equal(before, [np.array(v) for v in model.variables])
