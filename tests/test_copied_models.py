"""Pruned, stripped, shrunk and converted models are of the class that was given."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import L, batch, mlp

import keras_prune_init as kpi

pytestmark = pytest.mark.usefixtures("eagerly")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype("float32")
Y = RNG.integers(0, 3, 16)
SYNFLOW = kpi.methods.SynFlow(iterations=3)
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Backbone(keras.Model):
    """A Functional model with a constructor of its own."""

    def __init__(self, width=8, **kwargs):
        hidden = L.Dense(width, activation="relu", name="hidden")
        x = keras.Input((6,))
        super().__init__(x, L.LayerNormalization()(hidden(x)), **kwargs)
        self.hidden, self.width = hidden, width

    def get_config(self):
        return {"name": self.name, "width": self.width}


class Task(keras.Model):
    """Another around it, which trains in its own way."""

    def __init__(self, backbone, factor=2.0, **kwargs):
        x = backbone.input
        super().__init__(x, L.Dense(3, name="logits")(backbone(x)), **kwargs)
        self.backbone, self.factor, self.steps = backbone, factor, []

    def get_config(self):
        config = keras.saving.serialize_keras_object(self.backbone)
        return {"backbone": config, "factor": self.factor, "name": self.name}

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config.pop("backbone"))
        return cls(backbone, **config)

    def train_step(self, data):
        self.steps.append(len(self.steps))
        return super().train_step(data)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return self.factor * super().compute_loss(x, y, y_pred, sample_weight)

    def features(self, x):
        return self.backbone(x)


class NoConfig(keras.Model):
    """A subclassed model that Keras cannot save."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.blocks = [L.Dense(8), L.Dense(3)]

    def call(self, x):
        for block in self.blocks:
            x = self.function(block(x))
        return x


def task():
    model = Task(Backbone())
    model.compile("adam", CE, metrics=["accuracy"])
    return model


def no_config():
    keras.utils.set_random_seed(3)  # or compact layers would keep other numbers
    model = NoConfig(lambda x: tf.maximum(x, 0.1 * x))
    model.compile("adam", CE)
    model(X)
    return model


