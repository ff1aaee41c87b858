"""Callbacks that change masks while `fit` trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, masks, mlp
from runs import assert_replicas_equal, mirrored

import keras_prune_init as kpi

C = kpi.callbacks
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# Each rule, the sparsity it begins with, and the layouts that it can change.
RULES = {
    "SET": (lambda **k: C.SET(0.5, **k), 0.8, ("masked", "compact")),
    "RigL": (lambda **k: C.RigL(0.5, **k), 0.8, ("masked", "compact")),
    "GraNet": (lambda **k: C.GraNet(0.8, **k), 0.5, ("masked",)),
    "GradualMagnitude": (lambda **k: C.GradualMagnitude(0.8, **k), 0.0, ("masked",)),
    "ACDC": (lambda **k: C.ACDC(0.8, **{"begin": 2, **k}), 0.0, ("masked",)),
}
CASES = [(name, layout) for name, row in RULES.items() for layout in row[2]]
EACH = pytest.mark.parametrize(("name", "layout"), CASES)


def moment(weights, mask, gradients=(), step=10, seed=0):
    def named(v):
        return {"a": np.array(v)} if len(v) else {}

    mask = {"a": np.array(mask, bool)}
    return C.Moment(step, named(weights), mask, named(gradients), seed)


def rule_of(kind, *args, last=20, **kwargs):
    rule = kind(*args, **kwargs)
    rule.last = last
    return rule


def dense_layer(weights, mask, layout="masked", inputs=None, optimizer="sgd"):
    """A model of one pruned layer without bias, with one output unit."""
    model = keras.Sequential([keras.Input((len(weights),)), L.Dense(1, use_bias=False)])
    pruned = kpi.prune(model, method="magnitude", sparsity=1 - np.mean(mask))
    mask, values = (np.array(v, "float32")[:, None] for v in (mask, weights))
    pruned.layers[0].install("kernel", mask, values)
    pruned = kpi.to_layout(pruned, layout)
    pruned.compile(optimizer, "mse")
    return pruned


def fresh():
    """Equal names and draws from here on; random masks go by the names of layers."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


def convolutions():
    """Without batch normalization, whose replicas see other batches."""
    layers = [L.Conv2D(8, 3, activation="relu"), L.Conv2D(8, 3, activation="relu")]
    ends = [L.Flatten(), L.Dense(3)]
    return keras.Sequential([keras.Input((6, 6, 2)), *layers, *ends])


def trained(name, layout="masked", make=mlp, optimizer=None, more=(), **options):
    """A model after `fit` with a rule, and what its masks were before each step."""
    make_rule, sparsity, _ = RULES[name]
    if not tf.distribute.has_strategy():  # whose scope this would end
        fresh()
    model = make()
    data = batch(model, 64)
    pruned = kpi.prune(model, None, "random", sparsity=sparsity, allocation="erk")
    pruned = kpi.to_layout(pruned, layout)
    pruned.compile(optimizer or keras.optimizers.Adam(0.01), LOSS, **options)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, logs: seen.append(masks(pruned))
    )
    rule = make_rule(every=2, end=8)
    fit(pruned, data, 3, [rule, watch, *more])
    return pruned, seen, data


