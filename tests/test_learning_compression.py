"""Learning-compression: the C steps, and a callback that takes them in `fit`."""

import itertools
import shutil

import keras
import numpy as np
import pytest
from helpers import L, batch, masked_list, mlp
from runs import assert_replicas_equal, mirrored

import keras_prune_init as kpi
from keras_prune_init.callbacks.penalty import penalized_layers, progress
from keras_prune_init.layers.penalized import PenalizedLayer
from keras_prune_init.masks import c_steps

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(6, 8))
SUPPORTS = np.array(list(itertools.product([False, True], repeat=8)))
LC = kpi.callbacks.LearningCompression
# The others show that graphs do the same.
EAGERLY = pytest.mark.usefixtures("eagerly")


# --- C steps --------------------------------------------------------------------------


def whole(step, vector, *args):
    """What a step makes of a vector that is cut into arrays of two shapes."""
    parts = {"a": vector[:6].reshape(2, 3), "b": vector[6:]}
    found = step(parts, *args)
    assert [found[k].shape for k in "ab"] == [(2, 3), (2,)]
    return np.concatenate([found["a"].ravel(), found["b"]])


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_the_largest_are_nearest_of_all_supports_of_so_many(vector, count):
    allowed = SUPPORTS[SUPPORTS.sum(1) <= count]
    best = allowed[np.argmin((vector**2 * ~allowed).sum(1))]
    found = whole(c_steps.keep_largest, vector, count)
    np.testing.assert_array_equal(found, vector * best)


def test_of_equal_sizes_the_first_are_kept_over_all_arrays():
    equal = {"a": np.array([1.0, -2.0, 2.0]), "b": np.array([-2.0, 2.0])}
    found = c_steps.keep_largest(equal, 3)
    assert [found[k].tolist() for k in "ab"] == [[0, -2, 2], [-2, 0]]


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize(("alpha", "mu"), [(0.01, 0.1), (0.2, 0.5), (2.0, 1.0)])
def test_hard_threshold_minimizes_over_all_supports(vector, alpha, mu):
    costs = mu / 2 * (vector**2 * ~SUPPORTS).sum(1) + alpha * SUPPORTS.sum(1)
    found = whole(c_steps.hard_threshold, vector, alpha, mu)
    np.testing.assert_array_equal(found, vector * SUPPORTS[np.argmin(costs)])


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize(("alpha", "mu"), [(0.01, 0.1), (0.2, 0.5), (2.0, 1.0)])
def test_soft_threshold_minimizes_over_a_fine_grid(vector, alpha, mu):
    grid = np.linspace(-4, 4, 80_001)[:, None]
    costs = mu / 2 * (vector - grid) ** 2 + alpha * abs(grid)
    found = whole(c_steps.soft_threshold, vector, alpha, mu)
    np.testing.assert_allclose(found, grid[np.argmin(costs, 0), 0], atol=6e-5)


def by_bisection(vector, radius):
    low, high = 0.0, abs(vector).max()
    for _ in range(100):
        middle = (low + high) / 2
        over = np.maximum(abs(vector) - middle, 0).sum() > radius
        low, high = (middle, high) if over else (low, middle)
    return np.sign(vector) * np.maximum(abs(vector) - low, 0)


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("radius", [0.1, 1.0, 2.0, 4.0])
def test_the_projection_onto_the_l1_ball_is_that_of_a_bisection(vector, radius):
    found = whole(c_steps.project_l1, vector, radius)
    np.testing.assert_allclose(found, by_bisection(vector, radius), atol=1e-12)
    assert abs(found).sum() == pytest.approx(radius)


def test_the_projection_is_right_where_published_code_is_not():
    # That code takes the first index that fails, and returns a norm of 6 here.
    assert whole(c_steps.project_l1, np.r_[3.0, 3, np.zeros(6)], 1).tolist() == [
        *(0.5, 0.5),
        *[0] * 6,
    ]
    inside = np.array([0.5, -0.25, 0, 0, 0, 0, 0, 0.25])
    np.testing.assert_array_equal(whole(c_steps.project_l1, inside, 1), inside)


