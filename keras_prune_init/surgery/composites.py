"""How layers and models of users that hold masked or other new layers are saved.

The constructor of such a class makes ordinary layers. So the config of a saved model
says which of them were replaced, and these are replaced again when it is loaded.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import TypeAlias

import keras
from absl import logging

from keras_prune_init.layers import tracking
from keras_prune_init.layers.masked import PACKAGE, MaskedLayer
from keras_prune_init.layers.stand_in import refuse_quantization
from keras_prune_init.layers.walk import (
    Address,
    children,
    flatten,
    is_composite,
    is_graph,
    walk,
)
from keras_prune_init.surgery import exchange
from keras_prune_init.surgery.copier import Copier

Layer: TypeAlias = keras.layers.Layer


def remember_masks(model: Layer) -> None:
    """Let a model, and composites in it, save which of their layers are masked.

    Composites in which none is masked any more get their own class again.
    """
    masked = exchange.masked_layers(model)
    for layer in masked:
        refuse_quantization(layer.layer, layer.name)
    if masked:  # or `quantize` would get as far as the first masked layer
        refuse_quantization(model, model.name)
    for composite in _outermost(model, lambda layer: isinstance(layer, MaskedLayer)):
        _save_as(MaskedComposite, composite)
    for layer in flatten(model):
        if isinstance(layer, MaskedComposite) and not exchange.masked_layers(layer):
            layer.__class__ = layer.original


def remember_layers(model: Layer, addresses: Iterable[Address]) -> None:
    """Let composites in a model save the layers that took the places of others."""
    layers = dict(walk(model, composites=True))
    new = {id(layers[address]) for address in addresses}
    for composite in _outermost(model, lambda layer: id(layer) in new):
        _save_as(ChangedComposite, composite)
        places = vars(composite).setdefault("_places", [])
        for address, layer in walk(composite, composites=True):
            inside = any(address[: len(place)] == place for place in places)
            if id(layer) in new and not inside:
                places.append(address)


def _save_as(mixin, composite):
    """Let a composite be saved in the way of a mixin, with all that it holds."""
    if not isinstance(composite, mixin):
        composite.__class__ = _subclass(mixin, type(composite))
    for layer in flatten(composite):
        if is_composite(layer):
            items = children(layer)
            tracking.track_items(layer, {"_".join(k): v for k, v in items if k[1:]})


def remember_graphs(model: Layer, new: Layer) -> None:
    """Let a copy with another graph be saved with that graph."""
    if _size(model) != _size(new):
        for layer in flatten(new):
            if is_graph(layer) and not _saves_its_layers(layer):
                made = _subclass(RebuiltGraph, type(layer))  # type: ignore[arg-type]
                layer.__class__ = made


def _size(model):
    return len(list(flatten(model))), model.count_params()


def _outermost(layer: Layer, changed: Callable[[Layer], bool]):
    """Yield the composites that hold changed layers and are in no other composite."""
    held = (v for _, v in walk(layer, composites=True))
    if changed(layer) or not any(map(changed, held)):
        return
    if _saves_its_layers(layer):
        for _, child in children(layer):
            yield from _outermost(child, changed)
    else:
        yield layer


def _saves_its_layers(layer):
    """Whether Keras makes a layer from the configs of the layers in it."""
    if not is_graph(layer):
        return False
    kind = type(layer)
    arguments = inspect.getfullargspec(kind.__init__)
    plain = arguments.args[1:3] == ["inputs", "outputs"]
    plain = plain or bool(arguments.varargs and arguments.varkw)
    definer = next(c for c in kind.__mro__ if "get_config" in vars(c))
    by_keras = definer.__module__.startswith("keras.")
    return by_keras and (plain or isinstance(layer, keras.Sequential))


@functools.cache
def _subclass(mixin: type, original: type) -> type:
    # Under the name that it has, as it is the same class to the user.
    body = {"original": original, "__doc__": original.__doc__}
    body |= {k: getattr(original, k) for k in ("__module__", "__qualname__")}
    made = type(original.__name__, (mixin, original), body)
    register = keras.saving.register_keras_serializable(PACKAGE, mixin.__name__)
    register(made)
    register(mixin)  # the name must load where `made` was never made
    return made


class _Mixin:
    """Base of what is added to a user's class, which is then `original`."""

    original: type

    def __init_subclass__(cls, **arguments):
        """Skip the hook of the user's class, which may want arguments."""


