"""OBD: the diagonal of the Hessian in three ways, against exact ones."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    LAYERS,
    Block,
    L,
    batch,
    mlp,
    net,
    transformer,
    two_inputs_two_outputs,
)
from runs import mirrored

import keras_prune_init as kpi
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.scoring import fisher

MSE = keras.losses.MeanSquaredError()
OBD = kpi.methods.OBD


@pytest.fixture(autouse=True)
def same_weights():
    keras.utils.set_random_seed(3)


@pytest.fixture
def wide():
    """Layers compute in float64."""
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


def curvature(model, data, method, **options):
    """What OBD takes for the diagonal of the Hessian, by path."""
    scores = kpi.score(model, data, method, verbose=0, **options)
    values = {k.path: k.value for k in find_kernels(model)}
    return {path: 2 * s / values[path] ** 2 for path, s in scores.items()}


def exact(kernels, loss):
    """The diagonal of the Hessian of `loss()`, from the whole matrix."""
    found = []
    for v in kernels:
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                value = loss()
            slopes = inner.gradient(value, v.value)
        matrix = outer.jacobian(slopes, v.value, experimental_use_pfor=False)
        diagonal = np.diag(np.reshape(matrix, (v.numpy().size,) * 2))
        found.append(diagonal.reshape(v.shape))
    return found


def kernels_of(model):
    return [v for v in model.trainable_variables if v.path.endswith("kernel")]


def assert_exact(model, x, y, method, loss=MSE, rtol=1e-6, last_only=False):
    wide_x, wide_y = (tf.constant(v, "float64") for v in (x, y))

    def mean_loss():
        # In the dtype of the model, unlike Keras's own losses.
        return tf.reduce_mean(tf.square(wide_y - model(wide_x, training=False)))

    kernels = kernels_of(model)[-1:] if last_only else kernels_of(model)
    found = curvature(model, (x, y), method, loss=loss)
    for v, expected in zip(kernels, exact(kernels, mean_loss), strict=True):
        size = np.abs(expected).max()
        assert size > 0
        np.testing.assert_allclose(found[v.path], expected, atol=rtol * size)


def far(model, size=10):
    """Data with large residuals, so that f'' matters."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(size, *model.input_shape[1:]))
    return x, 5 * rng.normal(size=(size, *model.output_shape[1:]))


def chain(*layers, shape=(5,)):
    return keras.Sequential([keras.Input(shape), *layers])


def shaken(model):
    """Give all variables values of their own, also the statistics."""
    rng = np.random.default_rng(2)
    for v in model.variables:
        v.assign(v + 0.3 * rng.random(v.shape))
    return model


