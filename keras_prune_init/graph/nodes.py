"""The calls that Keras noted when a Sequential or Functional model was made.

Only this module reads Keras's nodes, which are private. A config has the same
information, but not for models with constructors of their own or for layers without
`get_config`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


def functional(model: keras.Model) -> keras.Function | None:
    """Return the Functional model that runs a Sequential or Functional model.

    It is `None` for a Sequential model whose shapes Keras does not know: a chain.
    """
    return model._functional if isinstance(model, keras.Sequential) else model


def in_order(model: keras.Function) -> Iterator[Any]:
    """Yield Keras's own nodes of a Functional model, in the order they are run."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def arguments(node: Any) -> list[keras.KerasTensor]:
    """Return the tensors that a call was given; a nested model may get them by name."""
    first: Any = next(iter(node.arguments.args), None)
    inputs = getattr(node.operation, "inputs", None)
    by_name = isinstance(first, dict) and isinstance(node.operation, keras.Model)
    if by_name and inputs and not isinstance(node.operation.input, dict):
        return [first[t.name] for t in inputs]
    return node.arguments.keras_tensors
