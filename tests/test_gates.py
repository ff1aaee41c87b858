"""Hard-concrete gates: closed forms, what they hold, training, and what they become."""

import contextlib
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, masked_list, mlp, net, subclassed, transformer
from runs import assert_replicas_equal, mirrored

import keras_prune_init as kpi
from keras_prune_init.gates import hard_concrete
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.surgery import rebuild

# P(open) at log_alpha = 0: sigmoid(2/3 log 11) = 11 ** (2/3) / (1 + 11 ** (2/3)).
EVEN = 11 ** (2 / 3) / (1 + 11 ** (2 / 3))
WHATS = ["inputs", "channels", "weights"]


def gates(model):
    """The `log_alpha` of each kernel, in the order of the layers."""
    return [v for layer in masked_list(model) for v in layer.log_alphas.values()]


def spread(model, seed=0):
    """Give gates all values, and biases some, so that nothing is hidden by zeros."""
    rng = np.random.default_rng(seed)
    for v in gates(model):
        v.assign(rng.normal(0, 3, v.shape))
    for v in model.weights:
        if v.name == "bias":
            v.assign(rng.normal(size=v.shape))
    return model


def add(model, what="inputs", **options):
    return kpi.add_gates(model, what, **{"penalty": 1.0, "data_size": 100, **options})


def one(layer, shape, what, **options):
    """A gated model of one layer, and its wrapper."""
    model = add(keras.Sequential([keras.Input(shape), layer]), what, **options)
    return model, model.layers[0]


# --- closed forms ---------------------------------------------------------------------


def test_gates_have_the_published_probability_and_value_in_inference():
    logits = keras.ops.convert_to_tensor([0.0, math.log(3), -math.log(11), 3.0])
    np.testing.assert_allclose(hard_concrete.probability(logits)[0], EVEN, rtol=1e-6)
    # sigmoid: 1/2, 3/4, 1/12, 0.9526; times 1.2, minus 0.1, cut at 1.
    expected = [0.5, 0.8, 0.0, 1.0]
    np.testing.assert_allclose(
        hard_concrete.in_inference(logits), expected, rtol=1e-6, atol=1e-6
    )