@pytest.mark.parametrize("step", [c_steps.hard_threshold, c_steps.soft_threshold])
def test_without_weight_the_penalty_leaves_nothing(step):
    assert not whole(step, VECTORS[0], 0.1, 0).any()


# --- the callback ---------------------------------------------------------------------


def compiled(model, optimizer=None, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, loss, **({"jit_compile": False} | options))
    return model


def net(**kwargs):
    keras.utils.set_random_seed(1)
    return compiled(mlp(**kwargs))


def train(model, *callbacks, epochs=100, size=24, **options):
    x, y = batch(model, size)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0} | options
    return model.fit(x, y, epochs=epochs, callbacks=[*callbacks], **options)


def two_weights():
    """Its loss is |w - (2, 2)|^2 / 2, at w = (4, 1)."""
    model = keras.Sequential([keras.Input((2,)), L.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[4.0], [1.0]])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    return model, (np.eye(2), np.full((2, 1), 2.0))


def numbers(variable):
    return np.asarray(variable.value).ravel()


def test_two_steps_by_hand():
    model, data = two_weights()
    lc = LC(sparsity=0.5, every=1, steps=2, mu=0.5, growth=2)
    model = lc.attach(model)
    [layer] = penalized_layers(model)
    [theta], [multiplier] = layer.targets.values(), layer.multipliers.values()
    assert numbers(theta).tolist() == [4, 0]
    assert model.evaluate(*data, verbose=0) == pytest.approx(2.5 + 0.5 / 2 * 1)
    # w - 0.1 * ((2, -1) + 0.5 * (0, 1)), then w - 0.1 * ((1.8, -0.95) + (0, 1.575))
    for w, t, m, mu in [
        ([3.8, 1.05], [3.8, 0], [0, -0.525], 1),
        ([3.62, 0.9875], [3.62, 0], [0, -1.5125], 2),
    ]:
        model.fit(*data, batch_size=2, verbose=0, callbacks=[lc])
        np.testing.assert_allclose(numbers(layer.layer.kernel), w, rtol=1e-6)
        np.testing.assert_allclose(numbers(theta), t, rtol=1e-6)
        np.testing.assert_allclose(numbers(multiplier), m, rtol=1e-6)
        assert float(layer.lc_mu) == mu
    pruned = lc.finish(model)
    np.testing.assert_allclose(pruned.get_weights()[2], [[3.62], [0]], rtol=1e-6)
    assert [row["kept"] for row in lc.history] == [1, 1]
    off = 0.9875 / np.hypot(3.62, 0.9875)
    assert lc.history[1]["distance"] == pytest.approx(off)


def test_the_multiplier_moves_what_is_compressed():
    """The second step shrinks w - multiplier / mu by 1, not w."""
    model, data = two_weights()
    lc = LC(l1_penalty=1.0, every=1, steps=2, mu=0.5, growth=2)
    model = lc.attach(model)
    [layer] = penalized_layers(model)
    model.fit(*data, batch_size=2, verbose=0, callbacks=[lc])
    # Targets are 0 at first: w = (4, 1) - 0.1 * ((2, -1) + 0.5 * (4, 1)).
    np.testing.assert_allclose(numbers(layer.targets["kernel"]), [1.6, 0], rtol=1e-6)
    # The gradient is (1.6, -0.95) + 1 * (2, 1.05) + 0.5 * (2, 1.05).
    model.fit(*data, batch_size=2, verbose=0, callbacks=[lc])
    w = np.array([3.6 - 0.46, 1.05 - 0.0625])
    moved = w + [1.0, 0.525]
    np.testing.assert_allclose(numbers(layer.layer.kernel), w, rtol=1e-6)
    np.testing.assert_allclose(numbers(layer.targets["kernel"]), moved - 1.0, rtol=1e-5)