def fit(model, data, epochs, callbacks, first=0):
    model.fit(
        *data,
        batch_size=16,
        epochs=epochs,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


# --- what is dropped, and what grows --------------------------------------------------


def test_rigl_drops_the_smallest_and_grows_the_largest_gradients():
    # Half of the way: 0.5 / 2 * (1 + cos(pi / 2)) = 0.25 of four weights, which is one.
    rule = rule_of(C.RigL, 0.5)
    seen = moment([4, -1, 2, -3, 0, 0], [1, 1, 1, 1, 0, 0], [9, 1, 9, 9, -3, 2])
    assert rule.masks(seen)["a"].tolist() == [1, 0, 1, 1, 1, 0]


def test_a_weight_that_was_just_dropped_can_grow_again():
    rule = rule_of(C.RigL, 0.5)
    seen = moment([4, -1, 2, -3, 0, 0], [1, 1, 1, 1, 0, 0], [9, 5, 9, 9, -3, 2])
    assert rule.masks(seen)["a"].tolist() == [1, 1, 1, 1, 0, 0]


def test_of_equal_ones_the_first_stay_and_come():
    rule = rule_of(C.RigL, 1.0)  # half of four
    seen = moment([1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 7, 7, 7])
    assert rule.masks(seen)["a"].tolist() == [1, 1, 0, 0, 1, 1, 0]


@pytest.mark.parametrize(("step", "moved"), [(0, 2), (5, 2), (10, 1), (15, 0), (19, 0)])
def test_the_fraction_falls_along_a_cosine_and_is_rounded_down(step, moved):
    rule = rule_of(C.RigL, 0.5)
    # 0.25 * (1 + cos(pi * step / 20)) * 5: 2.5, 2.13, 1.25, 0.37, 0.02
    seen = moment([1, 2, 3, 4, 5, 0, 0], [1] * 5 + [0] * 2, [0] * 5 + [1, 1], step)
    assert np.count_nonzero(rule.masks(seen)["a"][5:]) == moved


def test_set_grows_at_random_positions_by_seed_and_step():
    mask = [1] * 50 + [0] * 50
    weights = np.array(mask)  # of equal ones the first stay

    def grown(**kwargs):
        found = rule_of(C.SET, 0.8).masks(moment(weights, mask, **kwargs))
        assert np.count_nonzero(found["a"]) == 50
        assert found["a"][:30].all()  # 0.4 of 50 are dropped
        return found["a"]

    assert np.array_equal(grown(), grown())
    assert not np.array_equal(grown(), grown(seed=1))
    assert not np.array_equal(grown(), grown(step=11))


def test_a_rule_of_ones_own():
    class Largest(C.DropAndGrow):
        def drop(self, moment):
            return {p: -np.abs(w) for p, w in moment.weights.items()}

        def grow(self, moment):
            return {p: np.arange(m.size) for p, m in moment.masks.items()}

    found = rule_of(Largest, 0.5).masks(moment([5, 1, 2, 3, 0, 0], [1] * 4 + [0] * 2))
    assert found["a"].tolist() == [0, 1, 1, 1, 0, 1]


def test_gradual_magnitude_removes_as_many_as_the_polynomial_says():
    rule = C.GradualMagnitude(0.75, begin=10, end=20, every=5)
    rule.last = 20
    assert [s for s in range(30) if rule.due(s)] == [10, 15, 20]
    weights, mask = np.arange(1.0, 17), np.ones(16, bool)
    rule.rising.begin({"a": mask}, False)
    for step, removed in [(10, 0), (15, 10), (20, 12)]:  # 12 * (1 - 0.5**3) = 10.5
        mask = rule.masks(moment(weights * mask, mask, step=step))["a"]
        assert mask.tolist() == [False] * removed + [True] * (16 - removed)


def test_the_last_change_comes_at_the_end():
    rule = C.GradualMagnitude(0.75, begin=10, end=18, every=5)
    rule.last = 18
    assert [s for s in range(30) if rule.due(s)] == [10, 15, 18]
    rule = C.GraNet(0.75, begin=10, end=18, every=5)
    rule.last = 18
    assert [s for s in range(30) if rule.due(s)] == [15, 18]


def test_granet_prunes_all_kernels_together_and_then_moves():
    rule = C.GraNet(0.5, 0.5, end=20)
    rule.last = 20
    masks = {"a": np.ones(4, bool), "b": np.ones(4, bool)}
    rule.rising.begin(masks, False)
    weights = {"a": np.array([8.0, 7, 6, 5]), "b": np.array([4.0, 3, 2, 1])}
    gradients = {"a": np.zeros(4), "b": np.array([0.0, 0, 0, 9])}
    # After half of the way 8 * 0.5 * (1 - 1/8) = 3.5 are removed, all of "b". Then one
    # of four moves in "a" (the dropped one comes back, as all gradients are 0), and
    # none in "b".
    found = rule.masks(C.Moment(10, weights, masks, gradients))
    assert found["a"].tolist() == [1, 1, 1, 1]
    assert found["b"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("step", "of_b"), [(5, [1, 1, 0, 0, 1, 0]), (20, [0, 0, 0, 0, 0, 0])]
)
def test_granet_moves_less_and_less_and_ends_with_the_largest(step, of_b):
    rule = rule_of(C.GraNet, 0.5, 0.5)
    masks = {name: np.ones(6, bool) for name in "ab"}
    rule.rising.begin(masks, False)
    weights = {"a": np.arange(12.0, 6, -1), "b": np.arange(6.0, 0, -1)}
    gradients = {"a": np.zeros(6), "b": np.array([0.0, 0, 1, 2, 9, 0])}
    # Of 12, 6 * (1 - 0.75**3) = 3.5 are removed, and 0.25 * (1 + cos(pi/4)) = 0.43 of
    # three moves in "b". At the end 6 are removed, and nothing moves.
    found = rule.masks(C.Moment(step, weights, masks, gradients))
    assert found["a"].all()
    assert found["b"].tolist() == of_b


@pytest.mark.parametrize(
    "make",
    [
        lambda: C.GradualMagnitude(0.5, end=20),
        lambda: C.GraNet(0.5, 0.5, end=20),
        lambda: C.ACDC(0.5, begin=0, every=9, end=20),
    ],
)
def test_of_equal_weights_the_first_stay_and_half_of_five_is_two(make):
    rule = rule_of(make)
    mask = np.ones(5, bool)
    rule.rising.begin({"a": mask}, False)
    found = rule.masks(moment([1, -1, 1, -1, 1], mask, [0, 0, 0, 0, 9], step=20))
    assert found["a"].tolist() == [1, 1, 1, 0, 0]


def test_acdc_takes_turns_and_ends_sparse():
    rule = C.ACDC(0.5, begin=4, every=3, end=11)
    rule.last = 11
    assert [s for s in range(20) if rule.due(s)] == [4, 7, 10, 11]
    mask = np.ones(4, bool)
    rule.rising.begin({"a": mask}, False)
    kept = []
    for step in (4, 7, 10, 11):
        seen = moment(np.array([1.0, 4, 3, 2]) * mask, mask, step=step)
        mask = rule.masks(seen)["a"]
        kept.append(mask.tolist())
    sparse, dense = [False, True, True, False], [True] * 4
    assert kept == [sparse, dense, sparse, sparse]
    # A dense phase at the end would be cut off.
    rule.last = 8
    assert rule.masks(moment([1.0, 4, 3, 2], [1] * 4, step=8))["a"].tolist() == sparse


# --- gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_gradients_are_those_of_the_effective_kernel(layout):
    model = dense_layer([2, 0, 0, 1], [1, 0, 0, 1], layout)
    scale = model.layers[0].scales["kernel"]
    scale.assign(np.full(scale.shape, 3.0))
    x = np.array([[1, 2, 3, 4], [0, 1, 0, 1]], "float32")
    y = np.array([[1], [2]], "float32")
    found = []

    class Seen(C.RigL):
        def masks(self, moment):
            found.append(moment)
            return moment.masks

    model.fit(x, y, epochs=2, verbose=0, callbacks=[Seen(every=1, end=2)])
    # Before the second step: w = w - 0.01 * 3 * dL/dW at W = (6, 0, 0, 3), kept only.
    [seen] = found
    error = x @ np.array([[6.0], [0], [0], [3]]) - y
    w = np.array([[2.0], [0], [0], [1]]) - 0.03 * (x.T @ error) * [[1], [0], [0], [1]]
    error = x @ (3 * w) - y
    [weights], [gradient] = seen.weights.values(), seen.gradients.values()
    np.testing.assert_allclose(weights, 3 * w, rtol=1e-5)
    np.testing.assert_allclose(gradient, x.T @ error, rtol=1e-5)
    assert np.all(gradient[1:3] != 0)


def test_a_pass_for_gradients_leaves_no_trace():
    """The statistics, metrics and random draws are those without it."""

    def results(rule):
        fresh()
        model = keras.Sequential(
            [
                *(keras.Input((5,)), L.Dense(8), L.BatchNormalization()),
                *(L.Dropout(0.5), L.Dense(3)),
            ]
        )
        pruned = kpi.prune(model, None, "random", sparsity=0.5)
        pruned.compile("sgd", LOSS, metrics=["accuracy"])
        history = keras.callbacks.History()
        fit(pruned, batch(model, 64), 3, [rule, history])
        return history.history, pruned.get_weights()

    class Still(C.RigL):
        def masks(self, moment):
            return moment.masks

    class Never(C.RigL):
        def due(self, step):
            return False

    (one, weights), (other, same) = results(Still(every=2)), results(Never())
    assert one == other
    for a, b in zip(weights, same, strict=True):
        np.testing.assert_array_equal(a, b)


# --- in training ----------------------------------------------------------------------


@EACH
def test_counts_are_exact_after_every_step(name, layout):
    pruned, seen, _ = trained(name, layout)
    counts = [sum(map(np.count_nonzero, step)) for step in seen]
    total = sum(mask.size for mask in seen[0])
    assert total == 5 * 8 + 8 * 6 + 6 * 3  # 106
    goal = 106 - 84  # floor(0.8 * 106) are removed
    if name in ("SET", "RigL"):
        assert counts == [goal] * 12
        each = [[np.count_nonzero(mask) for mask in step] for step in seen]
        assert each == [each[0]] * 12
    elif name == "ACDC":  # changes before steps 2, 4, 6 and 8, counted from 0
        assert counts == [106] * 2 + [goal] * 2 + [106] * 2 + [goal] * 6
    else:
        removed = {"GraNet": 53, "GradualMagnitude": 0}[name]
        expected = []
        for step in range(12):
            if step % 2 == 0 and step <= 8 and (step or name == "GradualMagnitude"):
                now = 0.8 - (0.8 - (106 - counts[0]) / 106) * (1 - step / 8) ** 3
                removed = int(now * 106 + 1e-9)
            expected.append(106 - removed)
        assert counts == expected
    moves = [not np.array_equal(a, b) for a, b in zip(seen[1], seen[-1], strict=True)]
    assert any(moves)
    assert kpi.report(pruned).sparsity == pytest.approx(84 / 106)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "slow": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
}