def test_a_draw_has_a_temperature():
    # logit u = log 2, times 3/2: s = 2 ** 1.5 / (1 + 2 ** 1.5)
    s = 2**1.5 / (1 + 2**1.5)
    u = keras.ops.convert_to_tensor([0.5, 2 / 3, 1 / 3, 0.99, 0.01])
    found = hard_concrete.sample(keras.ops.zeros(5), u)
    expected = [0.5, 1.2 * s - 0.1, 1.1 - 1.2 * s, 1.0, 0.0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", WHATS)
def test_expected_counts_and_their_gradient_are_those_of_many_draws(what):
    model, layer = one(L.Dense(40), (60,), what)
    spread(model)
    [log_alpha], draws = gates(model), 4000 if what != "weights" else 400
    held = layer.counts("kernel")

    @tf.function
    def opened():
        return tf.cast(layer.drawn_gate("kernel") > 0, "float32")

    rate = np.mean([opened() for _ in range(draws)], 0)
    with tf.GradientTape() as tape:
        [expected] = kpi.expected_kept(model).values()
    assert float(expected) == pytest.approx(np.sum(rate * held), rel=0.01)
    p = np.asarray(hard_concrete.probability(log_alpha.value))
    np.testing.assert_allclose(rate, p, atol=5 * 0.5 / math.sqrt(draws))
    gradient = tape.gradient(expected, log_alpha.value)
    np.testing.assert_allclose(gradient, held * p * (1 - p), rtol=1e-4, atol=1e-6)


def test_the_mean_of_drawn_outputs_is_that_of_many_gates():
    _, layer = one(L.Dense(1, kernel_initializer="ones"), (20_000,), "weights")
    layer.log_alphas["kernel"].assign(np.zeros((20_000, 1)))
    drawn = layer(np.ones((1, 20_000)), training=True)
    # Symmetric around 1/2 at log_alpha = 0.
    assert float(drawn[0, 0]) / 20_000 == pytest.approx(0.5, abs=0.02)


# --- what a gate holds ----------------------------------------------------------------

# Layer, shape of a sample; for inputs and channels: how many weights each gate of each
# kernel holds, and the shape of the gates. A bias is one weight more of its channel.
HELD = [
    (lambda: L.Dense(4), (5,), [(4, (5, 1))], [(6, (1, 4))]),
    (lambda: L.Dense(4, use_bias=False), (5,), [(4, (5, 1))], [(5, (1, 4))]),
    (lambda: L.Conv1D(4, 3), (9, 2), [(12, (1, 2, 1))], [(7, (1, 1, 4))]),
    (lambda: L.Conv2D(4, 3), (6, 6, 2), [(36, (1, 1, 2, 1))], [(19, (1, 1, 1, 4))]),
    (
        lambda: L.Conv3D(3, 2),
        (4, 4, 4, 2),
        [(24, (1, 1, 1, 2, 1))],
        [(17, (1, 1, 1, 1, 3))],
    ),
    (
        lambda: L.Conv2DTranspose(3, 2),
        (4, 4, 5),
        [(12, (1, 1, 1, 5))],
        [(21, (1, 1, 3, 1))],
    ),
    (
        lambda: L.DepthwiseConv2D(3, depth_multiplier=2),
        (6, 6, 5),
        [(18, (1, 1, 5, 1))],
        [(10, (1, 1, 5, 2))],
    ),
    (
        lambda: L.SeparableConv2D(4, 3, depth_multiplier=2),
        (6, 6, 5),
        [(18, (1, 1, 5, 1)), (4, (1, 1, 10, 1))],
        [(9, (1, 1, 5, 2)), (11, (1, 1, 1, 4))],
    ),
    (
        # The kernel's axes are output, input, output, so not in the order of the bias.
        lambda: L.EinsumDense("abc,ecd->abde", (None, 3, 2), bias_axes="de"),
        (4, 5),
        [(6, (1, 5, 1))],
        [(6, (2, 1, 3))],
    ),
]


@pytest.mark.parametrize(("make", "shape", "inputs", "channels"), HELD)
def test_gates_know_how_many_weights_they_hold(make, shape, inputs, channels):
    for what, expected in (("inputs", inputs), ("channels", channels)):
        _, layer = one(make(), shape, what)
        for name, (count, gate_shape) in zip(layer.kernels, expected, strict=True):
            assert tuple(layer.log_alphas[name].shape) == gate_shape
            assert np.all(np.asarray(layer.counts(name)) == count)
            layer.log_alphas[name].assign(np.zeros(gate_shape))
            total = math.prod(gate_shape) * count * EVEN
            assert float(layer.expected_kept(name)) == pytest.approx(total, rel=1e-5)
    _, layer = one(make(), shape, "weights")
    for name in layer.kernels:
        assert layer.log_alphas[name].shape == get_kernel(layer.layer, name).shape
        assert np.all(np.asarray(layer.counts(name)) == 1)


@pytest.mark.parametrize(("make", "shape"), [row[:2] for row in HELD])
def test_a_closed_gate_silences_its_channel_with_the_bias(make, shape):
    model, layer = one(make(), shape, "channels")
    spread(model)
    for v in gates(model):
        v.assign(np.full(v.shape, 4.6))
    x = batch(model, 2)[0]
    whole = model(x).numpy()
    *_, last = gates(model)
    closed = np.full(last.shape, 4.6)
    closed.reshape(-1)[1] = -4.6  # the second of the kernel
    last.assign(closed)
    found = model(x).numpy()
    # The einsum's outputs are (d, e), and its gates (e, d).
    place = (1, 0) if isinstance(layer.layer, L.EinsumDense) else (1,)
    assert not found[..., *place].any()
    assert whole[..., *place].all()
    whole[..., *place] = 0
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_gates_of_inputs_multiply_the_inputs():
    model, layer = one(L.Conv2D(4, 3), (6, 6, 2), "inputs")
    layer.log_alphas["kernel"].assign(np.reshape([0.0, math.log(3)], (1, 1, 2, 1)))
    x = batch(model, 2)[0]
    np.testing.assert_allclose(model(x), layer.layer(x * [0.5, 0.8]), atol=1e-5)


# --- the loss -------------------------------------------------------------------------


def test_the_penalty_is_that_of_each_kernel_divided_by_the_data():
    model = mlp((8,), inputs=5, classes=3)
    names = [layer.kernel.path for layer in model.layers]
    penalty = {names[0]: 2.0, "*": 0.5}
    gated = add(model, penalty=penalty, weight_decay=0.1)
    for v in gates(gated):
        v.assign(np.zeros(v.shape))
    squares = [np.sum(np.square(layer.kernel)) for layer in model.layers]
    expected = [
        EVEN * (2.0 / 100 * 40 + 0.05 * squares[0]),
        EVEN * (0.5 / 100 * 24 + 0.05 * squares[1]),
    ]
    np.testing.assert_allclose(gated.losses, expected, rtol=1e-5)
    gated.compile("sgd", "mse")
    x = np.zeros((4, 5), "float32")
    loss = gated.evaluate(x, gated.predict(x, verbose=0), verbose=0)
    assert loss == pytest.approx(sum(expected), rel=1e-5)


def test_the_decay_of_a_channel_holds_its_bias():
    model, layer = one(
        L.DepthwiseConv2D(1, depth_multiplier=2),
        (3, 3, 2),
        "channels",
        weight_decay=2.0,
    )
    layer.layer.kernel.assign(np.reshape([1.0, 2.0, 3.0, 4.0], (1, 1, 2, 2)))
    layer.layer.bias.assign([5.0, 6.0, 7.0, 8.0])
    logits = np.reshape([0.0, 1.0, 2.0, 3.0], (1, 1, 2, 2))
    layer.log_alphas["kernel"].assign(logits)
    p = 1 / (1 + np.exp(-(logits.ravel() + 2 / 3 * math.log(11))))
    squares = np.array([1 + 25, 4 + 36, 9 + 49, 16 + 64])
    assert float(model.losses[0]) == pytest.approx(p @ (2 / 100 + squares), rel=1e-5)


def test_a_layer_that_is_called_twice_is_charged_once():
    shared = L.Dense(4, use_bias=False)
    inputs = keras.Input((4,))
    model = add(keras.Model(inputs, shared(shared(inputs))))
    model(np.ones((1, 4), "float32"), training=True)
    [v] = gates(model)
    v.assign(np.zeros(v.shape))
    assert float(sum(model.losses)) == pytest.approx(EVEN * 16 / 100, rel=1e-5)


def test_log_alpha_stays_within_its_bounds():
    model = add(mlp(), penalty=1e6, weight_decay=0.0)
    model.compile(keras.optimizers.SGD(100.0), "mse")
    model.train_on_batch(np.zeros((4, 5)), np.zeros((4, 3)))
    for v in gates(model):
        np.testing.assert_allclose(v, math.log(1e-2), rtol=1e-6)
    # Where a gate is closed in inference: sigmoid is below 1/12.
    assert kpi.report(model).kept == 0


def test_the_probability_at_the_start_is_that_of_a_kernel():
    model = mlp((400,), inputs=300)
    name = model.layers[0].kernel.path
    first, second = gates(add(model, drop={name: 0.2, "*": 0.5}, seed=3))
    assert np.mean(first) == pytest.approx(math.log(4), abs=0.003)  # of 300 draws
    assert np.std(first) == pytest.approx(0.01, rel=0.2)
    assert np.mean(second) == pytest.approx(0, abs=0.003)
    again, _ = gates(add(model, drop=0.2, seed=3))
    other, _ = gates(add(model, drop=0.2, seed=4))
    np.testing.assert_array_equal(again, first)
    assert np.any(other != first)


# --- training -------------------------------------------------------------------------


def noisy(count=512):
    """The label is the sign of the first of 6 inputs."""
    x = np.random.default_rng(0).normal(size=(count, 6)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def trained(model, epochs=30, **compiled):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, **compiled)
    model.fit(*noisy(), batch_size=64, epochs=epochs, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("compiled", [{}, {"jit_compile": True}])
def test_training_closes_inputs_that_do_not_matter(compiled):
    keras.utils.set_random_seed(0)
    model = add(mlp((8,), inputs=6, classes=2), penalty=0.5, filters="dense")
    x, y = noisy()
    hard = kpi.harden(trained(model, **compiled))
    kept = masked_list(hard)[0].mask.numpy().any(1)
    assert kept.tolist() == [True] + [False] * 5
    assert np.mean(hard.predict(x, verbose=0).argmax(1) == y) > 0.95


def test_mixed_precision_trains_gates_in_whole_precision():
    keras.utils.set_random_seed(0)
    policy = "mixed_float16"
    layers = [L.Dense(8, "relu", dtype=policy), L.Dense(2, dtype=policy)]
    model = add(keras.Sequential([keras.Input((6,)), *layers]), penalty=0.5)
    assert {v.dtype for v in gates(model)} == {"float32"}
    assert model(noisy()[0], training=True).dtype == "float16"
    hard = kpi.harden(trained(model))
    assert masked_list(hard)[0].mask.numpy().any(1).tolist() == [True] + [False] * 5


def test_a_loop_of_ones_own_trains_gates_by_the_losses_of_the_model():
    model = add(mlp(), data_size=1)
    x = batch(model)[0]
    with tf.GradientTape() as tape:
        model(x, training=True)
        loss = sum(model.losses)
    variables = [v.value for v in gates(model)]
    gradients = tape.gradient(loss, variables)
    for layer, v, g in zip(masked_list(model), variables, gradients, strict=True):
        p = hard_concrete.probability(v)
        np.testing.assert_allclose(g, layer.units * p * (1 - p), rtol=1e-4)


def test_draws_are_new_in_each_call_and_the_same_for_all_samples():
    model, _ = one(L.Dense(50, kernel_initializer="ones"), (1,), "weights")
    x = np.ones((2, 1), "float32")
    a, b = (model(x, training=True).numpy() for _ in range(2))
    np.testing.assert_array_equal(a[0], a[1])
    assert np.mean(a != b) > 0.5
    np.testing.assert_array_equal(model(x), model(x))


def weights_after(model, epochs):
    return trained(model, epochs).get_weights()


@pytest.mark.parametrize("way", ["model", "weights", "checkpoint"])
def test_a_resumed_training_draws_what_it_would_have_drawn(way, tmp_path):
    def begun():
        keras.utils.set_random_seed(0)
        keras.backend.clear_session(free_memory=False)
        return trained(add(mlp((8,), inputs=6, classes=2), "channels"), 0)

    def go_on(model):
        model.fit(*noisy(), batch_size=64, epochs=1, shuffle=False, verbose=0)

    model = begun()
    go_on(model)
    other = begun()
    other.optimizer.build(other.trainable_variables)
    if way == "model":
        model.save(tmp_path / "m.keras")
        other = keras.models.load_model(tmp_path / "m.keras")
    elif way == "weights":
        model.save_weights(tmp_path / "m.weights.h5")
        other.load_weights(tmp_path / "m.weights.h5")
    else:
        path = tf.train.Checkpoint(m=model).write(str(tmp_path / "m"))
        tf.train.Checkpoint(m=other).read(path).assert_consumed()
    go_on(model)
    go_on(other)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_replicas_draw_the_same_gates_and_train_as_one_device():
    found = []
    for scope in (contextlib.nullcontext(), mirrored(2).scope()):
        keras.utils.set_random_seed(0)
        keras.backend.clear_session(free_memory=False)
        with scope:
            model = mlp((8,), inputs=6, classes=2)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.5, 0.9), loss)
        gated = add(model, weight_decay=0.01)
        logs = gated.fit(
            *noisy(256), batch_size=64, epochs=3, shuffle=False, verbose=0
        ).history["loss"]
        outputs = gated.predict(noisy(256)[0], verbose=0)
        hard = kpi.harden(gated)
        np.testing.assert_allclose(
            hard.predict(noisy(256)[0], verbose=0), outputs, atol=1e-5
        )
        found.append((logs, outputs, [v.numpy() for v in gates(gated)]))
    (a, x, u), (b, y, v) = found
    np.testing.assert_allclose(a, b, rtol=1e-4)
    np.testing.assert_allclose(x, y, atol=1e-4)
    for one_device, two in zip(u, v, strict=True):
        np.testing.assert_allclose(one_device, two, atol=1e-4)
    assert_replicas_equal(gated.weights)
    drawn = mirrored(2).run(lambda: masked_list(gated)[0].drawn_gate("kernel"))
    np.testing.assert_array_equal(*map(np.asarray, drawn.values))