@EAGERLY
def test_the_quadratic_penalty_has_no_multipliers():
    lc = LC(sparsity=0.5, every=2, steps=2, mu=0.1, augmented=False)
    model = lc.attach(net())
    train(model, lc)
    for layer in penalized_layers(model):
        assert not numbers(layer.multipliers["kernel"]).any()


@pytest.mark.parametrize(
    "form",
    [
        {"sparsity": 0.7},
        {"l0_penalty": 3e-3},
        {"l1_penalty": 0.02},
        {"l1_ball": 10.0},
    ],
    ids=lambda form: next(iter(form)),
)
def test_weights_and_targets_agree_in_the_end(form):
    lc = LC(**form, every=12, steps=20, mu=0.5, growth=1.15)
    model = lc.attach(net())
    compiled(model, keras.optimizers.SGD(0.05, momentum=0.5))
    train(model, lc)
    assert len(lc.history) == 20
    assert lc.history[-1]["distance"] < 0.02 < lc.history[0]["distance"]
    pruned = lc.finish(model)
    total = 5 * 8 + 8 * 6 + 6 * 3
    kept = kpi.report(pruned).kept
    assert 0 < kept < total
    assert kept == sum(np.count_nonzero(v.layer.kernel) for v in masked_list(pruned))
    if "l1_ball" in form:
        sizes = [abs(v.layer.kernel.numpy()).sum() for v in masked_list(pruned)]
        assert sum(sizes) == pytest.approx(10)
    x, _ = batch(model, 24)
    np.testing.assert_allclose(pruned.predict(x), model.predict(x), atol=0.05)


@EAGERLY
@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.5, 0.95])
def test_counts_are_exact_even_if_weights_are_0(sparsity):
    model = net()
    for layer in model.layers[:2]:
        layer.kernel.assign(layer.kernel * 0)
    lc = LC(sparsity=sparsity, every=1, steps=1)
    model = lc.attach(model)
    train(model, lc)
    report = kpi.report(lc.finish(model))
    assert report.total - report.kept == int(sparsity * 106 + 1e-9)


@EAGERLY
def test_the_users_model_is_as_before():
    model = net(kernel_regularizer="l2")
    before = [w.copy() for w in model.get_weights()]
    losses = [float(v) for v in model.losses]
    regularizers = [layer.kernel.regularizer for layer in model.layers]
    lc = LC(sparsity=0.5, every=2, steps=2)
    attached = lc.attach(model)
    train(attached, lc)
    lc.finish(attached)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [type(layer) for layer in model.layers] == [L.Dense] * 3
    assert [float(v) for v in model.losses] == losses
    assert [layer.kernel.regularizer for layer in model.layers] == regularizers
    assert int(model.optimizer.iterations) == 0


@EAGERLY
def test_the_users_regularizer_stays_and_the_penalty_goes():
    model = net(kernel_regularizer=keras.regularizers.L2(0.5))
    lc = LC(sparsity=0.5, every=2, steps=2, mu=0.25)
    attached = lc.attach(model)
    drawn = sum(
        0.25 / 2 * np.square(v.layer.kernel - v.targets["kernel"]).sum()
        for v in penalized_layers(attached)
    )
    plain = sum(map(float, model.losses))
    assert sum(map(float, attached.losses)) == pytest.approx(plain + drawn, rel=1e-5)
    train(attached, lc)
    pruned = lc.finish(attached)
    kernels = [v.layer.kernel for v in masked_list(pruned)]
    squares = [0.5 * np.square(k).sum() for k in kernels]
    np.testing.assert_allclose([float(v) for v in pruned.losses], squares, rtol=1e-5)
    assert not penalized_layers(pruned)
    assert not any("lc_" in v.path or "target" in v.path for v in pruned.weights)
    assert len(pruned.weights) == len(kpi.prune(model, None, "magnitude").weights)
    plain = kpi.strip(pruned)
    assert [type(v.kernel.regularizer) for v in plain.layers] == [
        type(model.layers[0].kernel.regularizer)
    ] * 3


