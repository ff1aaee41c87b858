"""Imports go one way, and only the one place uses private Keras API."""

import ast
import importlib
import pathlib
import re
import sys

import pytest

import keras_prune_init

ROOT = pathlib.Path(keras_prune_init.__file__).parent
# Each may import itself and what stands before it.
ORDER = (
    "_compatibility",
    "_files",
    "_gc",
    "_lock",
    "_arguments",
    "distribute",
    "sparse",
    "layers",
    "masks",
    "graph",
    "surgery",
    "scoring",
    "reports",
    "channels",
    "gates",
    "factorize",
    "theory",
    "methods",
    "sanity",
    "options",
    "plan",
    "api",
    "rounds",
    "hinge",
    "callbacks",
    "export",
    "tfmot",
    "models",
    "train",
    "sweep",
)


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "keras_prune_init" and len(parts) > 1 and parts[1] in ORDER:
                yield parts[1]


FILES = [
    p for p in sorted(ROOT.rglob("*.py")) if p.parent != ROOT or p.stem != "__init__"
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = room_of(path)
    assert room in ORDER
    for other in imported_rooms(path):
        assert ORDER.index(other) <= ORDER.index(room), f"{room} imports {other}"


# The names of Keras and TensorFlow that begin with an underscore, and who uses them.
# Tests say when a new version changes one: here, in test_copier.py, in test_workers.py.
PRIVATE = {
    "distribute/workers.py": {"_maybe_symbolic_build", "_symbolic_build"},
    "graph/nodes.py": {"_functional", "_nodes_by_depth"},
    "layers/tracking.py": {
        *("_delete_tracking", "_flatten_layers", "_initialize", "_initializer"),
        *("_ndim", "_path", "_shape", "_track_trackable", "_tracker"),
        "_value",
    },
    "scoring/inferred_loss.py": {"_keras_history"},
    "scoring/objective.py": {
        *("_compile_loss", "_user_loss", "_user_loss_weights"),
    },
    "surgery/copier.py": {
        *("_flatten_layers", "_initialize", "_inputs_struct", "_iterations"),
        *("_non_trainable_variables", "_operations", "_outputs_struct"),
        *("_learning_rate", "_tracker", "_trainable_variables", "_variables"),
        "_trainable_variables_indices",
    },
    "sparse/conditions.py": {"_get_control_flow_context", "_getframe"},
    "surgery/python_objects.py": {"_clone"},
    # Those of Keras 2, which changes no more.
    "tfmot/graphs.py": {
        *("_keras_history", "_nested_inputs", "_nested_outputs"),
        *("_nodes_by_depth", "_outputs_struct", "_callable_losses"),
    },
    "tfmot/quantize.py": {"_non_trainable_weights", "_trainable_weights"},
}
OURS = {"_asdict", "_fields", "_replace", "_attribute", "_wrapper", "_memo"}
OURS |= {"_object", "_other", "_share"}  # methods of the copier
OURS |= {"_masked_call"}


def private_names(path):
    """Attributes with an underscore that are read of something else than `self`."""
    attributes = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)
    ]
    private = {
        n.attr
        for n in attributes
        if re.match("_[a-z]", n.attr) and ast.unparse(n.value) not in ("self", "cls")
    }
    return private - OURS


def test_private_keras_api_is_used_in_one_place_each():
    found = {str(p.relative_to(ROOT)): private_names(p) for p in FILES}
    assert {path: names for path, names in found.items() if names} == PRIVATE
    pattern = re.compile(r"keras\.src|tensorflow\.python")
    users = {p.name for p in FILES if pattern.search(p.read_text())}
    # conditions.py only compares names of modules.
    assert users == {"copier.py", "objective.py", "conditions.py", "estimate.py"}


def test_keras_keeps_the_names_under_which_it_notes_what_attributes_hold():
    import keras
    import tensorflow as tf

    from keras_prune_init.layers.walk import BOOKKEEPING, held

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    tf.train.Checkpoint(model=model)
    names = {name for layer in (model, *model.layers) for name in vars(layer)}
    seen = {"_layers", "_inbound_nodes", "_outbound_nodes", "_trainable_variables"}
    assert seen <= names & BOOKKEEPING
    # What is not in the list, and holds layers or variables, is a user's attribute.
    kinds = keras.layers.Layer, keras.Variable
    others = {
        key[0] for v in (model, *model.layers) for k in kinds for key, _ in held(v, k)
    }
    assert others == {"_kernel", "bias", "_functional"}


