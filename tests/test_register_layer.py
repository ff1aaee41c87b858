"""Layers that users write with `add_weight`, made known by one call."""

import itertools
import math

import keras
import numpy as np
import pytest
from helpers import L, masked_list

import keras_prune_init as kpi
from keras_prune_init.layers.prunable import prunable

_names = itertools.count()


class Weighted(L.Layer):
    """A dense layer by hand; `make` gives a class that nobody has registered."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.b = self.add_weight(shape=(self.units,), name="b")

    def call(self, x):
        return keras.ops.relu(x @ self.w + self.b)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Heads(Weighted):
    """Three axes, of which the first is summed over, and a Dense layer inside."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.out = L.Dense(units)

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 2, self.units), name="w")
        self.out.build((*shape[:-1], 2 * self.units))

    def call(self, x):
        y = keras.ops.einsum("bi,ihu->bhu", x, self.w)
        return self.out(keras.ops.reshape(y, (-1, 2 * self.units)))


class Block(Weighted):
    """No weights of its own, but a list of layers; `inner` is the first one's class."""

    inner: type

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.parts = [self.inner(units), L.Dense(units)]

    def build(self, shape):
        self.parts[0].build(shape)
        self.parts[1].build((*shape[:-1], self.units))

    def call(self, x):
        return self.parts[1](self.parts[0](x))


def make(base=Weighted, **attributes):
    cls = type(f"{base.__name__}{next(_names)}", (base,), attributes)
    return keras.saving.register_keras_serializable("register_layer")(cls)


def model_of(*layers, shape=(5,)):
    return keras.Sequential([keras.Input(shape), *layers, L.Dense(3)])


def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 5)).astype("float32"), rng.integers(0, 3, 8)


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SYNFLOW = kpi.methods.SynFlow(iterations=3)


@pytest.mark.parametrize("base, layout", [(Weighted, "compact"), (Heads, "masked")])
def test_one_call_then_all_is_as_with_dense(base, layout, tmp_path):
    cls = make(base)
    kpi.register_layer(cls, kernels="w", input_axes=0)
    model, (x, y) = model_of(cls(4)), batch()
    kernels = prunable(model)[0]
    assert len(kernels) == {Weighted: 2, Heads: 3}[base]
    total = sum(math.prod(k.variable.shape) for k in kernels)
    others = {"masked": ("random", "grasp"), "compact": ("magnitude", SYNFLOW)}
    for method in (*others[layout], "snip"):
        scored = kpi.prune_at_init(
            model, (x, y), method, loss=LOSS, sparsity=0.5, layout=layout
        )
        report = kpi.report(scored)
        assert (report.total, report.kept) == (total, total - int(0.5 * total))
        assert report.skipped == [] and 0 < report.effective <= report.kept
    assert report.cost.macs == total  # each weight once, as the input has one row
    assert report.cost.others == kpi.cost(model).others
    signals = kpi.signal_report(scored, (x, y), loss=LOSS)
    assert not signals.missing and len(signals.rows) == len(kernels)
    scored.compile("adam", LOSS, run_eagerly=True)
    scored.fit(x, y, verbose=0)
    for layer in masked_list(scored):
        for name in layer.kernels:
            value = np.asarray(layer.masked_kernel(name))
            assert (value[~layer.kept_mask(name)] == 0).all()
    np.testing.assert_allclose(kpi.strip(scored)(x), scored(x), rtol=1e-5, atol=1e-6)
    scored.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    np.testing.assert_allclose(loaded(x), scored(x), rtol=1e-5, atol=1e-6)