@EAGERLY
def test_fine_tuning_keeps_what_was_removed_at_0():
    lc = LC(sparsity=0.6, every=2, steps=2)
    model = lc.attach(net())
    train(model, lc)
    pruned = lc.finish(model)
    before = pruned.get_weights()
    train(pruned, epochs=2)
    assert kpi.report(pruned).sparsity == pytest.approx(0.6, abs=0.01)
    for layer in masked_list(pruned):
        assert not layer.layer.kernel.numpy()[layer.mask.numpy() == 0].any()
    assert any(
        np.any(a != b) for a, b in zip(before, pruned.get_weights(), strict=True)
    )


# --- when the steps are taken, and going on -------------------------------------------


class At(keras.callbacks.Callback):
    """Note the step of the optimizer after which each compression step comes."""

    def on_train_begin(self, logs=None):
        self.done, self.found = progress(self.model)[0], []

    def on_train_batch_end(self, batch, logs=None):
        done, begun = progress(self.model)
        if done > self.done:
            self.found.append(begun)
        self.done = done


def at(lc, model, **options):
    seen = At()
    train(model, lc, seen, **options)
    return seen.found


@EAGERLY
def test_steps_are_counted_through_epochs_and_calls_of_fit_and_the_last_ends_it():
    lc = LC(sparsity=0.5, every=4, first=2, steps=3)
    model = lc.attach(net())
    assert at(lc, model, epochs=1) == [2]  # of 3 batches
    assert at(lc, model, epochs=100) == [6, 10]
    assert int(model.optimizer.iterations) == 10
    with pytest.raises(ValueError, match="has taken all 3. Call `finish`"):
        train(model, lc)


@pytest.mark.parametrize(("together", "size", "every"), [(2, 32, 6), (3, 24, 4)])
def test_steps_in_one_call_of_the_graph_must_divide_the_others(together, size, every):
    lc = LC(sparsity=0.5, every=every, steps=2)
    models = [compiled(lc.attach(net()), steps_per_execution=n) for n in (1, together)]
    assert at(lc, models[0], size=size) == [every, 2 * every]
    if every % together:
        with pytest.raises(ValueError, match="`steps_per_execution` must divide `fir"):
            train(models[1], lc, size=size)
        return
    assert at(lc, models[1], size=size) == [every, 2 * every]
    for one, other in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_whole_epochs_fit_any_number_of_steps_in_a_call():
    lc = LC(sparsity=0.5, every=6, steps=2)
    model = compiled(lc.attach(net()), steps_per_execution=2)
    assert at(lc, model) == [6, 12]  # each call of 3 steps: 2 and 1


@EAGERLY
def test_batches_that_are_accumulated_are_one_step():
    lc = LC(sparsity=0.5, every=2, steps=2)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    model = compiled(lc.attach(net()), optimizer)
    train(model, lc)
    assert [row["step"] for row in lc.history] == [1, 2]
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 4


@EAGERLY
def test_a_new_optimizer_begins_the_step_anew():
    lc = LC(sparsity=0.5, every=3, steps=3)
    model = lc.attach(net())
    train(model, lc, epochs=1)
    assert progress(model) == (1, 3)
    compiled(model)
    assert at(lc, model, epochs=2)[-1] == 6
    assert progress(model)[0] == 3


def state(model):
    return [*model.get_weights(), *(np.asarray(v) for v in model.optimizer.variables)]


def same(one, other):
    pairs = [*zip(state(one), state(other), strict=True)]
    assert len(pairs) > 20
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_saved_model_goes_on_to_equal_weights(epochs, tmp_path):
    """Within an L step, and at its end: compression steps come after steps 4, 9, 14."""
    options = {"sparsity": 0.5, "every": 5, "first": 4, "steps": 3, "mu": 0.1}
    lc = LC(**options)
    expected = lc.attach(net())
    train(expected, lc)
    model, lc = LC(**options).attach(net()), LC(**options)
    train(model, lc, epochs=epochs)
    model.save(tmp_path / "model.keras")
    loaded, lc = keras.models.load_model(tmp_path / "model.keras"), LC(**options)
    train(loaded, lc)
    same(expected, loaded)
    finished = [lc.finish(m).get_weights() for m in (expected, loaded)]
    for a, b in zip(*finished, strict=True):
        np.testing.assert_array_equal(a, b)


