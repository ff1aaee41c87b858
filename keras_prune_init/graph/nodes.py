"""The calls that Keras noted when a Sequential or Functional model was made.

Only this module reads Keras's nodes, which are private. A config has the same
information, but not for models with constructors of their own or for layers without
`get_config`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

Shape = tuple[int | None, ...]
# Position of the call that made a tensor, and which of its outputs it is.
Source = tuple[int, int]


class Call(NamedTuple):
    """One call of a layer or operation.

    Attributes:
        operation: What was called; an `InputLayer` for an input of the model.
        sources: Where its tensor arguments come from, in the order of its signature.
        given: The shapes of these arguments.
        made: The shapes of what it returned.
    """

    operation: Any
    sources: tuple[Source, ...]
    given: tuple[Shape, ...]
    made: tuple[Shape, ...]


class Calls(NamedTuple):
    """The calls of a model; each comes after the calls whose results it takes.

    Attributes:
        calls: All calls.
        inputs: Positions of the calls that stand for `model.inputs`, in the same order.
        outputs: The places where `model.outputs` are made, in the same order.
    """

    calls: list[Call]
    inputs: list[int]
    outputs: list[Source]


def calls_of(model: keras.Model) -> Calls | None:
    """Return the calls of a Functional model, or of a Sequential one with known shapes.

    Returns:
        `None` for a Sequential model whose shapes Keras does not know. It is a chain.
    """
    if isinstance(model, keras.Sequential):
        model = model._functional
        if model is None:
            return None
    nodes = list(in_order(model))
    made = {id(t): (i, k) for i, n in enumerate(nodes) for k, t in enumerate(n.outputs)}
    calls = []
    for node in nodes:
        # The inputs of a model may be outputs of layers outside of it.
        tensors = [t for t in _arguments(node) if id(t) in made]
        calls.append(
            Call(
                node.operation,
                tuple(made[id(t)] for t in tensors),
                tuple(tuple(t.shape) for t in tensors),
                tuple(tuple(t.shape) for t in node.outputs),
            )
        )
    return Calls(
        calls,
        [made[id(t)][0] for t in model.inputs],
        [made[id(t)] for t in model.outputs],
    )


def in_order(model: keras.Function) -> Iterator[Any]:
    """Yield Keras's own nodes of a Functional model, in the order they are run."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def _arguments(node):
    """Return the tensors that a call was given; a nested model may get them by name."""
    tensors = node.arguments.keras_tensors
    first = next(iter(node.arguments.args), None)
    inputs = getattr(node.operation, "inputs", None)
    by_name = isinstance(first, dict) and isinstance(node.operation, keras.Model)
    if by_name and inputs and not isinstance(node.operation.input, dict):
        return [first[t.name] for t in inputs]
    return tensors
