"""Products with kept weights: what dense ones compute, and their gradients."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from keras_prune_init.sparse import estimate, products
from keras_prune_init.sparse.convolution import Convolution
from keras_prune_init.sparse.lookup import Lookup
from keras_prune_init.sparse.positions import Matrix, Windows
from keras_prune_init.sparse.products import MatrixProduct

RNG = np.random.default_rng(0)


def normal(*shape):
    return tf.constant(RNG.normal(size=shape), "float32")


def matrix(rows, columns):
    return MatrixProduct(Matrix((rows, columns), (0,), (1,)))


def given(product, mask):
    """Random values at the positions of a mask, and factors of units."""
    index = tf.constant(np.flatnonzero(mask), "int32")
    scale = tf.constant(RNG.uniform(0.5, 2, product.kernel.columns), "float32")
    return normal(len(index)), index, scale


def slopes(function, x, values):
    """Outputs, gradients, and gradients of gradients."""
    with tf.GradientTape() as outer:
        outer.watch([x, values])
        with tf.GradientTape() as inner:
            inner.watch([x, values])
            y = function(x, values)
            total = tf.reduce_sum(tf.sin(y))
        first = inner.gradient(total, [x, values])
        squares = sum(tf.reduce_sum(g * g) for g in first if g is not None)
    return [y, *first, *outer.gradient(squares, [x, values])]


def assert_like_dense(product, x, mask):
    values, index, scale = given(product, mask)

    def sparse(x, values):
        return product(x, values, index, scale)

    def dense(x, values):
        return product.dense(x, values, index, scale)

    expected = slopes(dense, x, values)
    for run in (slopes, tf.function(slopes, autograph=False)):
        for one, other in zip(run(sparse, x, values), expected, strict=True):
            assert one.shape == other.shape
            size = float(tf.reduce_max(tf.abs(other))) if tf.size(other) else 0
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * size)


MASKS = {
    "half": lambda shape: RNG.random(shape) < 0.5,
    "few": lambda shape: RNG.random(shape) < 0.03,
    "all": lambda shape: np.ones(shape, bool),
    "one": lambda shape: np.arange(np.prod(shape)).reshape(shape) == 5,
    "none": lambda shape: np.zeros(shape, bool),
    "empty row and column": lambda shape: np.fromfunction(
        lambda i, j: (i != 2) & (j != 0), shape
    ),
}


@pytest.mark.parametrize("samples", [0, 1, 7, 1000, 2100])
@pytest.mark.parametrize("mask", MASKS)
def test_products_are_those_of_the_dense_matrix(samples, mask):
    shape = (77, 43)
    assert_like_dense(matrix(*shape), normal(samples, 77), MASKS[mask](shape))


def test_a_number_of_samples_may_be_left_open():
    product = matrix(6, 5)
    values, index, scale = given(product, MASKS["half"]((6, 5)))

    @tf.function(input_signature=[tf.TensorSpec((None, 6))])
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch([x, values])
            y = product(x, values, index, scale)
        return y, tape.gradient(y, [x, values], y)

    for samples in (1, 3, 600):
        x = normal(samples, 6)
        y, (dx, dv) = step(x)
        kernel = product.dense(tf.eye(6), values, index, scale)
        np.testing.assert_allclose(y, x @ kernel, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(dx, y @ tf.transpose(kernel), rtol=1e-4, atol=1e-4)
        whole = tf.transpose(x) @ (y * scale)
        expected = tf.gather(tf.reshape(whole, [-1]), index)
        np.testing.assert_allclose(dv, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs"),
    [((4, 3, 5), (0, 2), (1,)), ((5, 1, 4), (2,), (0,)), ((2, 3, 4), (1,), (0, 2))],
)
def test_rows_of_a_matrix_may_be_any_axes_of_a_kernel(shape, inputs, outputs):
    product = MatrixProduct(Matrix(shape, inputs, outputs))
    assert_like_dense(product, normal(9, product.kernel.rows), MASKS["half"](shape))


def test_gradients_are_those_of_small_differences():
    product = matrix(4, 3)
    values, index, scale = given(product, MASKS["half"]((4, 3)))
    for function, x in (
        (lambda x: product(x, values, index, scale), normal(5, 4)),
        (lambda v: product(normal(5, 4) * 0 + 1, v, index, scale), values),
    ):
        theory, difference = tf.test.compute_gradient(function, [x], delta=1e-2)
        np.testing.assert_allclose(theory[0], difference[0], atol=1e-3)


def test_derivatives_go_forward_too():
    product = matrix(4, 3)
    values, index, scale = given(product, MASKS["half"]((4, 3)))
    x, direction = normal(5, 4), normal(5, 4)
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        y = product(x, values, index, scale)
    expected = product(direction, values, index, scale)
    np.testing.assert_allclose(accumulator.jvp(y), expected, rtol=1e-5, atol=1e-5)


WINDOWS = {
    "plain": ((3, 3), (1, 1), (1, 1), "same"),
    "valid": ((3, 3), (1, 1), (1, 1), "valid"),
    "strides": ((3, 3), (2, 2), (1, 1), "same"),
    "valid strides": ((3, 3), (2, 2), (1, 1), "valid"),
    "dilated": ((3, 2), (1, 1), (2, 3), "same"),
    "uneven": ((5, 3), (3, 2), (1, 1), "same"),
    "sees less than it steps": ((2, 2), (3, 3), (1, 1), "same"),
    "larger than the image": ((9, 9), (1, 1), (1, 1), "same"),
}


@pytest.mark.parametrize(
    ("case", "samples", "groups"),
    # TensorFlow refuses groups with two different strides.
    [(c, n, g) for c in WINDOWS for n, g in ((1, 1), (40, 1 if c == "uneven" else 2))],
)
def test_convolutions_are_those_of_the_dense_kernel(case, samples, groups):
    size, strides, dilations, padding = WINDOWS[case]
    shape = (*size, 4 // groups, 6)
    product = Convolution(Windows(shape, 4, strides, dilations), padding)
    assert_like_dense(product, normal(samples, 9, 8, 4), RNG.random(shape) < 0.3)


def test_images_of_open_sizes_are_convolved():
    shape = (3, 3, 2, 3)
    product = Convolution(Windows(shape, 2, (2, 2), (1, 1)), "same")
    values, index, scale = given(product, RNG.random(shape) < 0.4)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 2))])
    def convolved(x):
        return product(x, values, index, scale)

    for sizes in ((2, 5, 7), (30, 8, 6)):
        x = normal(*sizes, 2)
        expected = product.dense(x, values, index, scale)
        np.testing.assert_allclose(convolved(x), expected, rtol=1e-5, atol=1e-5)


def test_rows_are_looked_up_and_their_gradients_added_up():
    product = Lookup(Matrix((7, 5), (0,), (1,)))
    values, index, scale = given(product, RNG.random((7, 5)) < 0.4)
    ids = tf.constant([3, 0, 3, 6, 3, 0])

    def sparse(_, values):
        return product(ids, values, index, scale)

    def dense(_, values):
        return product.dense(ids, values, index, scale)

    found, expected = (
        [v for v in slopes(f, tf.zeros(1), values) if v is not None]
        for f in (sparse, dense)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for wrong in (7, -1):
        with pytest.raises(Exception, match="looks up numbers from 0 to 6"):
            product(tf.constant([wrong]), values, index, scale)


def test_positions_may_move():
    product, x = matrix(6, 5), normal(4, 6)
    for mask in ("half", "few", "half"):
        assert_like_dense(product, x, MASKS[mask]((6, 5)))


def test_results_do_not_depend_on_threads(monkeypatch):
    found = []
    mask = RNG.random((60, 50)) < 0.2
    product, x = matrix(60, 50), normal(5000, 60)
    values, index, scale = given(product, mask)
    for count in (1, 2):
        monkeypatch.setattr(products, "_threads", lambda count=count: count)
        with tf.GradientTape() as tape:
            tape.watch([x, values])
            y = product(x, values, index, scale)
        found.append([y, *tape.gradient(y, [x, values], y)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_several_threads_may_multiply():
    product = matrix(30, 20)
    values, index, scale = given(product, RNG.random((30, 20)) < 0.3)
    x = normal(100, 30)
    expected, found = product(x, values, index, scale).numpy(), []

    def work():
        found.extend(product(x, values, index, scale).numpy() for _ in range(50))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 200
    for y in found:
        np.testing.assert_array_equal(y, expected)


def test_not_a_number_is_passed_on():
    product = matrix(3, 2)
    values, scale = tf.constant([1.0, 2.0]), tf.ones(2)
    y = product(tf.constant([[np.nan, 1, np.inf]]), values, tf.constant([0, 5]), scale)
    assert np.isnan(y[0, 0]) and np.isposinf(y[0, 1])


def test_estimates_grow_with_the_kept_weights(monkeypatch):
    monkeypatch.setattr(estimate, "_measured", lambda: estimate.REFERENCE)
    kernel = Matrix((4096, 4096), (0,), (1,))
    times = [estimate.seconds(kernel, 1, kept)[0] for kept in (10**4, 10**5, 10**6)]
    assert times == sorted(times) and times[2] > 2 * times[0]
    sparse, dense = estimate.seconds(kernel, 1, 4096**2 // 50)
    assert sparse < 0.2 * dense
    # A layer of few channels with many pixels carries more than it multiplies.
    image = Windows((3, 3, 16, 16), 16, (1, 1), (1, 1))
    sparse, dense = estimate.seconds(image, 32 * 32, 1152)
    assert sparse > dense


def test_the_machine_is_measured_once(monkeypatch):
    estimate._measure.cache_clear()
    seen = []

    @tf.function
    def traced():
        seen.append(estimate._measure())
        return tf.zeros(1)

    traced()
    [speeds] = seen
    for speed in (speeds[Matrix], speeds[Windows]):
        assert all(0 < value < 1 for value in speed)
    assert estimate._measure() is speeds
    monkeypatch.setattr(estimate, "is_op_determinism_enabled", lambda: True)
    assert estimate._measured() is estimate.REFERENCE


def test_outputs_are_where_tensorflow_takes_them_without_a_copy():
    for shape in ((3, 5), (1,), (40, 4)):
        array = products.aligned(shape)
        assert array.shape == shape and array.ctypes.data % 64 == 0