CHAINS = {
    "tanh": lambda: chain(L.Dense(4, "tanh"), L.Dense(3)),
    "sigmoid": lambda: chain(L.Dense(4, "sigmoid"), L.Dense(3)),
    "both ends bend": lambda: chain(L.Dense(4, "tanh"), L.Dense(3, "sigmoid")),
    "norm and dropout": lambda: chain(
        *(L.Dense(4), L.BatchNormalization(), L.Activation("tanh"), L.Dropout(0.5)),
        *(L.PReLU("ones"), L.Rescaling(0.7, 0.1), L.Dense(3), L.Activation("sigmoid")),
    ),
    "means": lambda: chain(
        *(L.Dense(18, "tanh"), L.Reshape((3, 3, 2)), L.AveragePooling2D((3, 2))),
        *(L.Flatten(), L.Dense(3)),
    ),
    "global means": lambda: chain(
        *(L.Dense(18, "tanh"), L.Reshape((3, 3, 2))),
        *(L.GlobalAveragePooling2D(), L.Dense(3)),
    ),
    "largest": lambda: chain(
        *(L.Dense(16, "tanh"), L.Reshape((4, 2, 2)), L.Permute((2, 1, 3))),
        *(L.ZeroPadding2D(1), L.MaxPooling2D(2), L.Cropping2D(((1, 0), (0, 0)))),
        *(L.Flatten(), L.Dense(3)),
    ),
    "scaled inputs": lambda: chain(
        L.LayerNormalization(), L.EinsumDense("ab,bc->ac", 4, "tanh"), L.Dense(3)
    ),
    "no hidden layer": lambda: chain(L.Dense(3, "tanh")),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_recursion_is_exact_with_one_hidden_layer_and_a_squared_error(name, wide):
    model = shaken(CHAINS[name]())
    method = OBD(curvature="recursion")
    assert_exact(model, *far(model), method)
    pruned = kpi.prune(model, far(model), method, sparsity=0.5, loss=MSE)
    assert not kpi.report(pruned).notes


@pytest.mark.parametrize(
    "last",
    [
        lambda: L.Conv2D(3, 2, 2, "same", activation="tanh"),
        lambda: L.Conv2D(4, 2, groups=2),
        lambda: L.Conv2DTranspose(2, 2, 2),
        lambda: L.DepthwiseConv2D(2, activation="sigmoid"),
        lambda: L.EinsumDense("abcd,de->abce", (2, 2, 3)),
    ],
)
def test_the_recursion_is_exact_for_a_last_layer_of_any_kind(last, wide):
    hidden = L.Conv2D(4, 2, activation="tanh"), L.MaxPooling2D(2)
    model = shaken(chain(*hidden, last(), shape=(6, 6, 2)))
    assert_exact(model, *far(model), OBD(curvature="recursion"), last_only=True)


def test_the_recursion_is_exact_for_the_last_layer_of_a_classifier(wide):
    model = shaken(chain(L.Dense(4, "tanh"), L.Dense(3, "softmax")))
    x, y = batch(model, 20)
    found = curvature(model, (x, y), OBD(curvature="recursion"))
    p, h = model(x).numpy(), model.layers[0](x).numpy()
    expected = np.einsum("ni,nc->ic", h**2, p * (1 - p)) / 20
    np.testing.assert_allclose(found[model.layers[1].kernel.path], expected, rtol=1e-6)


def test_a_note_says_what_the_recursion_drops():
    method = OBD(curvature="recursion")

    def note(model):
        [text] = kpi.report(kpi.prune(model, batch(model), method)).notes
        return text

    assert note(mlp((8, 6))) == (
        "OBD: the recursion is approximate, because it drops cross terms: the network "
        "has more than one hidden layer, and the loss is no sum over outputs."
    )
    image = chain(L.Conv2D(4, 2), L.Flatten(), L.Dense(1), shape=(4, 4, 1))
    data = far(image)
    [text] = kpi.report(kpi.prune(image, data, method, loss="mse")).notes
    assert text.endswith("terms: a hidden layer uses its weights at several positions.")


def branched():
    x = keras.Input((5,))
    h = L.Dense(5, "tanh")(x)
    return keras.Model(x, L.Dense(3)(L.Add()([x, h])))


def twice():
    layer = L.Dense(5, "tanh")
    return chain(layer, L.Dense(5), layer, L.Dense(3))


class OwnLoss(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return tf.reduce_mean(y_pred**2)


REFUSED = {
    "branches": branched,
    "is used twice": twice,
    "adds a loss": lambda: chain(L.Dense(4, activity_regularizer="l2"), L.Dense(3)),
    "is a LayerNormalization": lambda: chain(
        L.Dense(4), L.LayerNormalization(), L.Dense(3)
    ),
    "is a AveragePooling1D": lambda: chain(
        L.Conv1D(4, 2),
        L.AveragePooling1D(2, padding="same"),
        *(L.Flatten(), L.Dense(3)),
        shape=(5, 2),
    ),
    "is a SeparableConv1D": lambda: chain(
        L.SeparableConv1D(4, 2), L.Flatten(), L.Dense(3), shape=(5, 2)
    ),
    "is a LSTM": lambda: chain(L.LSTM(4), L.Dense(3), shape=(5, 2)),
    "is inside of another layer": lambda: chain(
        Block(4), L.Flatten(), L.Dense(3), shape=(5, 4)
    ),
    "no function of single numbers": lambda: chain(L.Dense(4, "softmax"), L.Dense(3)),
    "makes a mask": lambda: chain(
        L.Masking(), L.Dense(4), L.Flatten(), L.Dense(3), shape=(5, 2)
    ),
    "the loss is not that of": lambda: OwnLoss([keras.Input((5,)), L.Dense(3)]),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_the_recursion_refuses_what_is_no_chain_and_says_what_to_do(reason):
    model = REFUSED[reason]()
    with pytest.raises(ValueError, match=rf"{reason}.*Use curvature='hutchinson'"):
        kpi.prune(model, batch(model), OBD(curvature="recursion"))
    kpi.score(model, batch(model), OBD(probes=1))


@pytest.mark.parametrize("curvature", ["fisher", "recursion"])
def test_statistics_of_a_batch_have_no_curvature_of_single_examples(curvature):
    with pytest.raises(ValueError, match="Use batch_norm='eval'"):
        OBD(curvature=curvature, batch_norm="train")


@pytest.mark.parametrize(
    "options", [{"curvature": "exact"}, {"probes": 0}, {"probes": 1.5}]
)
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        OBD(**options)


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_random_products_come_near_the_exact_diagonal(batch_norm, wide):
    """Also through batch normalization, whose second derivative Keras has wrong."""
    layers = [L.Dense(3), L.BatchNormalization(), L.Activation("tanh"), L.Dense(9)]
    model = shaken(chain(*layers, shape=(3,)))
    first, norm, _, last = model.layers
    # Units that have little in common: few random vectors are enough.
    first.kernel.assign(first.kernel / 5 + np.eye(3))
    norm.beta.assign([0.1, 0.0, -0.1])
    last.kernel.assign(floats(3, 9))
    x, y = far(model, 128)

    def mean_loss():
        z = x @ first.kernel.value + first.bias.value
        mean, variance = norm.moving_mean.value, norm.moving_variance.value
        if batch_norm == "train":
            mean = tf.reduce_mean(z, 0)
            variance = tf.reduce_mean((z - mean) ** 2, 0)
        z = (z - mean) / tf.sqrt(variance + norm.epsilon)
        h = tf.tanh(norm.gamma.value * z + norm.beta.value)
        return tf.reduce_mean((h @ last.kernel.value + last.bias.value - y) ** 2)

    for layer in (first, last):
        method, only = OBD(probes=2500, batch_norm=batch_norm), [f"{layer.name}$"]
        [found] = curvature(model, (x, y), method, loss=MSE, filters=only).values()
        [expected] = exact([layer.kernel], mean_loss)
        assert relative(found, expected) < 0.02


def test_random_products_depend_on_the_seed_and_are_traced_once():
    calls = []

    class Counted(L.Layer):
        def call(self, x):
            calls.append(1)
            return tf.tanh(x)

    model = chain(L.Dense(4), Counted(), L.Dense(3))
    data = batch(model)
    a, b, c = (kpi.score(model, data, OBD(), seed=s) for s in (1, 1, 2))
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])
        assert (a[path] != c[path]).any()

    def count(probes):
        calls.clear()
        kpi.score(model, data, OBD(probes=probes))
        return len(calls)

    assert count(20) == count(5)


def by_loop(model, data, loss=None):
    """Mean of squared gradients, one example at a time, from SNIP's w dL/dw."""
    x, *_ = data
    count = len(keras.tree.flatten(x)[0])
    values = {k.path: k.value for k in find_kernels(model)}
    total = {}
    for i in range(count):
        one = keras.tree.map_structure(lambda v, i=i: v[i : i + 1], data)
        found = kpi.score(model, one, kpi.methods.SNIP(batch_norm="eval"), loss=loss)
        for path, s in found.items():
            total[path] = total.get(path, 0) + (s / values[path]) ** 2 / count
    return total


def floats(*shape):
    return np.random.default_rng(5).normal(size=shape).astype("float64")


def through(name):
    make, shape = LAYERS[name]
    reshape = L.Flatten() if name != "EinsumDense" else L.Reshape((24,))
    return chain(make(), reshape, L.Dense(3), shape=shape)


SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
KINDS = ["Dense", "Conv2D", "Conv1DTranspose", "DepthwiseConv2D", "EinsumDense", "LSTM"]


@pytest.mark.parametrize("name", KINDS)
def test_the_fisher_diagonal_is_that_of_a_loop_over_examples(name, wide):
    model = through(name)
    x, y = batch(model, 5)
    same_as_loop(model, (x.astype("float64"), y), SPARSE)


def same_as_loop(model, data, loss=None, rtol=1e-6):
    found = curvature(model, data, OBD(curvature="fisher"), loss=loss)
    for path, expected in by_loop(model, data, loss).items():
        size = np.abs(expected).max()
        np.testing.assert_allclose(found[path], expected, atol=rtol * size)


@pytest.mark.parametrize("policy", ["float32", "float64"])
def test_the_fisher_diagonal_of_attention_embeddings_and_normalization(policy):
    """In float32, too, where TensorFlow may not vectorize all products."""
    keras.config.set_dtype_policy(policy)
    try:
        model = transformer()
    finally:
        keras.config.set_dtype_policy("float32")
    tokens, y = np.arange(35).reshape(5, 7) % 20, np.arange(5) % 3
    rtol = 1e-6 if policy == "float64" else 1e-4
    same_as_loop(model, (tokens, y), SPARSE, rtol)


def test_the_fisher_diagonal_of_several_inputs_and_outputs_and_of_a_block(wide):
    model = shaken(two_inputs_two_outputs())
    x = {"a": floats(5, 4), "b": floats(5, 6)}
    same_as_loop(model, (x, [np.arange(5) % 3, floats(5, 1)]), [SPARSE, "mse"])
    model, (x, y) = net()
    same_as_loop(shaken(model), (x[:5].astype("float64"), y[:5]), SPARSE)


def test_an_example_of_weight_two_counts_as_two_examples(wide):
    model = mlp()
    x, y = batch(model, 6)
    weight = np.array([2, 1, 0, 1, 2, 0], "float64")
    method = OBD(curvature="fisher")
    expected = curvature(model, (x, y), method)
    again = np.repeat(np.arange(6), weight.astype(int))
    expected = curvature(model, (x[again], y[again]), method)
    mean = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    for loss in (SPARSE, mean):
        for w in (weight, weight[:, None]):
            found = curvature(model, (x, y, w), method, loss=loss)
            for path, e in expected.items():
                np.testing.assert_allclose(found[path], e, rtol=1e-6, atol=1e-15)
    heads = shaken(two_inputs_two_outputs())
    x = {"a": floats(6, 4), "b": floats(6, 6)}
    y = [np.arange(6) % 3, floats(6, 1)]
    every = curvature(heads, (x, y, [weight, weight]), method, loss=[SPARSE, "mse"])
    x, y = keras.tree.map_structure(lambda v: v[again], (x, y))
    for path, e in curvature(heads, (x, y), method, loss=[SPARSE, "mse"]).items():
        np.testing.assert_allclose(every[path], e, rtol=1e-6, atol=1e-15)


@functools.cache
def fisher_of_net():
    keras.utils.set_random_seed(3)
    model, data = net()
    return model, data, kpi.score(model, data, OBD(curvature="fisher"))


@pytest.mark.parametrize("size", [1, 5 * 800 * 4])
def test_few_examples_at_a_time_make_no_difference(size, monkeypatch):
    model, data, expected = fisher_of_net()
    monkeypatch.setattr(fisher, "MOST_BYTES", size)
    for path, s in kpi.score(model, data, OBD(curvature="fisher")).items():
        np.testing.assert_allclose(s, expected[path], rtol=1e-4, atol=1e-9)


def test_what_cannot_be_vectorized_runs_in_a_loop(monkeypatch):
    model, data, expected = fisher_of_net()

    def fails(*args, **kwargs):
        raise ValueError("No converter defined")

    monkeypatch.setattr(tf, "vectorized_map", fails)
    for path, s in kpi.score(model, data, OBD(curvature="fisher")).items():
        np.testing.assert_allclose(s, expected[path], rtol=1e-4, atol=1e-9)


def test_the_fisher_diagonal_is_the_hessian_where_labels_are_the_models(wide):
    model = chain(L.Dense(3, "softmax", kernel_initializer="normal"), shape=(4,))
    model.layers[0].kernel.assign(floats(4, 3) / 2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 4))
    p = model(x).numpy()
    y = (p.cumsum(1) < rng.random((len(x), 1))).sum(1)
    expected = np.einsum("ni,nc->ic", x**2, p * (1 - p)) / len(x)
    method = OBD(curvature="fisher")
    [found] = curvature(model, (x, y), method, batches=None).values()
    # The last batch of arrays is smaller, and counts less.
    assert relative(found, expected) < 0.02


