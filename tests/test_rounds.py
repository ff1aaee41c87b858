"""`iterative_pruning`: what each round starts from, keeps, counts and saves."""

import json
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, masked_list, masks, mlp
from processes import Forked
from runs import mirrored

import keras_prune_init as kpi
from keras_prune_init.rounds import folder as folders
from keras_prune_init.rounds.rewinding import steps_taken
from keras_prune_init.surgery.exchange import weights_of

STEPS = 3  # of an epoch
X = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 24)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(optimizer=None):
    layers = [L.Dense(8, name="first"), L.BatchNormalization(), L.ReLU()]
    model = keras.Sequential([keras.Input((5,)), *layers, L.Dense(3, name="logits")])
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    return model


def fit(model, epochs=1, **options):
    return model.fit(
        X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, **options
    )


def values(variables):
    return [np.array(v) for v in variables]


class Seen:
    """A training that notes what every round starts and ends with."""

    def __init__(self, epochs=1):
        self.epochs = epochs
        self.starts, self.ends, self.steps, self.slots = [], [], [], []

    def __call__(self, model):
        self.starts.append(values(weights_of(model)))
        self.steps.append(steps_taken(model))
        self.slots.append(values(model.optimizer.variables))
        found = fit(model, self.epochs)
        self.ends.append(values(weights_of(model)))
        return found


def prune(model, train, **options):
    options = {"sparsity": 0.75, "rounds": 2} | options
    return kpi.iterative_pruning(model, None, "magnitude", train=train, **options)


def kernel_masks(model):
    """A mask for each of `weights_of`: those of kernels, and ones for the others."""
    found = {id(v.layer.kernel): v.kept_mask("kernel") for v in masked_list(model)}
    return [found.get(id(v), np.ones(v.shape, bool)) for v in weights_of(model)]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def times(arrays, other):
    return [a * b for a, b in zip(arrays, other, strict=True)]


@pytest.fixture(autouse=True)
def _eagerly(eagerly):
    """All of these are a few steps of a tiny net."""


def test_a_ticket_starts_from_the_initial_weights_and_statistics():
    model, seen = net(), Seen()
    initial = values(model.weights)
    ticket, history = prune(model, seen, rewind=0)
    assert_equal(seen.starts[0], initial)
    assert_equal(seen.starts[2], times(initial, kernel_masks(ticket)))
    assert seen.steps == [0, 0, 0]
    assert not any(np.any(v) for v in seen.slots[2][2:])  # momenta
    assert_equal(values(model.weights), initial)  # the user's model is as it was
    assert [row.steps for row in history.rows] == [STEPS] * 3
    assert [row.total_steps for row in history.rows] == [3, 6, 9]


def test_a_ticket_keeps_the_largest_weights_of_the_training_before():
    seen = Seen()
    ticket, _ = prune(net(), seen, rewind=0, rounds=1)
    ends = [abs(seen.ends[0][i]).ravel() for i in (0, 6)]
    largest = np.sort(np.concatenate(ends))[-16:]  # of 64 weights
    kept = np.concatenate([m.ravel() for m in masks(ticket)])
    np.testing.assert_array_equal(kept, np.concatenate(ends) >= largest[0])


@pytest.mark.parametrize("step", [2, STEPS, 4])
def test_rewinding_goes_back_to_a_step_with_its_optimizer(step):
    taken = {}

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            taken[steps_taken(self.model)] = (
                values(weights_of(self.model)),
                values(self.model.optimizer.variables),
            )

    def train(model):
        starts.append((values(weights_of(model)), values(model.optimizer.variables)))
        fit(model, 2, callbacks=[] if len(starts) > 1 else [Note()])

    starts = []
    ticket, history = prune(net(), train, rewind=step)
    weights, slots = taken[step]
    kept = kernel_masks(ticket)
    assert_equal(starts[2][0], times(weights, kept))
    assert int(starts[2][1][0]) == step
    trainable = {id(v) for v in ticket.trainable_variables}
    of_slots = [
        m for m, v in zip(kept, weights_of(ticket), strict=True) if id(v) in trainable
    ]
    assert_equal(starts[2][1][2:], times(slots[2:], of_slots))
    assert [row.steps for row in history.rows] == [6, 6 - step, 6 - step]
    assert steps_taken(ticket) == 6
    for layer in masked_list(ticket):  # momentum moved no removed weight
        assert not np.any(np.array(layer.layer.kernel)[~layer.kept_mask("kernel")])


