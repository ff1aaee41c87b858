"""How layers and models of all kinds are copied, with other layers in them.

Sequential and Functional models are cloned through Keras. User-written layers and
models (composites) are copied through their config, and the attributes of the copy
that hold the layers in question are exchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import keras

from keras_prune_init.core import selection
from keras_prune_init.core.compact import CompactLayer
from keras_prune_init.core.layers import PACKAGE, MaskedLayer
from keras_prune_init.core.leaves import copy_leaf
from keras_prune_init.core.selection import Address

Layer = keras.layers.Layer

LAYOUTS = {"masked": MaskedLayer, "compact": CompactLayer}


def masked_layers(model: keras.Model) -> list[MaskedLayer]:
    """The `MaskedLayer`s of a model, each once, in definition order."""
    return [v for _, v in selection.walk(model) if isinstance(v, MaskedLayer)]


def copy(layer, wrap, dtype=None, change=None, call=None):
    """Copy a layer or model.

    `wrap` gives the arguments of `MaskedLayer`s by address below `layer`; `change`
    makes what takes the place of a layer that is there already, such as `folded`, or
    returns `None`. `call(model, layer, *args, **kwargs)` connects the copied layers of
    a Functional model; `model` is what they are copied from.
    """
    if selection.is_graph(layer):
        return _copy_graph(layer, wrap, dtype, change, call)
    if change and (new := change(layer)) is not None:
        return new
    if () in wrap:
        options = wrap[()]
        new = copy_leaf(layer, dtype, options["kernels"], _is_stored(options))
        return _masked(new, options)
    new = copy_leaf(layer, dtype)
    if wrap:
        return MaskedComposite.adopt(new, wrap)
    if change and isinstance(new, MaskedComposite):
        new.change(change)
    return new


def _copy_graph(model, wrap, dtype, change, call):
    keys = {id(child): key for key, child in selection.children(model)}

    def clone(child):
        return copy(child, _below(wrap, keys.get(id(child))), dtype, change, call)

    options = {}
    if call and not isinstance(model, keras.Sequential):
        options["call_function"] = functools.partial(call, model)
    new = keras.models.clone_model(model, clone_function=clone, **options)
    if not model.trainable:
        new.trainable = False
    return new


def _below(wrap, key):
    if not wrap or key is None:
        return {}
    return {a[len(key) :]: v for a, v in wrap.items() if a[: len(key)] == key}


def _masked(layer, options):
    options = dict(options)
    masked = LAYOUTS[options.pop("layout")](layer, **options)
    if layer.built:
        masked.build()
    return masked


def _options(layer, counts=None):
    """The arguments that make a wrapper like this one, around another layer."""
    [layout] = (name for name, cls in LAYOUTS.items() if type(layer) is cls)
    options = {"layout": layout, "kernels": list(layer.kernels), "note": layer.note}
    if layout == "compact":
        options["counts"] = dict(layer.counts) if counts is None else counts
    return options


def _is_stored(options):
    return options["layout"] == "masked"


def folded(layer: Layer) -> Layer | None:
    """The ordinary layer that computes the same as a masked one."""
    if not isinstance(layer, MaskedLayer):
        return None
    new = copy_leaf(layer.layer, None, layer.kernels)
    for name in layer.kernels:
        selection.get_kernel(new, name).assign(layer.masked_kernel(name))
    return new


def wrapped_like(masked: MaskedLayer, layer: Layer) -> MaskedLayer:
    """A layer in a wrapper as another has it, which removes nothing yet."""
    return _masked(layer, _options(masked, counts={}))


def converted(layer: Layer, layout: str) -> MaskedLayer | None:
    """The same masked layer in a layout."""
    if not isinstance(layer, MaskedLayer):
        return None
    options = {"layout": layout, "kernels": layer.kernels, "note": layer.note}
    inner = copy_leaf(layer.layer, None, layer.kernels, _is_stored(options))
    new = _masked(inner, options)
    for name in layer.kernels:
        new.install(name, layer.kept_mask(name), layer.kernel_value(name))
        new.scales[name].assign(layer.scales[name].value)
    return new


@functools.cache
def _composite_class(original: type) -> type:
    name = f"Masked{original.__name__}"
    masked = type(name, (MaskedComposite, original), {"original": original})
    register = keras.saving.register_keras_serializable(PACKAGE, "MaskedComposite")
    register(masked)
    register(MaskedComposite)  # the name must load where `masked` was never made
    return masked


@keras.saving.register_keras_serializable(PACKAGE)
class MaskedComposite:
    """Mixin for user-written layers and models that hold `MaskedLayer`s.

    The constructor of such a class makes ordinary layers. So that a saved model
    loads as it was, the config notes which of them were masked, and they are
    exchanged again as soon as the state is built.
    """

    @staticmethod
    def adopt(layer: Layer, wrap: Mapping[Address, dict]) -> Layer:
        """Mask kernels inside `layer`, in place, and have it remember that."""
        config = keras.saving.serialize_keras_object(layer)
        keep = ("module", "class_name", "config", "registered_name")
        # Past Keras, which would wrap the dicts and track what is in them.
        object.__setattr__(layer, "_plain_config", {k: config[k] for k in keep})
        object.__setattr__(layer, "_masked_options", dict(wrap))
        layer.__class__ = _composite_class(type(layer))
        if layer.built:
            layer._mask()
        else:
            object.__setattr__(layer, "build", _then(layer.build, layer._mask))
        return layer

    def _mask(self):
        _exchange(self, self._masked_options, _masked_child, {})

    def change(self, change: Callable[[MaskedLayer], Layer]) -> None:
        """Exchange masked layers for others, in place; `folded` undoes `adopt`."""
        _exchange(self, {}, lambda child, _: _changed_child(child, change), {})
        if change is folded:
            object.__delattr__(self, "_masked_options")
            self.__class__ = self.original

    def get_config(self):
        layers = dict(selection.walk(self)) if self.built else {}
        options = {
            address: _options(layers[address]) if address in layers else known
            for address, known in self._masked_options.items()
        }
        masked = [[list(a), options] for a, options in options.items()]
        return {"layer": self._plain_config, "masked": masked}

    @classmethod
    def from_config(cls, config):
        known = {c.__name__: c for c in cls._originals()}
        with keras.saving.custom_object_scope(known):
            layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls.adopt(layer, {tuple(a): v for a, v in config["masked"]})

    @classmethod
    def _originals(cls):
        return [c.original for c in MaskedComposite.__subclasses__()]

    def build_from_config(self, config):
        # Of a model this may build the layers by running `call`, without `build`.
        super().build_from_config(config)
        self._mask()


def _then(function, after):
    @functools.wraps(function)
    def both(*args, **kwargs):
        function(*args, **kwargs)
        after()

    return both


def _masked_child(child, wrap):
    if () in wrap:
        done = isinstance(child, MaskedLayer)
        return child if done else _masked(child, wrap[()])
    graph = wrap and selection.is_graph(child) and not masked_layers(child)
    return copy(child, wrap) if graph else child


def _changed_child(child, change):
    graph = selection.is_graph(child) and masked_layers(child)
    masked = graph or isinstance(child, MaskedLayer)
    return copy(child, {}, change=change) if masked else child


def _exchange(layer, wrap, replace: Callable, done: dict[int, Layer]):
    """Exchange layers inside a composite, in place, each shared one for one other."""
    for key, child in selection.children(layer):
        inside = _below(wrap, key)
        if id(child) not in done:
            # The old layer is kept too, or another could get its id.
            done[id(child)] = replace(child, inside), child
        new = done[id(child)][0]
        if new is not child:
            _set_child(layer, key, child, new)
        elif selection.is_composite(child):
            _exchange(child, inside, replace, done)
    for key, child in selection.children(layer):
        if len(key) > 1:
            # tf.train.Checkpoint does not look into the lists and dicts of Keras.
            layer._track_trackable(child, "_".join(key), overwrite=True)


def _set_child(layer, key, old, new):
    """The one use of private Keras API: a built layer takes no other sublayers."""
    tracker = layer._tracker
    if tracker.is_in_store("layers", old):
        tracker.replace_tracked_value("layers", old, new)
    name, *rest = key
    setattr(layer, name, _with_item(getattr(layer, name), rest, new))


def _with_item(value, key, new):
    if not key:
        return new
    first, *rest = key
    if isinstance(value, dict):
        return {
            k: _with_item(v, rest, new) if str(k) == first else v
            for k, v in value.items()
        }
    items = [
        _with_item(v, rest, new) if str(i) == first else v for i, v in enumerate(value)
    ]
    return tuple(items) if isinstance(value, tuple) else items