def test_scores_and_masks_are_those_of_dense():
    cls = make()
    kpi.register_layer(cls, "w")
    by_hand, dense = model_of(cls(4)), model_of(L.Dense(4, "relu"))
    dense.set_weights(by_hand.get_weights())
    for method in ("magnitude", "snip", "grasp", "synflow"):
        scores = [
            list(kpi.score(m, batch(), method, loss=LOSS).values())
            for m in (by_hand, dense)
        ]
        for a, b in zip(*scores, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    pruned = [
        kpi.prune_at_init(m, batch(), loss=LOSS, sparsity=0.7) for m in (by_hand, dense)
    ]
    reports = [kpi.report(p) for p in pruned]
    assert reports[0].digest == reports[1].digest
    assert reports[0].effective == reports[1].effective


@pytest.mark.parametrize(
    "axes, expected", [(None, (4, 1, 6)), (0, (1, 3, 6)), ((0, -1), (1, 3, 1))]
)
def test_input_axes_give_the_scale_its_shape(axes, expected):
    def build(self, shape):
        self.w = self.add_weight(shape=(4, 3, 6))

    cls = make(
        build=build, call=lambda self, x: keras.ops.einsum("bi,ihu->bhu", x, self.w)
    )
    kpi.register_layer(cls, "w", axes)
    layer = kpi.MaskedLayer(cls(6))
    layer(np.ones((2, 4), "float32"))
    assert tuple(layer.scale.shape) == expected


def test_blocks_go_along_the_input_axes():
    def build(self, shape):
        self.w = self.add_weight(shape=(6, shape[-1]), name="w")

    cls = make(build=build, call=lambda self, x: x @ keras.ops.transpose(self.w))
    kpi.register_layer(cls, "w", {"w": 1})
    model = keras.Sequential([keras.Input((8,)), cls(6)])
    pruned = kpi.prune_at_init(model, None, "magnitude", sparsity=0.5, what="2:4")
    mask = masked_list(pruned)[0].kept_mask("w")
    assert (mask.reshape(6, 2, 4).sum(-1) == 2).all()


def test_a_kernel_that_only_some_layers_have_is_pruned_where_it_is():
    def build(self, shape):
        Weighted.build(self, shape)
        if self.units == 4:
            self.u = self.add_weight(shape=(4, 4), name="u")

    cls = make(build=build)
    kpi.register_layer(cls, ("w", "u"))
    found = prunable(model_of(cls(4), cls(6)))[0]
    assert [k.name for k in found] == ["w", "u", "w", "kernel"]


def test_subclasses_are_like_the_registered_class():
    parent = make()
    kpi.register_layer(parent, "w")
    names = [k.name for k in prunable(model_of(make(parent)(4)))[0]]
    assert names == ["w", "kernel"]


def test_the_report_names_the_call_for_what_it_left_out():
    # TimeDistributed asks for it.
    one = make(compute_output_shape=lambda self, shape: (*shape[:-1], self.units))
    two = make(Heads)
    layers = (
        make(Block, inner=one)(4),
        two(4),
        L.Reshape((2, 2)),
        L.TimeDistributed(one(3)),
    )
    model = model_of(*layers, L.Flatten())
    pruned = kpi.prune_at_init(model, None, "magnitude")
    reasons = dict(prunable(model)[1])
    line = '`{0}` is not known; keras_prune_init.register_layer({0}, kernels=("w",))'
    lines = [line.format(cls.__name__) for cls in (one, one, two)]
    assert sorted(reasons.values()) == sorted(lines)
    assert line.format(one.__name__) in str(kpi.report(pruned))
    for cls in (one, two):
        kpi.register_layer(cls, kernels=("w",))
    again = kpi.report(kpi.prune_at_init(model, None, "magnitude"))
    assert again.skipped == [] and len(again.tensors) == 6


def test_the_reason_says_how_to_name_what_has_no_name():
    def build(self, shape):
        self.add_weight(shape=(5, 5))

    hidden = make(build=build, call=lambda self, x: x)
    [(_, reason)] = prunable(model_of(hidden(4)))[1]
    assert reason == (
        f"`{hidden.__name__}` has a matrix in no attribute; "
        "name it by `self.w = add_weight`"
    )

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)
            self.table = self.add_weight(shape=(5, 5))

        def call(self, x):
            return self.dense(x @ self.table)

    model = Own()
    model(np.ones((1, 5), "float32"))
    [(_, reason)] = prunable(model)[1]
    assert reason.startswith("`Own` is a model; weights of its own are pruned if")


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            lambda: ("Dense", "w"),
            TypeError,
            "a subclass of keras.layers.Layer.*'Dense'",
        ),
        (lambda: (make()(4), "w"), TypeError, "Pass the class, not a layer"),
        (lambda: (keras.Model, "w"), TypeError, "no keras.Model"),
        (
            lambda: (make(), ()),
            ValueError,
            r"at least one kernel. Received: kernels=\(\)",
        ),
        (lambda: (make(), ""), ValueError, "at least one kernel"),
        (lambda: (make(), (3,)), TypeError, "must be names of attributes"),
        (
            lambda: (L.Dense, "w"),
            ValueError,
            "cls=Dense, which is known with kernels k",
        ),
        (lambda: (L.RNN, "w"), ValueError, "cls=RNN, which is known with kernels of l"),
        (lambda: (make(), "w", "0"), TypeError, "an integer, a tuple .* by kernel"),
        (lambda: (make(), "w", 0.5), TypeError, "Received: input_axes=0.5"),
        (lambda: (make(), "w", True), TypeError, "Received: input_axes=True"),
        (lambda: (make(), "w", {"u": 0}), TypeError, "Received: input_axes={'u': 0}"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        kpi.register_layer(*arguments())


def test_a_class_is_registered_once():
    cls = make()
    kpi.register_layer(cls, "w")
    with pytest.raises(
        ValueError, match="can be registered once. .*known with ker.* w"
    ):
        kpi.register_layer(cls, ("w", "b"))


@pytest.mark.parametrize(
    "kernels, axes, message",
    [
        (("w", "v"), None, "do not have 'v' of Weighted"),
        ("units", None, "variable that `add_weight` made. Received: 'units' of .* int"),
        ("w", 2, r"different axes of the kernel. Received: input_axes=\(2,\) for 'w'"),
        ("w", (0, -2), r"different axes of the kernel. Received: input_axes=\(0, -2\)"),
        ("b", None, r"input_axes=\(-2,\) for 'b' of .*, of shape \(4,\). Register"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(kernels, axes, message):
    cls = make()
    kpi.register_layer(cls, kernels, axes)
    with pytest.raises(ValueError, match=message):
        kpi.prune_at_init(model_of(cls(4)), None, "magnitude")


def test_a_pruned_layer_must_be_known_when_it_is_loaded():
    cls = make()
    with pytest.raises(
        ValueError, match="must be known. .* before the model is loaded"
    ):
        kpi.MaskedLayer(cls(4), kernels=["w"])(np.ones((2, 3), "float32"))
