"""How layers and models of all kinds are copied, with other layers in them.

Sequential and Functional models are cloned through Keras. User-written layers and
models (composites) are copied through their config, and the attributes of the copy
that hold the layers in question are exchanged.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from keras_prune_init.core import selection
from keras_prune_init.core.layers import PACKAGE, MaskedLayer
from keras_prune_init.core.selection import Address

Layer = keras.layers.Layer


def masked_layers(model: keras.Model) -> list[MaskedLayer]:
    """The `MaskedLayer`s of a model, each once, in definition order."""
    return [v for _, v in selection.walk(model) if isinstance(v, MaskedLayer)]


def copy(layer, wrap, dtype=None, fold=False, call=None):
    """Copy a layer or model.

    `wrap` gives the arguments of `MaskedLayer`s by address below `layer`; with `fold`,
    masked layers become ordinary ones. `call(model, layer, *args, **kwargs)` connects
    the copied layers of a Functional model; `model` is what they are copied from.
    """
    if selection.is_graph(layer):
        return _copy_graph(layer, wrap, dtype, fold, call)
    if fold and isinstance(layer, MaskedLayer):
        return _folded(layer)
    new = _copy_leaf(layer, dtype)
    if () in wrap:
        return _masked(new, wrap[()])
    if wrap:
        return MaskedComposite.adopt(new, wrap)
    return new.release() if fold and isinstance(new, MaskedComposite) else new


def _copy_graph(model, wrap, dtype, fold, call):
    keys = {id(child): key for key, child in selection.children(model)}

    def clone(child):
        return copy(child, _below(wrap, keys.get(id(child))), dtype, fold, call)

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
    masked = MaskedLayer(layer, **options)
    if layer.built:
        masked.build()
    return masked


def _folded(layer):
    new = _copy_leaf(layer.layer)
    for name in layer.kernels:
        selection.get_kernel(new, name).assign(layer.masked_kernel(name))
    return new


def _copy_leaf(layer, dtype=None):
    try:
        with _starting_from(layer):
            new = _from_own_config(layer, dtype)
    except Exception as e:
        raise ValueError(
            "Pruning works on a copy, made of each layer's config. Received: "
            f"`{layer.name}` ({type(layer).__name__}), which cannot be made from its "
            "config. Use named functions in place of lambdas, or let the class "
            f"implement `get_config` and `from_config`. Keras says: {e}"
        ) from e
    if isinstance(layer, Layer):
        _copy_variables(layer, new)
    return new


@contextlib.contextmanager
def _starting_from(layer):
    """Variables that are made here start from those of `layer` with the same name.

    They are assigned later anyway; random values to begin with would cost more than all
    the rest of a copy.
    """
    variables = layer.variables if isinstance(layer, Layer) else []
    values = {v.name: v.value for v in variables}

    def create(next_creator, **kwargs):
        if kwargs["name"] in values and len(values) == len(variables):
            value = values[kwargs["name"]]
            kwargs["initial_value"] = tf.cast(value, kwargs["dtype"] or value.dtype)
        return next_creator(**kwargs)

    with tf.variable_creator_scope(create):
        yield


def _from_own_config(layer, dtype):
    config = layer.get_config()
    if not isinstance(layer, Layer):  # an operation of a Functional model
        return type(layer).from_config(config)
    if dtype is None:
        return _from_config(layer, config)
    # Sublayers that the constructor makes take the global policy.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        return _from_config(layer, _with_dtype(config, dtype))
    finally:
        keras.config.set_dtype_policy(policy)


def _from_config(layer, config):
    new = type(layer).from_config(config)
    if layer.built and not new.built:
        new.build_from_config(layer.get_build_config())
        # Keras leaves this to the first call, for models whose `call` builds them.
        new.built = True
    return new


def _with_dtype(config, dtype):
    if not isinstance(config, dict):
        return config
    return {
        k: dtype if k == "dtype" and v else _with_dtype(v, dtype)
        for k, v in config.items()
    }


def _copy_variables(source, target):
    shapes = [[tuple(v.shape) for v in layer.variables] for layer in (source, target)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"A copy of `{source.name}` made from its config must have the same "
            f"variables. Received: {len(shapes[0])} variables, in the copy "
            f"{len(shapes[1])}. Let `{type(source).__name__}` implement "
            "`get_config` with all constructor arguments, and `build` (or "
            "`build_from_config`) so that it creates all its state."
        )
    for old, new in zip(source.variables, target.variables, strict=True):
        new.assign(old.value)


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
        config = {
            "layer": {k: config[k] for k in keep},
            "masked": [[list(a), options] for a, options in wrap.items()],
        }
        object.__setattr__(layer, "_masked_config", config)
        layer.__class__ = _composite_class(type(layer))
        if layer.built:
            layer._mask()
        else:
            object.__setattr__(layer, "build", _then(layer.build, layer._mask))
        return layer

    def _mask(self):
        wrap = {tuple(a): options for a, options in self._masked_config["masked"]}
        _exchange(self, wrap, _masked_child, {})

    def release(self) -> Layer:
        """The opposite of `adopt`: fold all masks, in place."""
        _exchange(self, {}, _folded_child, {})
        object.__delattr__(self, "_masked_config")
        self.__class__ = self.original
        return self

    def get_config(self):
        return self._masked_config

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


def _folded_child(child, wrap):
    graph = selection.is_graph(child) and masked_layers(child)
    return (
        copy(child, {}, fold=True) if graph or isinstance(child, MaskedLayer) else child
    )


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
