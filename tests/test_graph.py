"""The graph of models: wiring, residual additions, activations."""

import keras
import pytest
from helpers import L, mlp, subclassed, two_inputs_two_outputs

from keras_prune_init.graph import residual
from keras_prune_init.graph import wiring as graph
from keras_prune_init.graph.activations import activations


def wiring(model):
    """`{name of the operation: names of its parents}`, for names that occur once."""
    nodes = graph.flat_graph(model)
    names = [getattr(node.operation, "name", "input") for node in nodes]
    return {
        name: [names[i] for i in node.parents]
        for name, node in zip(names, nodes, strict=True)
    }


def block(x, name, width=4, project=False):
    """A residual block of two layers, its shortcut a projection if told so."""
    y = L.Dense(width, "relu", name=f"{name}_a")(x)
    y = L.Dense(width, name=f"{name}_b")(y)
    x = L.Dense(width, name=f"{name}_projection")(x) if project else x
    return L.Add(name=f"{name}_add")([x, y])


def test_sequential_models_are_chains():
    model = mlp()
    first, second, third = [layer.name for layer in model.layers]
    source = next(iter(wiring(model)))
    expected = {source: [], first: [source], second: [first], third: [second]}
    assert wiring(model) == expected


class Tower(keras.Model):
    """A Functional model with a constructor of its own, and no config."""

    def __init__(self, width):
        x = keras.Input((4,))
        branch = Gain()(L.Dense(width, name="branch")(x))
        super().__init__(x, L.Add(name="sum")([branch, x]))

    def get_config(self):
        raise NotImplementedError


class Gain(L.Layer):
    """A layer whose config tells nothing."""

    def call(self, x):
        return 2 * x

    def get_config(self):
        raise NotImplementedError


def test_the_graph_is_read_of_models_and_layers_without_config():
    tower = Tower(4)
    found = wiring(tower)
    assert found["sum"] == ["gain", *found["branch"]] and found["gain"] == ["branch"]
    x = keras.Input((4,))
    nested = keras.Model(x, L.Dense(2, name="last")(tower(x)))
    assert wiring(nested)["last"] == ["sum"]
    assert list(additions(nested)) == ["sum"]


def test_inputs_without_names_of_their_own_are_told_apart():
    x, y = keras.Input((3,)), keras.Input((2,))
    a, b = L.ReLU()(x), L.ReLU()(y)
    one, two = L.Dense(2, name="one")(a), L.Dense(2, name="two")(b)
    # Keras calls both of these inputs `keras_tensor`-something.
    model = keras.Model([a, b], L.Add(name="sum")([one, two]))
    nodes = graph.flat_graph(model)
    shapes = {n.operation.name: n.given for n in nodes}
    assert shapes["one"] == ((None, 3),) and shapes["two"] == ((None, 2),)
    assert wiring(model)["sum"] == ["one", "two"]


def test_a_nested_model_takes_its_inputs_by_name():
    a, b = keras.Input((3,), name="zeta"), keras.Input((2,), name="alpha")
    left, right = L.Dense(1, name="left")(a), L.Dense(1, name="right")(b)
    inner = keras.Model([a, b], L.Add()([left, right]))
    x, y = keras.Input((3,)), keras.Input((2,))
    to_zeta, to_alpha = L.ReLU(name="to_zeta")(x), L.ReLU(name="to_alpha")(y)
    model = keras.Model([x, y], inner({"zeta": to_zeta, "alpha": to_alpha}))
    found = wiring(model)
    assert found["left"] == ["to_zeta"] and found["right"] == ["to_alpha"]


def test_layers_used_in_two_models_are_read_in_each():
    shared = L.Dense(4, name="shared")
    x, y = keras.Input((3,)), keras.Input((5, 3))
    other = keras.Model(y, shared(y))
    model = keras.Model(x, L.Dense(1, name="last")(shared(x)))
    assert {n.operation.name: n.given for n in graph.flat_graph(model)}["shared"] == (
        (None, 3),
    )
    assert {n.operation.name: n.made for n in graph.flat_graph(other)}["shared"] == (
        (None, 5, 4),
    )


def test_nested_models_are_expanded_where_they_are_called():
    model = two_inputs_two_outputs()
    nodes = graph.flat_graph(model)
    found = wiring(model)
    assert found["deep"] == ["add"] and found["c"] == found["d"] == ["shared"]
    shared = [n for n in nodes if n.operation.name == "shared"]
    # A layer called twice, and another of the same name in the nested model.
    assert [n.owner.name for n in shared] == [model.name, model.name, "inner"]
    assert all(p < i for i, n in enumerate(nodes) for p in n.parents)


def test_a_nested_model_called_twice_has_nodes_for_both_calls():
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, block(inner_in, "inner"))
    x = keras.Input((4,))
    nodes = graph.flat_graph(keras.Model(x, inner(inner(x))))
    assert len(residual.residual_additions(nodes)) == 2


