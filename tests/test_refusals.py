"""Bad input is refused before any work, with the rule, what came and the fix."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp

import keras_prune_init as kpi

BAD_ARGUMENTS = [
    ({"sparsity": 1.0}, "0 <= sparsity < 1. Received: sparsity=1.0"),
    ({"sparsity": -0.1}, "Received: sparsity=-0.1"),
    ({"sparsity": "90%"}, "Received: sparsity='90%'. For 90 %, pass 0.9"),
    ({"method": "snap"}, "Received: method='snap'. Did you mean 'snip'"),
    ({"method": "Synflow"}, "Did you mean 'synflow'"),
    ({"allocation": "layerwise"}, "Received: allocation='layerwise'"),
    ({"batches": 0}, "Received: batches=0"),
    ({"batches": 5}, "batches=5, and a dataset of 1. Lower `batches`"),
    ({"allocation": kpi.Allocation("global", 30)}, "Lower one of the two"),
    ({"filters": "no such layer"}, "at least one layer that can be pruned"),
    ({"dataset": None}, "needs data. Received: method=SNIP, dataset=None"),
    (
        {"dataset": tf.data.Dataset.range(0).map(lambda i: (i, i))},
        "Received: an empty dataset",
    ),
    (
        {
            "dataset": tf.data.Dataset.from_tensor_slices(
                (np.ones((4, 5)), [0, 1, 2, 0])
            )
        },
        "must be batched: .* `dataset.batch",
    ),
    (
        {"dataset": (np.ones((4, 5)), np.array([0, 1, 2, 3]))},
        "from 0 to 2, .* labels from 0 to 3",
    ),
    ({"dataset": (np.ones((4, 5)), np.ones((4, 7)))}, "labels of shape \\(4, 7\\)"),
    (
        {"dataset": (np.ones((4, 6)), np.zeros(4, int))},
        "x of shape \\(4, 6\\) for an input",
    ),
    ({"dataset": (np.ones((4, 5)), np.zeros(3, int))}, "same number of samples"),
    (
        {"dataset": tf.data.Dataset.from_tensors(np.ones((4, 5)))},
        "must give \\(x, y\\)",
    ),
    ({"samples_per_class": 9}, "samples_per_class=9; class 0 has only"),
]


@pytest.mark.parametrize("change, message", BAD_ARGUMENTS)
@pytest.mark.parametrize("function", [kpi.prune_at_init, kpi.score])
def test_bad_arguments_are_refused(function, change, message):
    model = mlp()
    arguments = {"dataset": batch(model), "method": "snip", **change}
    with pytest.raises(ValueError, match=message):
        function(model, **arguments)


def unbuilt():
    return keras.Sequential([L.Dense(3)])


def without_kernels():
    return keras.Sequential([keras.Input((4,)), L.BatchNormalization(), L.ReLU()])


@pytest.mark.parametrize(
    "make, message",
    [
        (
            unbuilt,
            "must be built, so that it has weights. Received: .*Give it an `Input`",
        ),
        (without_kernels, "at least one layer that can be pruned. .*only vectors"),
    ],
)
def test_models_that_cannot_be_pruned_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        kpi.prune_at_init(make(), None, "random")


def test_other_types_are_refused():
    with pytest.raises(
        TypeError, match="must be a keras.Model .* Received: builtins.list"
    ):
        kpi.prune_at_init([], None, "random")
    with pytest.raises(TypeError, match="`dataset` must be .* Received: list"):
        kpi.prune_at_init(mlp(), [1, 2])


def test_scores_that_are_no_numbers_name_the_layer():
    model = mlp()
    model.layers[1].kernel.assign(np.full(model.layers[1].kernel.shape, np.nan))
    with pytest.raises(
        ValueError, match=f"NaN or infinite .*/{model.layers[1].name}/kernel"
    ):
        kpi.prune_at_init(model, None, "magnitude")


@pytest.mark.parametrize(
    "function",
    [
        *(kpi.report, kpi.strip, kpi.shrink, kpi.cost, kpi.stabilize, kpi.rescale),
        *(kpi.enable_workers, lambda model: kpi.export_tflite(model, "a.tflite")),
    ],
)
def test_what_is_no_model_is_refused(function):
    with pytest.raises(TypeError, match="must be a keras.Model.*NoneType. Pass a mod"):
        function(None)


@pytest.mark.parametrize("function", [kpi.shrink, kpi.cost, kpi.report])
def test_models_without_weights_are_refused(function):
    with pytest.raises(ValueError, match="must be built.*which is not built. Give it"):
        function(keras.Sequential([keras.layers.Dense(3)]))


@pytest.mark.parametrize(
    "schedule",
    [
        lambda progress, sparsity: float("nan"),
        lambda progress, sparsity: 5,
        lambda progress, sparsity: sparsity * (1 - progress),
        lambda progress, sparsity: "half",
    ],
)
def test_schedules_that_do_not_rise_to_the_sparsity_are_refused(schedule):
    method = kpi.methods.SynFlow(iterations=3, schedule=schedule)
    with pytest.raises(ValueError, match="that rise from 0.* for progress 0.[36].*Use"):
        kpi.prune_at_init(mlp(), None, method, verbose=0)


@pytest.mark.parametrize("seed", [-1, None, 0.5, True])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(ValueError, match="`seed` must be a whole number, 0 or more"):
        kpi.prune_at_init(mlp(), None, "random", seed=seed, verbose=0)


def test_a_list_is_no_name():
    with pytest.raises(ValueError, match=r"must be a Method.*Received: .*\['snip'\]"):
        kpi.get_method(["snip"])
    with pytest.raises(ValueError, match=r"must be one of.*Received: .*\['erk'\]"):
        kpi.select({"a": np.ones(3)}, 0.5, ["erk"])


def classified(count=300):
    x = np.random.default_rng(0).normal(size=(count, 5)).astype("float32")
    return x, np.arange(count) % 3


@pytest.mark.parametrize(
    ("label", "method"), [(7, "snip"), (-1, "grasp"), (2**32 + 1, "snip")]
)
@pytest.mark.parametrize(("place", "number"), [(200, 2), (290, 3)])  # 3: a smaller one
def test_labels_out_of_range_in_a_later_batch_are_refused(label, method, place, number):
    x, y = classified()
    y[place] = label
    with pytest.raises(ValueError, match=rf" 0 to 2.* {label}.*is batch {number} of"):
        kpi.prune_at_init(mlp(), (x, y), method, batches=None)


def test_a_loss_that_knows_other_labels_decides():
    def ignoring(y, outputs):
        known = tf.cast(y[:, 0] >= 0, outputs.dtype)
        return known * outputs[:, 0]

    x, y = classified()
    y[200] = -1
    kpi.prune_at_init(mlp(), (x, y[:, None]), loss=ignoring, batches=None)


def test_inputs_of_another_shape_in_a_later_batch_are_refused():
    x, y = classified(64)
    batches = iter([(x[:32], y[:32]), (x[32:, :4], y[32:])])
    with pytest.raises(ValueError, match=r"shape \(32, 4\).*This is batch 2"):
        kpi.prune_at_init(mlp(), batches, batches=2)


def two_outputs():
    x = keras.Input((5,))
    h = L.Dense(4)(x)
    return keras.Model(x, {"a": L.Dense(3, name="a")(h), "b": L.Dense(1, name="b")(h)})


@pytest.mark.parametrize(
    ("model", "labels", "loss", "message"),
    [
        (mlp, {}, {"foo": "mse"}, "dict of loss .* Received: loss for foo. Use"),
        (two_outputs, {}, {"a": "mse", "c": "mse"}, "keys: a, b. .*loss for c"),
        (
            two_outputs,
            {"a": 0, "c": 0},
            {"a": "mse", "b": "mse"},
            "dict of labels has .* keys: a, b. Received: labels for c",
        ),
    ],
)
def test_dicts_with_other_keys_than_outputs_are_refused(model, labels, loss, message):
    x, y = classified(16)
    y = dict.fromkeys(labels, y[:, None].astype("float32")) or y
    with pytest.raises(ValueError, match=message):
        kpi.prune_at_init(model(), (x, y), loss=loss)


def test_a_loss_of_an_output_that_is_one_number_must_be_given():
    x = keras.Input((5,))
    model = keras.Model(x, keras.ops.mean(L.Dense(3)(x)))
    with pytest.raises(ValueError, match="an output that is a single number. Pass"):
        kpi.prune_at_init(model, classified(16))
    kpi.prune_at_init(model, classified(16), loss="mse")  # as `fit` trains it


@pytest.fixture(scope="module")
def pruned():
    return kpi.prune_at_init(mlp(), None, "magnitude")


@pytest.mark.parametrize("context", ["function", "graph", "replica"])
@pytest.mark.parametrize(
    "function",
    [
        lambda m: kpi.prune_at_init(m, None, "magnitude"),
        lambda m: kpi.score(m, None, "magnitude"),
        lambda m: kpi.to_layout(m, "compact"),
        lambda m: kpi.signal_report(m, classified(16)),
        lambda m: kpi.initializers.reinitialize(m, "eoc"),
        lambda m: kpi.export_tflite(m, "never.tflite"),
        *(kpi.report, kpi.strip, kpi.shrink, kpi.cost, kpi.rescale, kpi.mobile_check),
        *(kpi.stabilize, kpi.singular_values, kpi.enable_workers),
        kpi.approximate_isometry,
    ],
)
def test_calls_within_graphs_and_replicas_are_refused(pruned, function, context):
    @tf.autograph.experimental.do_not_convert
    def call():
        function(pruned)

    with pytest.raises(ValueError, match="inside tf.function.* Call it eagerly"):
        if context == "function":
            tf.function(call)()
        elif context == "graph":
            with tf.Graph().as_default():
                call()
        else:
            tf.distribute.MirroredStrategy(["CPU:0"]).run(call)


@pytest.mark.parametrize(
    "name, options, message",
    [
        (
            "snip",
            {"iterations": 0},
            "1 to 100000. Received: iterations=0",
        ),
        ("snip", {"schedule": "cubic"}, "Received: schedule='cubic'"),
        ("snip", {"batch_norm": "off"}, "'train', 'eval'. Received: batch_norm='off'"),
        ("magnitude", {"batch_norm": "eval"}, "does not take these options"),
        (kpi.methods.SNIP(), {"iterations": 3}, "beside a SNIP object"),
    ],
)
def test_bad_options_of_methods_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        kpi.get_method(name, **options)


def test_names_that_are_none_are_refused():
    for name in ("", " ", None, 3):
        with pytest.raises(
            ValueError, match="A method must have a name. Received: name="
        ):
            kpi.register_method(name, kpi.get_method("snip").__class__)


def test_integers_of_numpy_are_whole_numbers():
    two = np.int64(2)
    model = kpi.models.mlp((two, 3), two, depth=two, width=np.int8(8))
    allocation = kpi.Allocation("global", np.uint8(1))
    x, y = np.ones((300, 2, 3)), np.arange(300) % 2
    pruned = kpi.prune_at_init(
        model,
        (x, y),
        kpi.methods.SNIP(iterations=two),
        loss=keras.losses.SparseCategoricalCrossentropy(True),
        batches=two,
        allocation=allocation,
    )
    assert kpi.report(pruned).kept == 7  # of 64
    kpi.prune_at_init(
        model, None, "random", seed=two, what=kpi.Blocks(two, np.int32(1))
    )
    kpi.approximate_isometry(pruned, steps=two, verbose=0)
    kpi.initializers.reinitialize(model, "eoc", seed=two)
    kpi.initializers.ScaledNormal(1.0, seed=two)((2, 3))


def test_nothing_is_changed_to_what_is_no_number():
    pruned = kpi.prune_at_init(mlp(), None, "magnitude")
    before = [np.array(v) for v in pruned.variables]
    with pytest.raises(ValueError, match="must return finite numbers"):
        kpi.initializers.reinitialize(
            pruned, lambda shape, dtype: np.full(shape, np.nan)
        )
    pruned.layers[0].layer.kernel.assign(np.full((5, 8), 1e-30))
    before = [np.array(v) for v in pruned.variables]
    with pytest.raises(ValueError, match="Scales must be finite"):
        kpi.rescale(pruned, sigma_w=1e15)
    np.testing.assert_equal(before, [np.array(v) for v in pruned.variables])


@pytest.mark.parametrize(
    "activation",
    ["softmax", lambda z: z / 0, lambda z: z[:1], "no such one", 3, np.tanh],
)
def test_what_is_no_function_of_numbers_is_no_activation(activation):
    with pytest.raises(ValueError, match="`activation` must be a Keras activation"):
        kpi.mean_field.edge_of_chaos(activation)


def test_an_activation_without_an_edge_of_chaos_is_refused():
    with pytest.raises(ValueError, match="needs a variance that its layers do not"):
        kpi.mean_field.edge_of_chaos(lambda z: 0 * z)


def test_all_layers_cannot_be_registered_at_once():
    with pytest.raises(TypeError, match="must be a subclass of keras.layers.Layer"):
        kpi.register_layer(keras.layers.Layer, "w")


def test_a_schedule_may_return_a_tensor():
    def schedule(progress, sparsity):
        return tf.constant(progress) * sparsity

    method = kpi.methods.Magnitude(iterations=3, schedule=schedule)
    pruned = kpi.prune_at_init(mlp(), None, method, sparsity=0.5)
    assert kpi.report(pruned).sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["LoRA", "quantized"])
def test_layers_whose_kernel_is_not_plain_are_left_out_with_a_reason(kind):
    model = mlp()
    changed = model.layers[1]
    changed.enable_lora(2) if kind == "LoRA" else changed.quantize("int8")
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5, verbose=0)
    report = kpi.report(pruned)
    assert len(report.tensors) == 2
    [(path, reason)] = report.skipped
    assert path == changed.path
    assert reason == "its kernel is quantized or has LoRA weights"
    assert reason in str(report)
    x = np.ones((2, 5), "float32")
    whole = kpi.prune_at_init(model, None, "magnitude", sparsity=0.0, verbose=0)
    np.testing.assert_array_equal(whole(x), model(x))
    assert type(pruned.layers[1]) is L.Dense