# --- what becomes of gates ------------------------------------------------------------


@pytest.mark.parametrize("what", WHATS)
def test_hardened_models_compute_what_gated_ones_do(what):
    model, (x, _) = net()
    model.compile("adam", "mse")
    gated = spread(add(model, what))
    expected = gated.predict(x, verbose=0)
    hard = kpi.harden(gated)
    assert {type(layer) for layer in masked_list(hard)} == {kpi.MaskedLayer}
    assert type(hard.optimizer) is type(model.optimizer)
    assert not hard.optimizer.built
    for other in (hard, kpi.shrink(hard), kpi.strip(gated), kpi.strip(hard)):
        np.testing.assert_allclose(other.predict(x, verbose=0), expected, atol=1e-4)
    closed = [v.numpy() < -math.log(11) for v in gates(gated)]
    assert any(c.any() for c in closed)
    for layer, gone in zip(masked_list(hard), closed, strict=True):
        removed = np.broadcast_to(gone, layer.mask.shape)
        np.testing.assert_array_equal(layer.mask.numpy() == 0, removed)
        assert not layer.layer.kernel.numpy()[removed].any()
    assert kpi.report(gated).kept == kpi.report(hard).kept < kpi.report(hard).total


def test_closed_channels_are_cut_out_by_shrink():
    gated = add(
        mlp((8,), inputs=5, classes=3), "channels", filters=lambda v: v.units > 3
    )
    [v] = gates(gated)
    v.assign([[4.0, -4.0, 4.0, -4.0, -4.0, 4.0, 4.0, 4.0]])
    masked_list(gated)[0].layer.bias.assign(np.ones(8))
    small = kpi.shrink(kpi.harden(gated))
    assert small.layers[0].units == 5
    assert small.count_params() < gated.count_params()
    x = batch(gated)[0]
    np.testing.assert_allclose(small(x), gated(x), atol=1e-5)