FORMS = {
    "masked": lambda m: kpi.prune_at_init(m, (X, Y), "snip", sparsity=0.5),
    "compact": lambda m: kpi.prune_at_init(
        m, None, "magnitude", sparsity=0.5, layout="compact"
    ),
    "again": lambda m: kpi.prune_at_init(
        FORMS["masked"](m), None, "random", sparsity=0.8
    ),
    "converted": lambda m: kpi.to_layout(FORMS["masked"](m), "compact"),
    "stripped": lambda m: kpi.strip(FORMS["compact"](m)),
    "shrunk": lambda m: kpi.shrink(FORMS["masked"](m)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_task_stays_one_with_its_backbone_its_training_and_its_file(form, tmp_path):
    model = task()
    new = FORMS[form](model)
    assert isinstance(new, Task) and type(new).__name__ == "Task"
    assert isinstance(new.backbone, Backbone) and new.backbone is not model.backbone
    assert new.backbone in new.layers
    assert new.backbone.hidden is new.backbone.get_layer("hidden")
    masked = isinstance(new.backbone.hidden, kpi.MaskedLayer)
    assert masked == (form != "stripped")
    np.testing.assert_array_equal(new.features(X), new.backbone(X, training=False))
    if form == "shrunk":
        return
    new.fit(X, Y, verbose=0)
    assert new.steps and not model.steps
    small = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = float(new.compute_loss(X, Y, new(X)))
    np.testing.assert_allclose(loss, 2 * float(small(Y, new(X))), rtol=1e-5)
    if form not in ("masked", "compact", "again"):
        return
    new.save(tmp_path / "m.keras")
    names = {"Task": Task, "Backbone": Backbone}
    loaded = keras.models.load_model(tmp_path / "m.keras", custom_objects=names)
    assert isinstance(loaded, Task) and isinstance(loaded.backbone, Backbone)
    np.testing.assert_array_equal(loaded(X), new(X))
    assert kpi.report(loaded).digest == kpi.report(new).digest
    loaded.fit(X, Y, verbose=0)
    assert kpi.report(loaded).digest == kpi.report(new).digest


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_a_model_that_keras_cannot_save_says_so_and_keeps_its_weights(layout, tmp_path):
    pruned = FORMS[layout](no_config())
    pruned.fit(X, Y, verbose=0)
    with pytest.raises(NotImplementedError, match="use `save_weights`"):
        pruned.save(tmp_path / "m.keras")
    other = FORMS[layout](no_config())
    pruned.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(other(X), pruned(X))
    other.set_weights([np.zeros_like(w) for w in other.get_weights()])
    assert not np.array_equal(other(X), pruned(X))
    path = tf.train.Checkpoint(model=pruned).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(model=other).restore(path).expect_partial()
    np.testing.assert_array_equal(other(X), pruned(X))
    assert kpi.report(other).digest == kpi.report(pruned).digest


class Residual(keras.Model):
    """A residual network with a constructor of its own."""

    def __init__(self, **kwargs):
        x = y = keras.Input((6,))
        for _ in range(2):
            y = L.Add()([y, L.Dense(6, activation="relu")(L.Dense(6)(y))])
        super().__init__(x, L.Dense(3)(y), **kwargs)


@pytest.mark.parametrize("method", ["sbp_sr", "robust"])
def test_another_graph_is_not_saved_as_what_the_constructor_makes(method, tmp_path):
    model = Residual()
    pruned = kpi.prune_at_init(model, (X, Y), method, sparsity=0.5, loss=CE)
    assert isinstance(pruned, Residual)
    scaled = [v for v in pruned.layers if isinstance(v, L.Rescaling)]
    assert len(scaled) == 2 and len(pruned.layers) == len(model.layers) + 2
    for name, model in (("masked", pruned), ("plain", kpi.strip(pruned))):
        model.save(tmp_path / f"{name}.keras")
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(loaded(X), model(X))


FACTORS = {}


class LooksItselfUp(L.Layer):
    """State that no copy can find."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)
        FACTORS[id(self)] = 2.0

    def call(self, x):
        return self.dense(x) * FACTORS.get(id(self), 1.0)


def test_a_copy_that_computes_something_else_is_refused_by_the_layer_s_name():
    x = keras.Input((6,))
    shared = L.Dense(6, name="before")
    h = shared(shared(x))
    model = keras.Model(x, L.Softmax(name="after")(LooksItselfUp()(h)))
    before = [v.numpy() for v in model.weights]
    with pytest.raises(ValueError, match="must compute what the model does.*`after`"):
        kpi.prune_at_init(model, None, "magnitude", sparsity=0.0)
    for v, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(v, value)


class UsesAnotherLayer(L.Layer):
    shared = []

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(6)
        self.shared.append(self.dense)

    def call(self, x):
        return self.dense(x) + self.shared[-1](x)


def test_a_copy_that_uses_the_model_s_own_variables_is_refused():
    model = keras.Sequential([keras.Input((6,)), UsesAnotherLayer(), L.Dense(3)])
    with pytest.raises(ValueError, match="a copy that uses the model's own"):
        kpi.prune_at_init(model, (X, Y), "snip", loss=CE)


def test_random_numbers_in_inference_are_no_difference():
    class Noise(L.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    model = keras.Sequential([keras.Input((6,)), Noise(), L.Dense(3)])
    kpi.prune_at_init(model, None, "random", sparsity=0.5)


# --- pruning again --------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, layout", [("random", "compact"), ("snip", "masked"), (SYNFLOW, "compact")]
)
def test_pruning_again_goes_on_from_the_masks(method, layout):
    model = mlp()
    first = kpi.prune_at_init(model, None, "random", sparsity=0.5, layout=layout)
    second = kpi.prune_at_init(first, batch(model), method, sparsity=0.8, seed=1)
    for a, b in zip(first.layers, second.layers, strict=True):
        assert not (b.kept_mask("kernel") & ~a.kept_mask("kernel")).any()
    report = kpi.report(second)
    assert report.kept == report.total - int(0.8 * report.total)
    assert kpi.report(first).sparsity < 0.51


def test_pruning_again_in_several_iterations_and_in_blocks():
    model = mlp(units=(8, 8), inputs=8, classes=4)
    first = kpi.prune_at_init(model, None, "magnitude", sparsity=0.6)
    for options in (
        {"method": kpi.methods.SNIP(iterations=4), "dataset": batch(model)},
        {"what": "1x4", "method": "magnitude"},
        {"what": "1:4", "method": "magnitude", "sparsity": 0.75},
    ):
        second = kpi.prune_at_init(first, **{"sparsity": 0.75, **options})
        for a, b in zip(first.layers, second.layers, strict=True):
            assert not (b.kept_mask("kernel") & ~a.kept_mask("kernel")).any()


def test_layers_that_filters_leave_out_keep_their_masks():
    model = mlp()
    first = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5)
    name = model.layers[0].name
    second = kpi.prune_at_init(first, None, "random", sparsity=0.9, filters=f"{name}$")
    kept = [v.kept_mask("kernel") for v in second.layers]
    for layer, mask in zip(first.layers[1:], kept[1:], strict=True):
        np.testing.assert_array_equal(layer.kept_mask("kernel"), mask)
    assert kept[0].sum() == kept[0].size - int(0.9 * kept[0].size)


def test_pruning_again_must_remove_more():
    first = kpi.prune_at_init(mlp(), None, "magnitude", sparsity=0.5)
    with pytest.raises(ValueError, match="be lower now. Received: sparsity=0.2"):
        kpi.prune_at_init(first, None, "magnitude", sparsity=0.2)
    with pytest.raises(ValueError, match="what='channels'"):
        kpi.prune_at_init(first, None, "magnitude", what="channels")


def test_scores_of_a_pruned_model_are_least_where_it_was_pruned():
    model = mlp()
    first = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5)
    scores = kpi.score(first, None, "random")
    assert set(scores) == set(kpi.score(model, None, "random"))
    masks = kpi.select(scores, 0.5)
    for layer, mask in zip(first.layers, masks.values(), strict=True):
        np.testing.assert_array_equal(layer.kept_mask("kernel"), mask)


def test_weights_of_another_pruning_load_into_a_compact_model(tmp_path):
    """As searches for hyperparameters do: the model is made anew, its weights load."""
    models = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        model = mlp()
        models.append(
            kpi.prune_at_init(
                model, batch(model), "snip", sparsity=0.7, layout="compact"
            )
        )
        models[-1].compile("adam", CE)
    first, second = models
    counts = [[v.counts for v in m.layers] for m in models]
    assert counts[0] != counts[1]
    data = batch(first)
    first.fit(*data, verbose=0)
    first.save_weights(tmp_path / "m.weights.h5")
    second.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(second(data[0]), first(data[0]))
    assert kpi.report(second).digest == kpi.report(first).digest
    second.fit(*data, verbose=0)
    second.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(data[0]), second(data[0]))


def test_a_class_that_asks_its_subclasses_for_arguments_is_pruned():
    class Tagged(keras.Model):
        def __init_subclass__(cls, tag, **options):
            super().__init_subclass__(**options)

        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Tagged()
    x = np.ones((2, 4), "float32")
    model(x)
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.5)
    assert isinstance(pruned, Tagged)
    np.testing.assert_allclose(kpi.strip(pruned)(x), pruned(x), rtol=1e-6)


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_a_clone_gets_its_masks_with_the_weights(layout):
    model = keras.Sequential([keras.Input((6,)), L.Dense(8), L.Dense(3)])
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.7, layout=layout)
    clone = keras.models.clone_model(pruned)
    kept = kpi.report(clone).kept  # without masks, but not without weights
    assert kept == (kpi.report(pruned).kept if layout == "compact" else 72)
    clone.set_weights(pruned.get_weights())
    assert kpi.report(clone).digest == kpi.report(pruned).digest


def test_adafactor_trains_the_compact_layout_only():
    model = keras.Sequential([keras.Input((6,)), L.Dense(8), L.Dense(1)])
    model.compile("adafactor", "mse")
    data = np.ones((8, 6), "float32"), np.ones((8, 1), "float32")
    with pytest.raises(ValueError, match="Use layout='compact'"):
        kpi.prune_at_init(model, data, "snip", sparsity=0.7)
    pruned = kpi.prune_at_init(model, data, "snip", sparsity=0.7, layout="compact")
    with pytest.raises(ValueError, match="Use layout='compact'"):
        kpi.to_layout(pruned, "masked")
    before = [v.numpy() for v in pruned.trainable_variables]
    digest = kpi.report(pruned).digest
    losses = pruned.fit(*data, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and kpi.report(pruned).digest == digest
    for old, v in zip(before, pruned.trainable_variables, strict=True):
        assert (old != v.numpy()).any()