@pytest.mark.parametrize("curvature_", ["hutchinson", "fisher", "recursion"])
def test_the_loss_is_a_mean_over_batches_also_on_replicas(curvature_, wide):
    model = chain(L.Dense(4, "tanh"), L.Dense(3))
    x, y = batch(model, 24)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    method = OBD(curvature=curvature_, probes=3)
    whole = kpi.score(model, (x, y), method)
    with mirrored(2).scope():
        same = keras.models.clone_model(model)
        same.set_weights(model.get_weights())
    for other in (model, same):
        found = kpi.score(other, data, method, batches=3).values()
        if (
            curvature_ == "hutchinson" and other is same
        ):  # names of its own: other draws
            assert all(np.isfinite(s).all() for s in found)
            continue
        for a, b in zip(found, whole.values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_weight_whose_removal_raises_a_quadratic_loss_least_goes_first(wide):
    """For a linear model the score is the increase of the loss at the minimum."""
    model = chain(L.Dense(1, use_bias=False), shape=(4,))
    x = floats(50, 4)
    y = x @ np.array([[1.0], [0.1], [-2.0], [0.5]])
    model.layers[0].kernel.assign(np.linalg.lstsq(x, y, rcond=None)[0])
    scores = kpi.score(model, (x, y), OBD(curvature="recursion"), loss=MSE)
    [found], w = scores.values(), model.layers[0].kernel.numpy()
    for i in range(4):
        without = np.where(np.arange(4)[:, None] == i, 0, w)
        np.testing.assert_allclose(found[i, 0], np.mean((x @ without - y) ** 2))