def original_class(layer: Layer) -> type:
    """Return the class that a layer had before anything was added to it."""
    kind = type(layer)
    while issubclass(kind, (MaskedComposite, ChangedComposite)):
        kind = kind.original
    return kind


@keras.saving.register_keras_serializable(PACKAGE)
class RebuiltGraph(_Mixin):
    """Mixin for models whose graph is not the one that their constructor makes.

    They are loaded as plain Functional models.
    """

    def get_config(self):
        logging.warning("%s is saved as a plain Functional model.", self.name)
        graph = keras.Model(self.input, self.output, name=self.name)
        config = keras.saving.serialize_keras_object(graph)
        return {"graph": config, "class_name": self.original.__name__}

    @classmethod
    def from_config(cls, config):
        graph = keras.saving.deserialize_keras_object(config["graph"])
        # Keras files weights under the name of the class.
        kind = type(config["class_name"], (type(graph),), {})
        graph.__class__ = _subclass(RebuiltGraph, kind)
        return graph


@keras.saving.register_keras_serializable(PACKAGE)
class MaskedComposite(_Mixin):
    """Mixin for user-written layers and models that hold `MaskedLayer`s."""

    def get_config(self):
        masked_layers = [
            [list(address), exchange.options_of(layer)]
            for address, layer in walk(self)
            if isinstance(layer, MaskedLayer)
        ]
        return {"layer": _as_made(self), "masked": masked_layers}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        options = {tuple(address): v for address, v in config["masked"]}
        # What the constructor was given may be masked already.
        plain = {
            id(child): options[address]
            for address, child in walk(layer)
            if address in options and not isinstance(child, MaskedLayer)
        }
        layer = Copier(layer, exchange.masking(plain))(layer)
        remember_masks(layer)
        return layer


@keras.saving.register_keras_serializable(PACKAGE)
class ChangedComposite(_Mixin):
    """Mixin for user-written layers and models that hold layers in place of others."""

    def get_config(self):
        layers = dict(walk(self, composites=True))
        replaced = [
            [list(place), keras.saving.serialize_keras_object(layers[place])]
            for place in vars(self)["_places"]
        ]
        return {"layer": _as_made(self), "replaced": replaced}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        saved = {tuple(place): v for place, v in config["replaced"]}
        new = {
            id(child): saved[place]
            for place, child in walk(layer, composites=True)
            if place in saved
        }

        def change(child, copier):
            found = new.get(id(child))
            return found and keras.saving.deserialize_keras_object(found)

        layer = Copier(layer, change)(layer)
        remember_layers(layer, saved)
        return layer


def _as_made(composite):
    """Return what Keras saves of a composite, as its constructor makes it."""
    original, mixed = composite.original, type(composite)
    try:
        # As Keras asks of a class whether it has a `get_config` of its own.
        composite.__class__ = original
        config = composite.get_config()
    except Exception as e:
        first_line = str(e).strip().partition("\n")[0]
        raise NotImplementedError(
            f"Keras cannot save a `{original.__name__}` in a .keras file, as its "
            f"`get_config` fails ({first_line}); use `save_weights` or "
            "`tf.train.Checkpoint`, or let the class implement `get_config`."
        ) from e
    finally:
        composite.__class__ = mixed
    return {
        "module": original.__module__,
        "class_name": original.__name__,
        "registered_name": keras.saving.get_registered_name(original),
        "config": config,
        "build_config": composite.get_build_config(),
    }