@EAGERLY
def test_a_file_from_before_a_due_step_is_enough(tmp_path):
    lc = LC(sparsity=0.5, every=3, steps=2)
    expected, model = lc.attach(net()), lc.attach(net())
    train(expected, lc)
    path = tmp_path / "before.keras"

    # It stands before the callback, and saves after step 3.
    def save(batch, logs):
        if batch == 2:
            model.save(path)

    save = keras.callbacks.LambdaCallback(on_train_batch_end=save)
    train(model, save, lc, epochs=1)
    loaded = keras.models.load_model(path)
    assert (progress(loaded), progress(model)) == ((0, 0), (1, 3))
    train(loaded, lc)
    same(expected, loaded)


class Killed(Exception):
    pass


@EAGERLY
def test_a_killed_fit_goes_on_with_kerass_own_backup(tmp_path):
    options = {"sparsity": 0.5, "every": 5, "steps": 3}
    lc = LC(**options)
    expected = lc.attach(net())
    train(expected, lc)

    def kill(epoch, logs):
        if epoch == 3:
            raise Killed

    killer = keras.callbacks.LambdaCallback(on_epoch_begin=kill)
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    with pytest.raises(Killed):
        train(LC(**options).attach(net()), backup, LC(**options), killer)
    lc = LC(**options)
    model = lc.attach(net())
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    train(model, backup, lc)
    assert [row["step"] for row in lc.history] == [2, 3]
    same(expected, model)
    shutil.rmtree(tmp_path / "backup", ignore_errors=True)