@pytest.mark.parametrize("make", [transformer, subclassed])
@pytest.mark.parametrize("what", WHATS)
def test_copies_and_files_of_any_model_keep_its_gates(make, what, tmp_path):
    model = make()
    gated = spread(add(model, what))
    shape = (2, *model.input_shape[1:]) if make is transformer else (2, 5)
    x = np.ones(shape, "int32" if make is transformer else "float32")
    twice = rebuild.copy_model(rebuild.copy_model(gated))
    gated.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    drawn = gated(x, training=True)
    for other in (twice, loaded):
        np.testing.assert_array_equal(other(x, training=True), drawn)
        np.testing.assert_allclose(other.losses, gated.losses, rtol=1e-6)
    np.testing.assert_allclose(kpi.harden(loaded)(x), gated(x), atol=1e-5)


def test_gates_of_a_pruned_model_leave_removed_weights_out():
    model = mlp((8,), inputs=6, classes=2)
    pruned = kpi.prune_at_init(model, method="magnitude", sparsity=0.5)
    gated = add(pruned)
    before = [layer.kept_mask("kernel") for layer in masked_list(pruned)]
    for v in gates(gated):
        v.assign(np.zeros(v.shape))
    expected = [EVEN * mask.sum() for mask in before]
    found = list(kpi.expected_kept(gated).values())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert [*kpi.expected_kept(gated)] == [
        row.path for row in kpi.report(pruned).tensors
    ]
    spread(gated)
    hard = kpi.harden(trained(gated, 2))
    for layer, mask in zip(masked_list(hard), before, strict=True):
        assert not layer.kept_mask("kernel")[~mask].any()
        assert not layer.layer.kernel.numpy()[~mask].any()
    x = noisy()[0]
    np.testing.assert_allclose(hard(x), gated(x), atol=1e-5)