@EACH
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_removed_weights_and_their_slots_are_0(name, layout, optimizer):
    found = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            for movable in C.moves.find_movable(self.model):
                kernel = movable.kernel
                gone = ~kernel.mask
                assert not np.any(kernel.effective()[gone])
                if movable.kept is None:
                    slots = [slot.variable for slot in movable.slots]
                    for variable in (kernel.variable, *slots):
                        assert not np.any(np.asarray(variable)[gone])
                found.append(len(movable.slots))

    make_rule, sparsity, _ = RULES[name]
    model = mlp()
    pruned = kpi.prune(model, None, "random", sparsity=sparsity)
    pruned = kpi.to_layout(pruned, layout)
    pruned.compile(OPTIMIZERS[optimizer](), LOSS)
    fit(pruned, batch(model, 64), 3, [make_rule(every=2, end=8), Watch()])
    assert set(found) == {{"sgd": 1, "adamw": 3, "amsgrad": 3, "slow": 3}[optimizer]}


@pytest.mark.parametrize("layout", ["masked", "compact"])
@pytest.mark.parametrize(("kind", "initial"), [("Adam", 0.0), ("Ftrl", 0.25)])
def test_what_stays_keeps_its_weight_and_slots_and_what_comes_begins_anew(
    layout, kind, initial
):
    options = {"initial_accumulator_value": initial} if initial else {}
    optimizer = getattr(keras.optimizers, kind)(0.01, **options)
    model = dense_layer([1, 2, 3, 0, 0], [1, 1, 1, 0, 0], layout, optimizer=optimizer)
    optimizer.build(model.trainable_variables)
    [movable] = C.moves.find_movable(model)
    slots = [slot.variable for slot in movable.slots]
    for slot, value in zip(slots, (4.0, 7.0), strict=True):
        whole = np.array([value, value + 1, value + 2, 0, 0], "float32")[:, None]
        slot.assign(movable.kept.gather(whole) if movable.kept else whole)
    movable.move(np.array([0, 1, 1, 0, 1], bool)[:, None])
    assert movable.kernel.value[:, 0].tolist() == [0, 2, 3, 0, 0]
    assert movable.kernel.mask[:, 0].tolist() == [0, 1, 1, 0, 1]
    for slot, value, new in zip(slots, (4.0, 7.0), (initial, 0.0), strict=True):
        gone = 0 if movable.kept else new
        whole = movable.kept.dense(slot.value) if movable.kept else slot
        found = np.asarray(whole)[:, 0].tolist()
        assert found == [gone, value + 1, value + 2, gone, new]