@keras.saving.register_keras_serializable("tests")
class Two(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [L.Dense(8, "relu"), L.Dense(3)]

    def call(self, x):
        return self.parts[1](self.parts[0](x))


@EAGERLY
def test_a_subclassed_model_can_be_saved_in_the_middle(tmp_path):
    keras.utils.set_random_seed(0)
    model, lc = Two(), LC(sparsity=0.5, every=4, steps=2, mu=0.1)
    x, y = np.eye(8, 5, dtype="float32"), np.arange(8) % 3
    model(x)
    model = lc.attach(compiled(model))
    model.fit(x, y, batch_size=2, epochs=1, verbose=0, callbacks=[lc])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(penalized_layers(loaded)) == 2
    assert progress(loaded) == (1, 4)
    np.testing.assert_allclose(sum(loaded.losses), sum(model.losses), rtol=1e-6)
    assert kpi.report(lc.finish(loaded)).kept == (5 * 8 + 8 * 3) // 2


# --- other models and devices ---------------------------------------------------------


@EAGERLY
def test_a_pruned_model_keeps_its_zeros():
    lc = LC(sparsity=0.8, every=3, steps=2, mu=0.1)
    once = kpi.prune(net(), None, "random", sparsity=0.5)
    model = lc.attach(once)
    before = [v.kept_mask("kernel") for v in masked_list(model)]
    train(model, lc)
    pruned = lc.finish(model)
    assert kpi.report(pruned).kept == 106 - 84
    for mask, layer in zip(before, masked_list(pruned), strict=True):
        assert not (layer.kept_mask("kernel") & ~mask).any()
        assert not layer.layer.kernel.numpy()[~mask].any()
    with pytest.raises(ValueError, match="`sparsity` cannot be lower now"):
        LC(sparsity=0.4, every=1).attach(once)


@EAGERLY
def test_layers_that_filters_leave_out_are_ordinary_or_keep_their_masks():
    lc = LC(sparsity=0.5, every=3, steps=1, filters="first")
    layers = [L.Dense(n, name=name) for n, name in ((8, "first"), (6, "b"), (3, "c"))]
    model = compiled(keras.Sequential([keras.Input((5,)), *layers]))
    attached = lc.attach(model)
    assert [type(v) for v in attached.layers] == [PenalizedLayer, L.Dense, L.Dense]
    once = kpi.prune(model, None, "magnitude", sparsity=0.5)
    attached = lc.attach(once)
    kinds = [PenalizedLayer, kpi.MaskedLayer, kpi.MaskedLayer]
    assert [type(v) for v in attached.layers] == kinds
    train(attached, lc)
    pruned = lc.finish(attached)
    assert masked_list(pruned)[0].kept_mask("kernel").sum() == 20
    for one, other in list(zip(masked_list(once), masked_list(pruned), strict=True))[
        1:
    ]:
        np.testing.assert_array_equal(
            one.kept_mask("kernel"), other.kept_mask("kernel")
        )


@EAGERLY
def test_frozen_kernels_are_left_alone():
    model = mlp()
    model.layers[0].trainable = False
    lc = LC(sparsity=0.5, every=2, steps=1)
    attached = lc.attach(compiled(model))
    train(attached, lc)
    assert kpi.report(lc.finish(attached)).kept == (8 * 6 + 6 * 3) // 2
    np.testing.assert_array_equal(attached.layers[0].kernel, model.layers[0].kernel)
    for frozen, function in ((model, lc.attach), (attached, lc.finish)):
        frozen.trainable = False
        with pytest.raises(ValueError, match="kernels are all frozen"):
            function(frozen)


@EAGERLY
def test_a_layer_with_a_frozen_kernel_that_was_pruned_before_keeps_its_mask():
    layer = L.LSTM(4)
    model = keras.Sequential([keras.Input((3, 5)), layer, L.Dense(3)])
    once = compiled(kpi.prune(model, None, "random", sparsity=0.25))
    once.layers[0].cell.recurrent_kernel.trainable = False
    lc = LC(sparsity=0.5, every=1, steps=1, filters="trainable")
    attached = lc.attach(once)
    attached.fit(np.ones((4, 3, 5)), np.zeros(4), verbose=0, callbacks=[lc])
    [lstm, dense], [before, _] = masked_list(lc.finish(attached)), masked_list(once)
    name = "cell.recurrent_kernel"
    np.testing.assert_array_equal(lstm.kept_mask(name), before.kept_mask(name))
    kept = lstm.kept_mask("cell.kernel").sum() + dense.kept_mask("kernel").sum()
    assert kept == (5 * 16 + 4 * 3) // 2


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_xla_and_mixed_precision(policy):
    keras.utils.set_random_seed(1)
    model = compiled(mlp(dtype=policy), jit_compile=True)
    lc = LC(sparsity=0.75, every=3, steps=3, mu=0.5)
    attached = lc.attach(model)
    train(attached, lc)
    assert [row["kept"] for row in lc.history] == [27] * 3
    pruned = lc.finish(attached)
    assert kpi.report(pruned).kept == 27
    assert all(np.isfinite(w).all() for w in attached.get_weights())
    train(pruned, epochs=1)


def test_replicas_train_as_one_device():
    found = []
    for count in (1, 2):
        with mirrored(count).scope():
            model = net()
        lc = LC(sparsity=0.7, every=4, steps=3, mu=0.5)
        attached = lc.attach(model)
        assert attached.distribute_strategy.num_replicas_in_sync == count
        train(attached, lc)
        found.append((lc.finish(attached), lc.history))
    (one, rows), (two, others) = found
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    assert_replicas_equal([*attached.weights, *two.weights])


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Pass one of `sparsity`, `l0_penalty`, `l1_penalty`, `l1_ball`"),
        ({"sparsity": 0.5, "l1_ball": 1.0}, "Pass one of"),
        ({"sparsity": 1.0}, "0 <= sparsity < 1"),
        ({"l0_penalty": 0}, "`l0_penalty` must be a number above 0"),
        ({"sparsity": 0.5, "every": 0}, "`every` must be a whole number, 1 or more"),
        ({"sparsity": 0.5, "steps": 1.5}, "`steps` must be a whole number"),
        ({"sparsity": 0.5, "first": 0}, "`first` must be a whole number"),
        ({"sparsity": 0.5, "mu": 0}, "`mu` must be a number, above 0"),
        ({"sparsity": 0.5, "growth": 0.9}, "`growth` must be a number, 1 or more"),
        ({"sparsity": 0.5, "growth": 9, "steps": 99}, "must be a number below 1e30"),
        ({"sparsity": 0.5, "augmented": "no"}, "`augmented` must be True or False"),
        ({"sparsity": 0.5, "filters": "("}, "`filters` must be a regular expression"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LC(**{"every": 1} | arguments)


@EAGERLY
def test_models_without_and_with_a_penalty_are_told_apart():
    model, lc = net(), LC(sparsity=0.5, every=1, steps=2)
    with pytest.raises(ValueError, match=r"Train `model = lc.attach\(model\)`"):
        train(model, lc)
    with pytest.raises(ValueError, match="which has none"):
        lc.finish(model)
    attached = lc.attach(model)
    with pytest.raises(ValueError, match="A model gets one penalty"):
        lc.attach(attached)
    for call in (
        lambda: kpi.prune(attached, None, "magnitude"),
        lambda: kpi.shrink(attached),
        lambda: kpi.strip(attached),
        lambda: kpi.export_tflite(attached, "attached.tflite"),
        lambda: train(attached, kpi.callbacks.RigL()),
    ):
        with pytest.raises(ValueError, match=r"Call `callback.finish\(model\)` first"):
            call()
    assert "in training: `finish` removes weights" in str(kpi.report(attached).notes)
    with pytest.raises(ValueError, match="without gates"):
        lc.attach(kpi.add_gates(model, penalty=1.0, data_size=9))


@EAGERLY
def test_a_learning_rate_above_1_by_mu_is_lowered_or_refused(caplog):
    lc = LC(sparsity=0.5, every=2, steps=3, mu=4.0, growth=2)
    model = compiled(lc.attach(net()), keras.optimizers.SGD(0.5))
    train(model, lc)
    assert float(model.optimizer.learning_rate) == pytest.approx(
        1 / 16
    )  # of the last L step
    assert "learning rate 0.5, above 1 / mu = 0.25, is lowered" in caplog.text
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    model = compiled(lc.attach(net()), keras.optimizers.SGD(schedule))
    with pytest.raises(ValueError, match="a schedule that gives a learning rate 0.5"):
        train(model, lc)
    assert int(model.optimizer.iterations) == 0


@EAGERLY
def test_an_end_far_from_the_compressed_weights_is_told(caplog):
    lc = LC(sparsity=0.9, every=1, steps=1, mu=1e-3)
    model = compiled(lc.attach(net()), keras.optimizers.SGD(0.01))
    train(model, lc)
    lc.finish(model)
    assert "let `mu` grow further" in caplog.text
    caplog.clear()
    lc = LC(sparsity=0.1, every=1, steps=1, mu=1e-3)
    model = compiled(lc.attach(net()), keras.optimizers.SGD(0.01))
    train(model, lc)
    lc.finish(model)
    assert "let `mu` grow further" not in caplog.text


@EAGERLY
@pytest.mark.parametrize("how", [{"sparsity": 0.5}, {"l1_ball": 1.0}])
def test_weights_that_are_not_finite_end_the_training(how):
    lc = LC(**how, every=1, steps=2, mu=0.1)
    model = compiled(lc.attach(net()), keras.optimizers.SGD(0.01))
    for weight in model.trainable_variables:
        weight.assign(np.full(weight.shape, np.nan))
    with pytest.raises(FloatingPointError, match="`LearningCompression` takes weights"):
        train(model, lc)