def test_rewinding_reaches_a_training_of_many_fits():
    def train(model):
        for _ in range(3):
            found = fit(model)
        return found

    _, history = prune(net(), train, rewind=4)
    assert [row.steps for row in history.rows] == [9, 5, 5]


def test_a_dict_begins_later_rounds_in_the_epoch_of_the_step():
    epochs = []
    noted = keras.callbacks.LambdaCallback(on_epoch_begin=lambda n, _: epochs.append(n))
    train = {"x": X, "y": Y, "batch_size": 8, "epochs": 3, "verbose": 0}
    train["callbacks"] = [noted]
    _, history = prune(net(), train, rewind=STEPS, rounds=1)
    assert epochs == [0, 1, 2, 1, 2]
    assert [row.steps for row in history.rows] == [9, 6]


def test_going_on_keeps_weights_and_step_count():
    model, seen = net(), Seen()
    fit(model)
    before = values(model.weights)
    pruned, history = prune(model, seen)
    assert seen.steps == [STEPS, 2 * STEPS]
    first = seen.starts[0]
    assert all(np.all((a == b) | (a == 0)) for a, b in zip(first, before, strict=True))
    assert_equal(seen.starts[1], times(seen.ends[0], kernel_masks(pruned)))
    assert [row.steps for row in history.rows] == [0, STEPS, STEPS]


@pytest.mark.parametrize("rewind", [None, 0, 2])
def test_the_given_model_stays_as_it_was(rewind):
    model = keras.Sequential(
        [keras.Input((5,)), L.Dense(4), L.Dropout(0.5), L.Dense(3)]
    )
    model.compile("sgd", LOSS)
    fit(model)  # which moves the state of the dropout
    before = values([*model.variables, *model.optimizer.variables])
    prune(model, fit, rewind=rewind)
    assert_equal(values([*model.variables, *model.optimizer.variables]), before)


def test_a_schedule_goes_on_or_begins_anew():
    for rewind, rates in ((None, [0.2, 0.05]), ("learning_rate", [0.8, 0.8])):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.8, 3, 0.25)
        model, found = net(keras.optimizers.SGD(schedule)), []
        fit(model)

        def train(model, found=found):
            found.append(float(model.optimizer.learning_rate))
            fit(model)

        prune(model, train, rewind=rewind)
        np.testing.assert_allclose(found, rates, rtol=1e-6)


def test_a_rate_that_a_training_lowered_is_what_it_was_before_each_round():
    found = []

    def train(model):
        found.append(float(model.optimizer.learning_rate))
        fit(model)
        model.optimizer.learning_rate = 0.001

    prune(net(), train, rewind="learning_rate")
    prune(net(), train, rewind=0)
    np.testing.assert_allclose(found, [0.1] * 5)


def test_each_round_keeps_the_same_fraction_of_what_is_left():
    _, history = prune(mlp(), lambda model: None, sparsity=1 - 0.8**3, rounds=3)
    total = 5 * 8 + 8 * 6 + 6 * 3
    kept = [total - int(total * (1 - 0.8**n)) for n in range(4)]
    assert [row.kept for row in history.rows] == kept
    assert {row.total for row in history.rows} == {total}
    _, history = prune(
        mlp(), lambda model: None, sparsity=0.6, rounds=3, schedule="linear"
    )
    removed = [int(total * 0.2 * n + 1e-9) for n in range(4)]
    assert [row.kept for row in history.rows] == [total - n for n in removed]


def test_sparsities_of_a_dict_grow_by_the_schedule():
    found = []
    allocation = {"logits": 1 - 0.9**2, "*": 1 - 0.8**2}
    prune(
        net(),
        lambda model: found.append([int(m.sum()) for m in masks(model)]),
        allocation=allocation,
    )
    # 20 % of the rest of 40, and 10 % of that of 24, rounded to keep more
    assert found == [[32, 22], [40 - int(40 * 0.36), 24 - int(24 * 0.19)]]


def test_what_a_training_returned_is_measured_unless_evaluate_is_given():
    def train(model):
        return fit(model, validation_data=(X, Y))

    _, history = prune(net(), train, rounds=1)
    assert set(history.rows[1].metrics) == {"loss", "accuracy"}
    pruned, history = prune(net(), fit, rounds=1, evaluate=(X, Y))
    _, accuracy = pruned.evaluate(X, Y, verbose=0)
    assert history.rows[1].metrics["accuracy"] == pytest.approx(accuracy)
    assert set(history.rows[0].metrics) == {"loss", "accuracy"}
    _, history = prune(net(), lambda _: {"f1": [0.1, 0.5]}, rounds=1)
    assert history.rows[1].metrics == {"f1": 0.5}
    _, history = prune(net(), fit, rounds=1, evaluate=lambda model: 3)
    assert [row.metrics for row in history.rows] == [{"value": 3.0}] * 2