@pytest.mark.parametrize("name", ["SET", "RigL"])
def test_both_layouts_give_the_same_network(name):
    masked, compact = trained(name)[0], trained(name, "compact")[0]
    for a, b in zip(masks(masked), masks(compact), strict=True):
        np.testing.assert_array_equal(a, b)
    x = batch(masked, 64)[0]
    np.testing.assert_allclose(masked(x), compact(x), atol=1e-5)


@EACH
def test_a_training_that_goes_on_gives_equal_weights(name, layout, tmp_path):
    """Stopped before, at and after changes: they come before steps 2, 4, 6 and 8."""
    file = str(tmp_path / "{epoch}.keras")
    save = keras.callbacks.ModelCheckpoint(file)
    pruned, _, data = trained(name, layout, more=[save])
    for stop in (1, 2):  # epochs of four steps
        loaded = keras.models.load_model(file.format(epoch=stop))
        more = {} if name in ("SET", "RigL", "ACDC") else {"initial": RULES[name][1]}
        if name == "GraNet":
            more = {"initial": 53 / 106}
        rule = RULES[name][0](every=2, end=8, **more)
        fit(loaded, data, 3, [rule], first=stop)
        for a, b in zip(pruned.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@EACH
def test_replicas_have_the_masks_of_one_device(name, layout):
    _, seen, data = trained(name, layout, make=convolutions)
    for count in (2, 4):
        fresh()
        with mirrored(count).scope():
            same, others, _ = trained(name, layout, make=convolutions)
        for step, other in zip(seen, others, strict=True):
            for a, b in zip(step, other, strict=True):
                np.testing.assert_array_equal(a, b)
        assert_replicas_equal(same.weights)


@pytest.mark.parametrize("kind", [C.SET, C.RigL])
def test_a_change_comes_before_the_execution_that_holds_its_step(kind):
    found = []

    class Noted(kind):
        def masks(self, moment):
            found.append((moment.step, int(self.model.optimizer.iterations)))
            return super().masks(moment)

    pruned = kpi.prune(mlp(), None, "random", sparsity=0.5)
    pruned.compile("sgd", LOSS, steps_per_execution=3)
    rule = Noted(every=2, end=9)
    fit(pruned, batch(pruned, 64), 3, [rule])
    # Epochs of four steps are executed as three and one: 0-2, 3, 4-6, 7, 8-10, 11.
    assert found == [(2, 0), (6, 4), (8, 8)]
    assert [change.step for change in rule.history] == [2, 6, 8]


def test_steps_are_batches_if_gradients_are_accumulated():
    pruned = kpi.prune(mlp(), None, "random", sparsity=0.5)
    pruned.compile(OPTIMIZERS["slow"](), LOSS)
    rule = C.SET(every=2, end=11)
    fit(pruned, batch(pruned, 64), 3, [rule])  # of four batches; three make a step
    assert [change.step for change in rule.history] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"run_eagerly": True}], ids=str
)
def test_compiled_and_eager_steps_give_the_same_masks(name, options):
    seen, others = trained(name)[1], trained(name, **options)[1]
    for step, other in zip(seen, others, strict=True):
        for a, b in zip(step, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_only_the_first_change_traces_graphs(layout):
    traced, seen = [], []

    class Counted(keras.Sequential):
        def compute_loss(self, *args, **kwargs):
            traced.append(self)
            return super().compute_loss(*args, **kwargs)

    model = Counted([keras.Input((5,)), L.Dense(8), L.Dense(3)])
    pruned = kpi.prune(model, None, "random", sparsity=0.5, layout=layout)
    pruned.compile("sgd", LOSS)
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, logs: seen.append(len(traced))
    )
    fit(pruned, batch(model, 64), 3, [C.RigL(every=2, end=9), watch])
    assert seen[2:] == [seen[2]] * 10  # changes before steps 2, 4, 6 and 8
    assert seen[2] > seen[1]


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        pruned, seen, _ = trained("RigL", optimizer="adam")
    finally:
        keras.config.set_dtype_policy("float32")
    assert not np.array_equal(seen[1][0], seen[-1][0])
    assert all(v.dtype == "float32" for v in pruned.trainable_variables)


