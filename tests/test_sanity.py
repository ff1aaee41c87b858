"""The sanity checks: other places, other weights, or the other end of the scores."""

import random

import keras
import numpy as np
import pytest
from helpers import (
    EACH,
    LAYERS,
    Block,
    L,
    batch,
    masked_list,
    masks,
    mlp,
    net,
    subclassed,
    transformer,
    two_inputs_two_outputs,
)
from runs import mirrored

import keras_prune_init as kpi
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.surgery.exchange import weights_of

sanity = kpi.sanity


def pruned_net(layout="masked", sparsity=0.6):
    model, data = net()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    options = {"sparsity": sparsity, "layout": layout}
    return model, kpi.prune_at_init(model, data, "snip", **options)


def kernels(model):
    return {k.path: k for k in find_kernels(model)}


def values(model):
    return [v.numpy() for v in model.weights]


def assert_same(some, others):
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


# --- shuffle ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_masks_move_within_each_kernel(layout):
    _, pruned = pruned_net(layout)
    before = values(pruned)
    new = sanity.shuffle(pruned)
    assert_same(values(pruned), before)
    moved = 0
    for path, kernel in kernels(new).items():
        old = kernels(pruned)[path]
        assert kernel.mask.sum() == old.mask.sum()
        moved += (kernel.mask != old.mask).sum()
        # The values moved too, and nothing is left where a weight is removed now.
        np.testing.assert_array_equal(
            np.sort(kernel.value[kernel.mask]), np.sort(old.value[old.mask])
        )
        assert not kernel.value[~kernel.mask].any()
    assert moved > 20
    assert type(masked_list(new)[0]) is type(masked_list(pruned)[0])


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_with_initial_the_weights_stay_in_their_places(layout):
    model, pruned = pruned_net(layout)
    new = sanity.shuffle(pruned, initial=model)
    for path, kernel in kernels(new).items():
        value = kernels(model)[path].value
        np.testing.assert_array_equal(kernel.value, np.where(kernel.mask, value, 0))
    assert_same(masks(new), masks(sanity.shuffle(pruned)))


def test_every_place_is_as_likely_as_another():
    model = keras.Sequential([keras.Input((10,)), L.Dense(10)])
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.8)
    kept = sum(masks(sanity.shuffle(pruned, seed=s))[0] * 1.0 for s in range(50))
    # 50 draws of 0.2: mean 10, deviation 2.8.
    assert kept.sum() == 50 * 20
    assert 0 < kept.min() and kept.max() < 24
    assert 2.2 < kept.std() < 3.5


def test_scales_biases_and_statistics_stay():
    _, pruned = pruned_net()
    for layer in masked_list(pruned):
        layer.scale.assign(np.full(layer.scale.shape, 2.0))
    norm = pruned.get_layer(index=2)
    norm.moving_mean.assign(np.full(norm.moving_mean.shape, 3.0))
    new = sanity.shuffle(pruned)
    inner = [id(v.layer.kernel) for m in (pruned, new) for v in masked_list(m)]
    mask = [id(v.mask) for m in (pruned, new) for v in masked_list(m)]
    rest = [
        [v.numpy() for v in m.weights if id(v) not in inner + mask]
        for m in (pruned, new)
    ]
    assert_same(*rest)


def test_the_seed_decides_and_no_global_state():
    _, pruned = pruned_net()
    keras.utils.set_random_seed(1)
    state = random.getstate()
    one = sanity.shuffle(pruned, seed=5)
    assert random.getstate() == state
    keras.utils.set_random_seed(2)
    assert_same(masks(one), masks(sanity.shuffle(pruned, seed=5)))
    other = masks(sanity.shuffle(pruned, seed=6))
    assert any((a != b).any() for a, b in zip(masks(one), other, strict=True))


def test_another_initial_model_is_refused():
    model, pruned = pruned_net()
    with pytest.raises(ValueError, match="`initial` must be the model that was"):
        sanity.shuffle(pruned, initial=mlp())
    with pytest.raises(ValueError, match="without masks"):
        sanity.shuffle(pruned, initial=pruned)
    with pytest.raises(ValueError, match="takes a pruned model"):
        sanity.shuffle(model)
    with pytest.raises(ValueError, match="`seed` must be a whole number"):
        sanity.shuffle(pruned, seed=-1)


def test_the_report_says_what_was_done():
    _, pruned = pruned_net()
    assert "Shuffled within kernels, seed 3." in str(
        kpi.report(sanity.shuffle(pruned, seed=3)).notes
    )