def test_a_function_may_compile_and_return_another_model():
    def train(model):
        model.compile(keras.optimizers.SGD(0.1), LOSS)
        fit(model, 2)

    pruned, history = prune(mlp(), train, rewind=0)
    assert [row.steps for row in history.rows] == [6, 6, 6]
    _, history = prune(mlp(), train)
    assert [row.steps for row in history.rows] == [0, 6, 6]

    def double(model):
        twin = keras.models.clone_model(model)
        twin.set_weights(
            [2 * v if v.dtype.kind == "f" else v for v in model.get_weights()]
        )
        for mask in (m for v in masked_list(twin) for m in v.fixed):
            mask.assign(mask / 2)
        return twin

    model = mlp()
    pruned, _ = prune(model, double, rounds=1)
    whole = [v.kernel for v in model.layers]
    for kernel, layer in zip(whole, masked_list(pruned), strict=True):
        kept = 2 * np.array(kernel) * layer.kept_mask("kernel")
        np.testing.assert_array_equal(kept, np.array(layer.kernel))


def test_whole_channels_go_round_by_round():
    model = mlp((16, 16))
    model.compile("sgd", LOSS)
    total = 5 * 16 + 16 * 16 + 16 * 3
    small, history = prune(model, fit, what="channels", rewind="learning_rate")
    assert not masked_list(small)
    for row, goal in zip(history.rows, (1, 0.5, 0.25), strict=True):
        assert goal * total - 40 < row.kept <= goal * total
    assert history.rows[2].kept == sum(
        int(np.prod(v.kernel.shape)) for v in small.layers
    )
    assert history.rows[2].steps == STEPS