def test_outputs_of_a_nested_model_are_told_apart():
    a = keras.Input((3,))
    left, right = L.Dense(2, name="left")(a), L.Dense(2, name="right")(a)
    inner = keras.Model(a, [left, right])
    x = keras.Input((3,))
    first, second = inner(x)
    model = keras.Model(
        x, [L.Dense(1, name="of_right")(second), L.Dense(1, name="of_left")(first)]
    )
    found = wiring(model)
    assert found["of_right"] == ["right"] and found["of_left"] == ["left"]


def test_the_graph_of_a_subclassed_model_is_refused():
    with pytest.raises(ValueError, match="Sequential and Functional.*Subclassed"):
        graph.flat_graph(subclassed())


def additions(model):
    """`{name of the addition: names of what ends the branches}`."""
    nodes = graph.flat_graph(model)
    return {
        nodes[a.position].operation.name: [
            nodes[nodes[a.position].parents[i]].operation.name for i in a.branches
        ]
        for a in residual.residual_additions(nodes)
    }


@pytest.mark.parametrize("project", [False, True])
def test_the_branch_is_the_side_with_more_kernels(project):
    x = keras.Input((4,))
    model = keras.Model(x, block(block(x, "one", project=project), "two"))
    assert additions(model) == {"one_add": ["one_b"], "two_add": ["two_b"]}


def test_operators_count_as_additions():
    x = keras.Input((4,))
    y = L.Dense(4, name="branch")(x) + x
    assert list(additions(keras.Model(x, y)).values()) == [["branch"]]


def test_other_additions_are_not_residual():
    a, b = keras.Input((4,)), keras.Input((4,))
    inputs = L.Add(name="of_inputs")([L.Dense(4)(a), b])
    towers = L.Add(name="of_towers")([L.Dense(4)(inputs), L.Dense(4)(inputs)])
    deep = [L.Dense(4)(L.Dense(4)(towers)), L.Dense(4)(L.Dense(4)(L.Dense(4)(towers)))]
    model = keras.Model([a, b], L.Add(name="of_deep_towers")(deep) + 1.0)
    assert additions(model) == {}


def read(model):
    """`{layer name: name of the activation that its inputs went through}`."""
    nodes = graph.flat_graph(model)
    return {
        nodes[i].operation.name: getattr(function, "__name__", function)
        for i, function in activations(nodes).items()
    }


def test_activations_are_read_through_what_does_not_bend_the_signal():
    layers = [
        L.Conv2D(4, 3, activation="tanh", name="own"),
        L.Dropout(0.1),
        L.Conv2D(4, 3, name="after_own"),
        L.BatchNormalization(),
        L.Activation("elu"),
        L.MaxPooling2D(),
        L.Flatten(),
        L.Dense(4, name="after_elu"),
        L.Dense(4, name="after_linear"),
    ]
    model = keras.Sequential([keras.Input((8, 8, 2)), *layers])
    expected = {
        "own": "tanh",  # its inputs are the model's: the activation that follows
        "after_own": "tanh",
        "after_elu": "elu",
        "after_linear": "linear",
    }
    assert read(model) == expected


def test_the_first_layer_reads_what_follows_it():
    x = keras.Input((6,))
    y = L.BatchNormalization()(L.Dense(4, use_bias=False, name="first")(x))
    y = L.Dense(3, name="last")(keras.ops.gelu(y))
    assert read(keras.Model(x, y)) == {"first": "gelu", "last": "gelu"}


def test_the_activation_of_a_time_distributed_layer_is_read():
    layers = [L.TimeDistributed(L.Dense(4, "tanh")), L.Flatten(), L.Dense(2, name="d")]
    model = keras.Sequential([keras.Input((3, 5)), *layers])
    assert read(model)["d"] == "tanh"


def test_relu_layers_are_functions_of_their_settings():
    import numpy as np

    x = keras.Input((6,))
    y = L.Dense(3, name="d")(L.ReLU(max_value=6.0)(x))
    function = activations(graph.flat_graph(keras.Model(x, y))).popitem()[1]
    np.testing.assert_array_equal(function(np.array([-1.0, 2.0, 8.0])), [0, 2, 6])


def test_several_activations_and_unknown_operations_are_not_read():
    x = keras.Input((4,))
    a, b = L.Dense(4, "relu", name="a")(x), L.Dense(4, "tanh", name="b")(x)
    gate = L.Multiply()([a, b])
    model = keras.Model(
        x, [L.Dense(2, name="sum")(a + b), L.Dense(2, name="product")(gate)]
    )
    found = read(model)
    assert found["sum"] is None and found["product"] is None
    assert found["a"] == "relu" and found["b"] == "tanh"


def test_equal_activation_layers_count_as_one():
    x = keras.Input((4,))
    sides = [L.LeakyReLU(0.2)(L.Dense(4)(x)) for _ in range(2)]
    other = [L.LeakyReLU(slope)(L.Dense(4)(x)) for slope in (0.2, 0.3)]
    both = [L.Dense(1, name=n)(L.Add()(s)) for n, s in (("s", sides), ("o", other))]
    found = read(keras.Model(x, both))
    assert found["s"] is not None and found["o"] is None