# --- reinitialize -------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_masks_stay_and_weights_are_drawn_by_their_own_initializers(layout):
    options = {"kernel_initializer": "he_normal", "bias_initializer": "random_normal"}
    model = mlp((300, 200), 100, **options)
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5, layout=layout)
    for layer in masked_list(pruned):
        layer.scale.assign(np.full(layer.scale.shape, 2.0))
    before = values(pruned)
    new = sanity.reinitialize(pruned)
    assert_same(values(pruned), before)
    assert_same(masks(new), masks(pruned))
    first = find_kernels(new)[0]
    kept = first.value[first.mask]
    assert kept.std() == pytest.approx(np.sqrt(2 / 100), rel=0.05)
    assert not first.value[~first.mask].any()
    old = find_kernels(pruned)[0]
    assert abs(np.corrcoef(kept, old.value[old.mask])[0, 1]) < 0.05
    assert first.owner.bias.numpy().std() == pytest.approx(0.05, rel=0.2)
    assert all((layer.scale.numpy() == 1).all() for layer in masked_list(new))


def differing(model, new):
    """The paths of those weights that were not constant and are other ones now."""
    pairs = zip(weights_of(model), weights_of(new), strict=True)
    return [a.path for a, b in pairs if (a.numpy() != b.numpy()).any()]


@pytest.mark.parametrize("name", LAYERS)
def test_all_layer_types(name):
    make, shape = LAYERS[name]
    model = keras.Sequential([keras.Input(shape), make()])
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.3)
    new = sanity.reinitialize(pruned, seed=1)
    assert_same(masks(new), masks(pruned))
    count = len(find_kernels(model))
    found = differing(pruned, new)
    assert len([p for p in found if "bias" not in p]) >= count
    assert_same(values(new), values(sanity.reinitialize(pruned, seed=1)))
    # No two kernels, as of directions or gates of one shape, are the same.
    drawn = [k.value.tobytes() for k in find_kernels(sanity.reinitialize(model))]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("make", [subclassed, transformer, two_inputs_two_outputs])
@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_models_of_users(make, layout):
    model = make()
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.3, layout=layout)
    new = sanity.reinitialize(pruned)
    assert_same(masks(new), masks(pruned))
    for path, kernel in kernels(new).items():
        assert (kernel.value != kernels(pruned)[path].value).any()


def test_fixed_seeds_give_other_weights_but_the_same_for_the_same_seed():
    start = keras.initializers.GlorotUniform(seed=0)
    held = keras.initializers.RandomNormal(seed=keras.random.SeedGenerator(1))
    layers = [
        L.Embedding(9, 8, embeddings_initializer=held),
        L.MultiHeadAttention(2, 4, kernel_initializer=start),
    ]
    inputs = keras.Input((5,), dtype="int32")
    x = layers[0](inputs)
    outputs = L.LSTM(8, kernel_initializer=start)(layers[1](x, x))
    model = keras.Model(inputs, outputs)
    new = sanity.reinitialize(model)
    changed = [path for path in differing(model, new) if "bias" not in path]
    assert len(changed) == 1 + 4 + 2
    assert_same(values(new), values(sanity.reinitialize(model)))
    other = sanity.reinitialize(model, seed=1)
    assert [p for p in differing(new, other) if "bias" not in p] == changed
    query, key = (v.numpy() for v in new.layers[2].weights[0:4:2])
    assert (query != key).any()


def test_statistics_go_back_and_what_adapt_learned_stays():
    x = np.random.default_rng(0).normal(3, 2, (20, 4)).astype("float32")
    layers = [L.Normalization(), L.Dense(3), L.BatchNormalization()]
    layers[0].adapt(x)
    model = keras.Sequential([keras.Input((4,)), *layers])
    kpi.recalibrate(model, x)
    layers[2].gamma.assign([5.0, 5.0, 5.0])
    new = sanity.reinitialize(model)
    assert_same(
        [v.numpy() for v in new.layers[0].weights],
        [v.numpy() for v in layers[0].weights],
    )
    gamma, beta, mean, variance = (v.numpy() for v in new.layers[2].weights)
    assert_same(
        [gamma, beta, mean, variance], np.array([1, 0, 0, 1])[:, None] + [0] * 3
    )


class Scaled(L.Layer):
    """A user's layer with a weight of its own beside another layer."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = L.Dense(units)

    def build(self, shape):
        self.factor = self.add_weight((self.units,), "random_normal", name="factor")
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) * self.factor

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_weights_beside_other_layers_are_drawn_too():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, Block(4)(L.Reshape((1, 4))(Scaled(4)(inputs))))
    pruned = kpi.prune_at_init(model, None, "random", sparsity=0.3)
    found = differing(pruned, sanity.reinitialize(pruned))
    assert any(path.endswith("factor") for path in found)


class Closed(L.Layer):
    """A user's layer without a config."""

    def __init__(self, units, table):
        super().__init__()
        self.units, self.table = units, table

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], self.units), name="kernel")

    def call(self, x):
        return x @ self.kernel