def test_a_compact_layout_gives_the_same_tickets():
    model = net()
    tickets = [prune(model, fit, rewind=2, layout=n)[0] for n in ("masked", "compact")]
    assert isinstance(masked_list(tickets[1])[0], kpi.CompactLayer)
    outputs = [np.asarray(t(X)) for t in tickets]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_replicas_get_the_same_tickets(tmp_path):
    strategy = mirrored(2)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = mlp()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    folder = tmp_path / "rounds"
    ticket, history = prune(model, fit, rewind=2, folder=folder)
    assert ticket.distribute_strategy is strategy
    assert [row.steps for row in history.rows] == [3, 1, 1]
    (folder / "round-2.keras").unlink()
    again, _ = prune(model, fit, rewind=2, folder=folder)
    assert again.distribute_strategy is strategy
    assert_equal(again.get_weights(), ticket.get_weights())
    keras.utils.set_random_seed(0)
    alone = mlp()
    alone.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    one, _ = prune(alone, fit, rewind=2)
    for a, b in zip(one.get_weights(), ticket.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_round_that_was_killed_is_done_again_with_the_same_weights(tmp_path):
    def start(folder, *at):
        return Forked(
            tmp_path / f"{folder}.log", "rounds_process", tmp_path / folder, *at
        )

    (tmp_path / "run").mkdir()
    (tmp_path / "expected").mkdir()
    expected, killed = start("expected"), start("run", 3, 4)
    assert killed.wait() == -signal.SIGKILL, killed.printed()
    assert not (tmp_path / "run/round-3.keras").exists()
    again = start("run")
    assert (again.wait(), expected.wait()) == (0, 0), again.printed()
    assert "trained [3, 4]" in again.printed()
    assert "trained [0, 1, 2, 3, 4]" in expected.printed()
    models = [
        keras.models.load_model(tmp_path / name / "round-4.keras")
        for name in ("run", "expected")
    ]
    assert_equal(*(m.get_weights() for m in models))
    assert_equal(*(values(m.optimizer.variables) for m in models))
    assert int(models[0].optimizer.iterations) == 6
    kept = [
        json.loads((tmp_path / n / "history.json").read_text())
        for n in ("run", "expected")
    ]
    rows = [[r | {"seconds": 0} for r in found["rounds"]] for found in kept]
    assert rows[0] == rows[1] and len(rows[0]) == 5


def test_a_finished_folder_gives_its_model_without_training(tmp_path):
    model, folder = net(), tmp_path / "rounds"
    first, history = prune(model, fit, rewind=0, folder=folder)

    def never(model):
        raise AssertionError

    again, read = prune(model, fit, rewind=0, folder=folder)
    assert_equal(first.get_weights(), again.get_weights())
    assert read == history
    with pytest.raises(ValueError, match=r"other values of train \(then 'fit'"):
        prune(model, never, rewind=0, folder=folder)
    for name, value in (("rounds", 3), ("seed", 1), ("sparsity", 0.5)):
        with pytest.raises(ValueError, match=rf"other values of .*{name}.*Pass those"):
            prune(model, fit, rewind=0, folder=folder, **{name: value})


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("round-2.keras", "cut"),
        ("history.json", "cut"),
        ("history.json", "gone"),
        ("rewind.npz", "cut"),
        ("rewind.npz", "gone"),
        ("settings.json", "cut"),
    ],
)
def test_a_damaged_file_is_named(name, damage, tmp_path, finished):
    folder = tmp_path / "rounds"
    shutil.copytree(finished, folder)
    content = (folder / name).read_bytes()
    if damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name}, which is damaged"):
        prune(net(), fit, rewind=0, folder=folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "rounds"
    prune(net(), fit, rewind=0, folder=folder)
    return folder


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="which has other files"):
        prune(net(), fit, folder=tmp_path)
    with pytest.raises(ValueError, match="which is a file"):
        prune(net(), fit, folder=tmp_path / "notes.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def never(model):
    raise AssertionError("nothing may be trained")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparsity": 0}, "Every round must prune more"),
        ({"sparsity": 1.0}, "`sparsity` is the fraction"),
        ({"rounds": 0}, "`rounds` must be a whole number"),
        ({"rounds": 1.5}, "`rounds` must be a whole number"),
        ({"rewind": -1}, "`rewind` must be None"),
        ({"rewind": "weights"}, "`rewind` must be None"),
        ({"rewind": True}, "`rewind` must be None"),
        ({"schedule": "cubic"}, "`schedule` must be a name or"),
        ({"schedule": lambda p, s: 0.0}, "must give sparsities that rise"),
        ({"schedule": lambda p, s: 2 * s}, "must give sparsities that rise"),
        ({"train": 3}, "`train` must be a function"),
        ({"train": {"y": Y}}, "Received: no x"),
        ({"train": {"x": X, "epoch": 3}}, "Received: epoch"),
        ({"evaluate": [X, Y]}, "`evaluate` must be a function"),
        ({"allocation": "most"}, "`allocation` must be"),
        ({"allocation": {"conv": 0.5}}, "Each key of a dict"),
        ({"allocation": {"logits": 0.99}, "sparsity": 0.3}, "it can be from"),
        ({"rescale": True}, "are arguments of `prune`.*rescale"),
        ({"sparsities": 3}, "are arguments of `prune`.*sparsities"),
        ({"batches": 0, "method": "snip"}, "`batches` must be"),
        ({"method": "snip", "dataset": None}, "needs data"),
        ({"method": "most"}, "method"),
        ({"what": "channels", "rewind": 0}, "no place for earlier weights"),
        ({"what": "2:4", "sparsity": 0.5}, "2:4"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(given, message, tmp_path):
    options = {"sparsity": 0.5, "rounds": 2, "train": never, "rewind": 0} | given
    dataset = options.pop("dataset", (X, Y))
    method = options.pop("method", "magnitude")
    folder = tmp_path / "rounds"
    with pytest.raises(ValueError, match=message):
        kpi.iterative_pruning(net(), dataset, method, folder=folder, **options)
    assert not folder.exists()


def test_models_that_do_not_fit_are_refused_before_any_work():
    with pytest.raises(ValueError, match="`fit` needs a model that was compiled"):
        prune(mlp(), {"x": X, "y": Y})
    with pytest.raises(ValueError, match="`evaluate` on needs a model that was comp"):
        prune(mlp(), never, evaluate=(X, Y))
    with pytest.raises(ValueError, match="Steps are counted by the optimizer"):
        prune(mlp(), never, rewind=1)
    plain = mlp()
    plain.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="method=Robust, which also changes"):
        kpi.iterative_pruning(
            plain, (X, Y), "robust", sparsity=0.5, rounds=2, train=never
        )
    pruned = kpi.prune(net(), None, "magnitude", sparsity=0.2)
    with pytest.raises(ValueError, match="which is pruned"):
        prune(pruned, never, rewind=0)
    more, _ = prune(pruned, fit)
    assert kpi.report(more).sparsity == 0.75
    with pytest.raises(TypeError, match="must be a keras.Model"):
        prune(None, never)


def test_a_step_that_a_training_does_not_reach_is_an_error():
    with pytest.raises(ValueError, match="rewind=4, and a training of 3 steps"):
        prune(net(), fit, rewind=4)
    with pytest.raises(ValueError, match="must run `fit`.*training of 0 steps"):
        prune(net(), lambda model: None, rewind=1)

    with pytest.raises(ValueError, match="rewind=3, and a training of 3 steps"):
        prune(net(), fit, rewind=3)  # there is nothing after it
    for train in ({"x": X, "y": Y, "batch_size": 8}, {"x": X, "steps_per_epoch": 3}):
        with pytest.raises(ValueError, match="rewind=3, and a `train` of 3 steps"):
            prune(net(), train, rewind=3)

    def compiles(model):
        if starts:
            model.compile("sgd", LOSS)
        starts.append(model)
        fit(model)

    starts = []
    with pytest.raises(ValueError, match="Do not call `compile`"):
        prune(net(), compiles, rewind=1)


def test_a_training_that_diverges_is_named():
    def train(model):
        fit(model)
        if kpi.report(model).sparsity:
            model.layers[-1].bias.assign([np.nan, 0, 0])

    with pytest.raises(FloatingPointError, match="after the training of round 1"):
        prune(net(), train, rewind=0)


def test_a_returned_model_without_masks_is_refused():
    with pytest.raises(ValueError, match="must have the weights and masks"):
        prune(net(), kpi.strip)


def test_the_history_is_a_table_a_picture_and_json(tmp_path):
    _, history = prune(net(), fit, evaluate=(X, Y))
    lines = str(history).splitlines()
    assert lines[0].split()[:4] == ["round", "sparsity", "kept", "of"]
    assert lines[4].split()[:6] == ["2", "75.0000%", "16", "64", "3", "6"]
    assert kpi.RoundsHistory.from_json(history.to_json()) == history
    history.plot(tmp_path / "rounds.png")
    assert (tmp_path / "rounds.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="Received: metric='f1', of accuracy, loss"):
        history.plot(tmp_path / "rounds.png", "f1")


def test_bfloat16_values_are_saved_as_they_are(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = mlp()
    finally:
        keras.config.set_dtype_policy("float32")
    folder = tmp_path / "rounds"
    prune(model, lambda model: None, rewind=0, folder=folder)
    state = folders.Folder(
        folder,
        {"rewind": 0} | json.loads((folder / "settings.json").read_text()),
        tf.distribute.get_strategy(),
    ).state()
    for value, variable in zip(state.weights, model.weights, strict=True):
        np.testing.assert_array_equal(value, np.asarray(variable.value, "float32"))


class Unregistered(keras.layers.Layer):
    """Of which a file of Keras has only the name."""

    def call(self, inputs):
        return inputs


def test_what_rounds_could_not_go_on_with_is_refused(tmp_path):
    layers = [keras.layers.Dense(4), Unregistered(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    options = {"sparsity": 0.5, "rounds": 2, "train": lambda model: None}
    with pytest.raises(ValueError, match="unregistered Unregistered"):
        kpi.iterative_pruning(
            model, None, "magnitude", **options, folder=tmp_path / "rounds"
        )
    assert not (tmp_path / "rounds").exists()
    with pytest.raises(ValueError, match="a generator can be read once"):
        data = iter([(np.ones((2, 3)), np.zeros(2))])
        kpi.iterative_pruning(model, data, "lobs", **options)
    with pytest.raises(ValueError, match="nothing left for others"):
        kpi.iterative_pruning(model, None, "magnitude", **options, what="2:4")


def test_a_returned_model_without_the_masks_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="must have the weights and masks"):
        kpi.iterative_pruning(
            model,
            None,
            "magnitude",
            sparsity=0.5,
            rounds=2,
            train=keras.models.clone_model,
        )


def test_other_arrays_for_the_method_are_another_run(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    x = np.random.default_rng(0).normal(size=(8, 3))
    options = {"sparsity": 0.5, "rounds": 1, "train": lambda model: None}
    kpi.iterative_pruning(model, x, "lobs", **options, folder=tmp_path)
    with pytest.raises(ValueError, match="other values of dataset"):
        kpi.iterative_pruning(model, x + 1, "lobs", **options, folder=tmp_path)