def test_gradients_that_are_not_finite_change_nothing(caplog):
    model = dense_layer([1, 2, 0, 0], [1, 1, 0, 0])
    rule = C.RigL(0.9, every=1, end=100)
    rule.set_model(model)
    rule.prepare(100)
    x = np.full((2, 4), np.nan, "float32")
    with caplog.at_level("WARNING"):
        rule.change(1, (x, np.ones((2, 1), "float32")))
    assert "not finite" in caplog.text
    assert masks(model)[0][:, 0].tolist() == [1, 1, 0, 0]


def test_a_loop_of_ones_own():
    model = dense_layer([1, 2, 3, 4, 0, 0], [1, 1, 1, 1, 0, 0])
    x, y = np.ones((2, 6), "float32"), np.zeros((2, 1), "float32")
    rule = C.RigL(1.0, every=1)
    rule.set_model(model)
    rule.prepare(steps=8)
    assert [step for step in range(9) if rule.due(step)] == [1, 2, 3, 4, 5]
    rule.change(3, (x, y))  # half of four move, to where the gradients are equal
    assert masks(model)[0][:, 0].tolist() == [1, 1, 1, 1, 0, 0]
    rule.change(3, (x * [1, 1, 1, 1, 2, 1], y))
    assert masks(model)[0][:, 0].tolist() == [1, 0, 1, 1, 1, 0]
    assert rule.history == [(3, 4, 0), (3, 4, 1)]


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: C.RigL(fraction=0), "`fraction` is the part"),
        (lambda: C.RigL(fraction=1.5), "`fraction` is the part"),
        (lambda: C.SET(every=0), "`every` must be a whole number"),
        (lambda: C.SET(begin=5, end=5), "`end` must be a whole number, 6 or more"),
        (lambda: C.GradualMagnitude(1.0), "`sparsity` is the fraction"),
        (lambda: C.GradualMagnitude(0.9, power=0), "`power` must be"),
        (lambda: C.GraNet(0.5, initial=0.6), "can only rise"),
        (lambda: C.ACDC(0.5, begin=-1, every=1), "`begin` must be"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def models():
    plain = mlp()
    pruned = kpi.prune(plain, None, "random", sparsity=0.8)
    compact = kpi.to_layout(pruned, "compact")
    frozen = kpi.prune(plain, None, "random", sparsity=0.8)
    for layer in frozen.layers:
        layer.trainable = False
    gated = kpi.add_gates(pruned, penalty=1.0, data_size=64)
    made = {"plain": plain, "pruned": pruned, "compact": compact, "frozen": frozen}
    return made | {"gated": gated}


@pytest.mark.parametrize(
    ("kind", "rule", "message"),
    [
        ("plain", C.RigL(), "no MaskedLayer"),
        ("plain", C.GradualMagnitude(0.9), "method='magnitude', sparsity=0.0"),
        ("compact", C.GradualMagnitude(0.9), "fixed number of weights"),
        ("compact", C.GraNet(0.9), "fixed number of weights"),
        ("frozen", C.SET(), "pruned layers are frozen"),
        ("pruned", C.GraNet(0.5), "can only rise"),
        ("pruned", C.ACDC(0.9, begin=1, every=1), "warms up with all weights"),
        ("gated", C.RigL(), "without gates"),
        (
            "pruned",
            C.GradualMagnitude(0.9, allocation={"no": 0.5}),
            "finds none of them",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused_before_any_step(kind, rule, message):
    model = models()[kind]
    model.compile("adam", LOSS)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model, batch(model, 64), 1, [rule])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_that_trains_another_loss_is_refused():
    class Own(keras.Sequential):
        def train_step(self, data):
            return {"loss": 0.0}

    model = Own([keras.Input((5,)), L.Dense(8), L.Dense(3)])
    pruned = kpi.prune(model, None, "random", sparsity=0.5)
    pruned.compile("adam", LOSS)
    with pytest.raises(ValueError, match="`train_step` that does not call it"):
        fit(pruned, batch(model, 16), 1, [C.RigL(every=1)])


def test_a_models_own_loss_is_differentiated():
    found = []

    class Own(keras.Sequential):
        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            return 3 * keras.ops.mean(keras.ops.square(y_pred))

    class Seen(C.RigL):
        def masks(self, moment):
            found.append(moment)
            return moment.masks

    model = Own([keras.Input((2,)), L.Dense(1, use_bias=False)])
    pruned = kpi.prune(model, method="magnitude", sparsity=0.5)
    pruned.compile(keras.optimizers.SGD(0.0))
    x = np.array([[1, 2], [3, 4]], "float32")
    rule = Seen(every=1, end=9)
    pruned.fit(x, np.zeros(2), epochs=2, verbose=0, callbacks=[rule])
    [seen] = found
    [w], [gradient] = seen.weights.values(), seen.gradients.values()
    np.testing.assert_allclose(gradient, 3 * x.T @ (x @ w), rtol=1e-5)


def test_data_of_unknown_length_needs_an_end():
    def batches():
        while True:
            yield batch(mlp(), 8)

    model = models()["pruned"]
    model.compile("adam", LOSS)
    with pytest.raises(ValueError, match="end=None, and data of unknown length"):
        model.fit(batches(), steps_per_epoch=None, callbacks=[C.RigL()])
    model.fit(batches(), steps_per_epoch=4, verbose=0, callbacks=[C.RigL(every=1)])


def test_a_sparsity_that_rises_already_needs_its_beginning():
    model = models()["pruned"]
    model.compile("adam", LOSS)
    data = batch(model, 64)
    fit(model, data, 1, [])
    with pytest.raises(ValueError, match="does not tell where it began"):
        fit(model, data, 3, [C.GradualMagnitude(0.9)], first=1)