def test_a_layer_that_cannot_be_made_anew_is_named():
    layers = [Closed(3, object()), L.Dense(2)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    before = values(model)
    message = "`closed.*` \\(Closed\\), where NotImplementedError is raised: Object"
    with pytest.raises(ValueError, match=message):
        sanity.reinitialize(model)
    assert_same(values(model), before)


def test_global_random_states_stay():
    model = subclassed()
    keras.utils.set_random_seed(7)
    expected = random.random(), np.random.rand(), keras.random.normal((3,)).numpy()
    keras.utils.set_random_seed(7)
    sanity.reinitialize(model)
    found = random.random(), np.random.rand(), keras.random.normal((3,)).numpy()
    assert found[:2] == expected[:2]
    np.testing.assert_array_equal(found[2], expected[2])


@pytest.mark.parametrize("function", [sanity.shuffle, sanity.reinitialize])
def test_the_new_model_is_compiled_with_a_fresh_optimizer(function):
    _, pruned = pruned_net()
    x, y = batch(pruned, 8)
    pruned.fit(x, y, verbose=0)
    new = function(pruned)
    assert type(new.optimizer) is keras.optimizers.Adam
    assert float(new.optimizer.learning_rate) == pytest.approx(0.01)
    assert int(new.optimizer.iterations) == 0 < int(pruned.optimizer.iterations)
    kept = masks(new)
    new.fit(x, y, verbose=0)
    assert_same(masks(new), kept)


@pytest.mark.parametrize("layout", ["masked", "compact"])
def test_under_a_strategy_the_result_is_that_of_one_device(layout):
    model, _ = net()
    strategy = mirrored(2)
    with strategy.scope():
        other = net()[0]
        other.set_weights(model.get_weights())
    paths = [k.path for k in find_kernels(model)]
    options = {"method": "magnitude", "sparsity": 0.5, "layout": layout}
    one, two = (kpi.prune_at_init(m, None, **options) for m in (model, other))
    for layer, like in zip(masked_list(two), masked_list(one), strict=True):
        layer.paths = like.paths  # draws go by these
    assert [k.path for k in find_kernels(two)] == paths
    for function in (sanity.shuffle, sanity.reinitialize):
        a, b = function(one), function(two)
        assert_same(values(a), values(b))
        assert b.distribute_strategy is strategy
        for part in masked_list(b)[0].scale.value.values:
            assert part.shape == masked_list(a)[0].scale.shape


# --- inverted -----------------------------------------------------------------------


@EACH
def test_what_the_method_removes_is_kept(name, options, needs_data):
    model, data = net()
    method, other = kpi.get_method(name, **options), sanity.inverted(name, **options)
    assert isinstance(other, kpi.Method)
    assert other.needs_data is method.needs_data is needs_data
    assert other.iterations == method.iterations
    assert other.schedule is method.schedule
    pruned = kpi.prune_at_init(model, data, other, sparsity=0.5)
    if method.iterations == 1:
        scores = [kpi.score(model, data, m).values() for m in (method, other)]
        for a, b in zip(*scores, strict=True):
            np.testing.assert_allclose(b, -a, rtol=1e-6)
        kept = masks(kpi.prune_at_init(model, data, method, sparsity=0.5))
        rest = masks(kpi.prune_at_init(model, data, other, sparsity=0.5))
        both = sum(np.sum(a & b) for a, b in zip(kept, rest, strict=True))
        equal = sum(np.sum(s == 0) for s in scores[0])  # of equals the first stay
        assert both <= 1 + equal < kpi.report(pruned).kept  # 1 of an odd number
    assert kpi.report(pruned).sparsity == pytest.approx(0.5, abs=0.01)
    assert f"Inverted {type(method).__name__}." in str(kpi.report(pruned).notes)


def test_channels_and_objects():
    model, data = net()
    method = kpi.methods.SNIP(iterations=2, schedule="linear", batch_norm="eval")
    other = sanity.inverted(method)
    assert (other.iterations, other.schedule) == (2, method.schedule)
    options = {"sparsity": 0.3, "what": "channels"}
    small, usual = (
        kpi.prune_at_init(model, data, m, **options) for m in (other, method)
    )
    assert small.count_params() < model.count_params()
    filters = [m.layers[1].kernel.numpy().T.tolist() for m in (small, usual)]
    assert filters[0] != filters[1]


def test_twice_is_the_method_itself():
    model, data = net()
    other = sanity.inverted(sanity.inverted("snip"))
    assert_same(kpi.score(model, data, other).values(), kpi.score(model, data).values())


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'snip'"):
        sanity.inverted("snipp")
    with pytest.raises(ValueError, match="does not take these options"):
        sanity.inverted("snip", temperature=2)