def test_keras_asks_the_signature_of_build_and_dir_of_what_it_saves():
    import inspect

    import keras
    from keras.src.saving import saving_lib

    class Own(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.build.__signature__ = inspect.signature(lambda a_shape, b_shape: None)

        def build(self, *args, **shapes):
            self.given = shapes

        def call(self, a, b):
            return a + b

    layer = Own()
    layer(keras.ops.ones((2, 3)), keras.ops.ones((2, 3)))
    assert layer.given == {"a_shape": (2, 3), "b_shape": (2, 3)}
    assert "dir(" in inspect.getsource(saving_lib._walk_saveable)
    optimizer = keras.optimizers.Optimizer
    names = inspect.signature(optimizer.add_variable_from_reference).parameters
    assert "reference_variable" in names


def test_keras_keeps_what_the_objective_uses():
    import keras
    from keras.src.backend import get_keras_mask, set_keras_mask
    from keras.src.losses import loss as keras_loss
    from keras.src.trainers.compile_utils import CompileLoss

    inputs = keras.Input((2,))
    layer = keras.layers.Dense(1, kernel_regularizer="l2")
    model = keras.Model(inputs, layer(inputs))
    assert model._compile_loss is None
    model.compile(loss=["mse"], loss_weights=[2.0])
    held = model._compile_loss
    assert isinstance(held, CompileLoss)
    assert (held._user_loss, held._user_loss_weights) == (["mse"], [2.0])
    held.build(inputs, model.outputs[0])
    assert held._flat_losses[0].loss._dtype == held._dtype == "float32"
    assert held._metrics == []  # of one loss
    assert callable(model._aggregate_additional_loss)
    assert layer.kernel._regularizer is layer.kernel_regularizer
    assert "scale_loss_for_distribution" in keras_loss.reduce_values.__code__.co_names
    tensor = keras.ops.ones((2,))
    set_keras_mask(tensor, True)
    assert get_keras_mask(tensor) is True
    operation, call, output = model.outputs[0]._keras_history
    assert (operation, call, output) == (layer, 0, 0)


def test_keras_keeps_the_nodes_that_graphs_are_read_from():
    import keras

    x = keras.Input((3,))
    y = keras.layers.Dense(2)(x)
    model = keras.Model(x, y)
    [first], [second] = (model._nodes_by_depth[depth] for depth in (1, 0))
    assert first.outputs[0] is model.inputs[0]
    assert second.operation is model.layers[1]
    assert second.arguments.keras_tensors[0] is model.inputs[0]
    assert second.arguments.args[0] is model.inputs[0]
    assert second.outputs[0] is model.outputs[0]
    chain = keras.Sequential([x, keras.layers.Dense(2)])
    assert chain._functional.inputs[0] is chain.inputs[0]


def test_keras_keeps_the_names_that_the_table_of_layers_has():
    import keras

    layer = keras.layers.GroupQueryAttention(2, 4, 2, use_gate=True)
    layer.build((None, 3, 4), (None, 3, 4))
    names = ("_query_dense", "_key_dense", "_value_dense", "_output_dense")
    for name in (*names, "_gate_dense"):
        assert isinstance(getattr(layer, name), keras.layers.EinsumDense)
    layer = keras.layers.SpectralNormalization(keras.layers.Dense(3))
    layer.build((None, 2))
    assert layer.kernel is layer.layer.kernel
    assert {id(v) for v in layer.variables} >= {id(layer.vector_u)}
    assert [tuple(v.shape) for v in layer.normalized_weights()] == [(1, 3), (2, 3)]


def test_tensorflow_says_what_xla_will_compile():
    import tensorflow as tf

    from keras_prune_init.sparse.conditions import _in_xla

    seen = []

    def inner(x):
        seen.append(_in_xla(tf.compat.v1.get_default_graph()))
        return x + 1

    def outer(x):
        return tf.function(inner)(x)

    for function in (inner, outer):
        for compiled in (False, True):
            tf.function(function, jit_compile=compiled)(tf.zeros(2))
    assert seen == [False, True, False, True]


@pytest.mark.parametrize(
    ("place", "name", "value", "message"),
    [
        ("keras", "__version__", "3.14.1", "needs Keras 3.15 or newer"),
        ("keras.backend", "backend", lambda: "jax", "TensorFlow backend"),
    ],
)
def test_an_unsupported_keras_fails_on_import(place, name, value, message, monkeypatch):
    """Before any other module of the package is imported, as if for the first time."""
    ours = [m for m in sys.modules if m.split(".")[0] == "keras_prune_init"]
    for module in ours:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys.modules[place], name, value)
    with pytest.raises(ImportError, match=message):
        importlib.import_module("keras_prune_init")
    left = {m for m in sys.modules if m.split(".")[0] == "keras_prune_init"}
    assert left <= {"keras_prune_init._compatibility"}