def test_a_damaged_file_is_refused(tmp_path):
    model = add(mlp())
    gates(model)[0].assign(np.full((5, 1), np.nan))
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="gates of kernel with no finite log_alpha"):
        keras.models.load_model(tmp_path / "m.keras")


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "rows"}, "`what` must be one of"),
        ({"penalty": -1.0}, "`penalty` must be a number from 0"),
        ({"penalty": {"nothing": 1.0, "*": 1.0}}, "'nothing', which finds none"),
        ({"penalty": {"dense": "much"}}, "`penalty` must be a number"),
        ({"penalty": {"(": 1.0}}, "of which Python says"),
        ({"drop": {"/kernel_7": 0.5, "*": 0.5}}, "dict `drop` must be found"),
        ({"drop": 1.0}, "`drop` must be a number from 0.01 to 0.99"),
        ({"data_size": 0}, "`data_size` must be a whole number, 1 or more"),
        ({"weight_decay": math.nan}, "`weight_decay` must be a number"),
        ({"seed": -1}, "`seed` must be a whole number"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        add(mlp(), **options)


def test_a_layer_needs_a_number_for_each_of_its_kernels():
    with pytest.raises(ValueError, match="one for each kernel of the layer: kernel"):
        kpi.GatedLayer(L.Dense(3), penalty={"bias": 1.0}, data_size=10)


def test_a_dict_that_leaves_a_kernel_out_is_refused():
    model = mlp()
    with pytest.raises(ValueError, match=r"has none for .*Add the key '\*'"):
        add(model, penalty={model.layers[0].kernel.path: 1.0})


@pytest.mark.parametrize(
    ("layer", "shape", "what", "message"),
    [
        (L.Conv2D(4, 3, groups=2), (6, 6, 2), "inputs", "which has 2 groups"),
        (L.LSTM(3), (4, 5), "channels", "known to count channels"),
        (L.SpectralNormalization(L.Dense(3)), (5,), "weights", "Leave the layer out"),
        (
            L.EinsumDense("abc,cde->abde", (None, 3, 2), bias_axes="e"),
            (4, 5),
            "channels",
            "a bias that channels share",
        ),
        (L.Dense(3, trainable=False), (5,), "inputs", "kernel is frozen"),
    ],
)
def test_layers_that_gates_do_not_fit_are_refused_by_name(layer, shape, what, message):
    model = keras.Sequential([keras.Input(shape), layer])
    with pytest.raises(ValueError, match=f"`?{layer.name}`?.*{message}"):
        add(model, what)


def test_models_with_gates_and_without_are_told_apart():
    model = mlp()
    gated, pruned = add(model), kpi.prune_at_init(model, None, "magnitude")
    for call in (
        lambda: add(gated),
        lambda: kpi.shrink(gated),
        lambda: kpi.to_layout(gated, "compact"),
        lambda: kpi.prune(gated, None, "magnitude"),
        lambda: kpi.score(gated, None, "magnitude"),
        lambda: kpi.sanity.shuffle(gated),
        lambda: kpi.sanity.reinitialize(gated),
        lambda: kpi.approximate_isometry(gated),
    ):
        with pytest.raises(ValueError, match=r"without gates.*Call `harden\(model\)`"):
            call()
    for function in (kpi.harden, kpi.expected_kept):
        with pytest.raises(ValueError, match="has no GatedLayer"):
            function(pruned)
        with pytest.raises(TypeError, match="must be a keras.Model"):
            function("model")
    with pytest.raises(ValueError, match="in the layout 'compact'"):
        add(kpi.to_layout(pruned, "compact"))
