"""New weights for the layers of a model, from their own initializers.

Keras's variables forget their initializers. So each layer is made once more from its
config, and its new weights are taken.
"""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np

from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.walk import (
    children,
    flatten,
    is_builtin,
    is_composite,
    is_graph,
    walk,
)
from keras_prune_init.surgery.composites import MaskedComposite, original_class
from keras_prune_init.surgery.rebuild import preserved_random_state


def new_weights(model: keras.Model, seed: int) -> dict[int, np.ndarray]:
    """Return newly drawn values by the id of a variable of the model.

    There is one for each weight but masks, scales, and what `adapt` learned. Kernels of
    the layout `"compact"`, which are not stored, have one too. Draws depend on the seed
    and on where a layer is.

    Raises:
        ValueError: If a layer with weights cannot be made from its config.
    """
    found: dict[int, np.ndarray] = {}
    with preserved_random_state():
        for address, layer in walk(model, composites=True):
            names = layer.kernels if isinstance(layer, MaskedLayer) else ()
            layer = layer.layer if isinstance(layer, MaskedLayer) else layer
            own = _own(layer, names)
            if all(id(v) in found for v in own) or hasattr(layer, "adapt"):
                continue  # an earlier layer may hold the same weights
            # From there Keras takes the seeds of initializers that have none.
            random.seed(f"{seed} {'/'.join(address)}")
            np.random.seed(random.getrandbits(32))
            for variable, value in zip(own, _drawn(layer, own, names), strict=True):
                found.setdefault(id(variable), value)
    return found


def _own(layer, names) -> list[keras.Variable]:
    """Return the kernels of these names, then a layer's other weights.

    Of a model or composite these are only what it does not hold through other layers.
    """
    kernels = [get_kernel(layer, name) for name in names]
    others = {id(v) for v in kernels}
    if is_composite(layer) or is_graph(layer):
        others |= {id(v) for _, child in children(layer) for v in child.weights}
    return kernels + [v for v in layer.weights if id(v) not in others]


def _drawn(layer, own, names) -> list[np.ndarray]:
    """Return new values for the weights that `_own` found."""
    try:
        made = _own(_fresh(layer), names)
    except Exception as e:  # whatever the user's classes raise
        said = " ".join(str(e).strip().partition("\n\n")[0].split()).rstrip(".")
        why = f"where {type(e).__name__} is raised: {said}"
        raise _refusal(layer, why) from e
    shapes, wanted = ([tuple(v.shape) for v in vs] for vs in (made, own))
    if shapes != wanted:
        raise _refusal(layer, f"which gives weights of shapes {shapes}, not {wanted}")
    return [np.asarray(v.value) for v in made]


def _refusal(layer, why):
    return ValueError(
        "A layer must be one that can be made anew from its config, to draw its "
        f"weights. Received: `{layer.name}` ({type(layer).__name__}), {why}. Write its "
        "`get_config`, and make its weights in the constructor or in `build`."
    )


def _fresh(layer) -> keras.layers.Layer:
    """Return the layer as its constructor and `build` make it, with other draws."""
    config = keras.saving.serialize_keras_object(layer)
    if isinstance(layer, MaskedComposite):
        config = config["config"]["layer"]
    config.pop("compile_config", None)
    kinds = {original_class(v) for v in flatten(layer) if not is_builtin(v)}
    # Of this process, so code in its config (lambda) is the user's own.
    return keras.saving.deserialize_keras_object(
        _unseeded(config), {kind.__name__: kind for kind in kinds}, safe_mode=False
    )


def _unseeded(value: Any, key: str = "") -> Any:
    """Return a config in which initializers have no seed."""
    if isinstance(value, (list, tuple)):
        return type(value)(_unseeded(v, key) for v in value)
    if not isinstance(value, dict):
        return value
    value = {k: _unseeded(v, str(k)) for k, v in value.items()}
    config = value.get("config")
    initializer = "initializer" in f"{key} {value.get('module')}"
    if initializer and isinstance(config, dict) and "seed" in config:
        value["config"] = {**config, "seed": None}
    return value
