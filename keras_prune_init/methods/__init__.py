"""The saliency methods by name: a new one is a file, an import and a line here."""

from __future__ import annotations

import difflib

from keras_prune_init.methods.base import DataMethod as DataMethod
from keras_prune_init.methods.base import Method as Method
from keras_prune_init.methods.base import Recipe as Recipe
from keras_prune_init.methods.grasp import GraSP as GraSP
from keras_prune_init.methods.lobs import LOBS as LOBS
from keras_prune_init.methods.magnitude import Magnitude as Magnitude
from keras_prune_init.methods.obd import OBD as OBD
from keras_prune_init.methods.obs import OBS as OBS
from keras_prune_init.methods.random import Random as Random
from keras_prune_init.methods.robust import Robust as Robust
from keras_prune_init.methods.skeleton import Skeleton as Skeleton
from keras_prune_init.methods.snip import SNIP as SNIP
from keras_prune_init.methods.stable import SBPSR as SBPSR
from keras_prune_init.methods.stable import GraSPSR as GraSPSR
from keras_prune_init.methods.synflow import SynFlow as SynFlow

_METHODS: dict[str, type[Method]] = {
    "random": Random,
    "magnitude": Magnitude,
    "snip": SNIP,
    "sbp": SNIP,
    "grasp": GraSP,
    "hbp": GraSP,
    "synflow": SynFlow,
    "sbp_sr": SBPSR,
    "grasp_sr": GraSPSR,
    "robust": Robust,
    "obd": OBD,
    "obs": OBS,
    "lobs": LOBS,
    "skeleton": Skeleton,
}


def method_names() -> list[str]:
    """Return the method names that `prune_at_init` and `get_method` know.

    They are in the order in which they were registered. `"sbp"` is another name for
    `"snip"`, and `"hbp"` for `"grasp"`.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.method_names()[:4]
    ['random', 'magnitude', 'snip', 'sbp']
    """
    return list(_METHODS)


def register_method(name: str, cls: type[Method]) -> None:
    """Give a method of your own a name, for `prune_at_init` and the training binary.

    Args:
        name: A name that is not taken.
        cls: A subclass of `Method`.

    Raises:
        ValueError: If the name is taken, or `cls` is no subclass of `Method`.

    Example:

    >>> import keras_prune_init as kpi
    >>> class Smallest(kpi.methods.Magnitude):
    ...     def scores(self, network, weights):
    ...         return [-s for s in super().scores(network, weights)]
    >>> kpi.register_method("smallest", Smallest)
    >>> type(kpi.get_method("smallest")).__name__
    'Smallest'
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"A method must have a name. Received: name={name!r}. Pass text, such as "
            "'mine'."
        )
    if name in _METHODS:
        raise ValueError(
            f"A method name can be registered once. Received: name={name!r}, which is "
            f"{_METHODS[name].__name__}. Choose another name."
        )
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ValueError(
            "`cls` must be a subclass of keras_prune_init.Method. "
            f"Received: cls={cls!r}. Pass the class, not an object."
        )
    _METHODS[name] = cls


def get_method(name: str | Method, **options) -> Method:
    """Make a method object from its name.

    Args:
        name: One of `method_names()`, or a `Method` object, which is returned as it is.
        **options: Arguments of its constructor, such as `iterations` or `batch_norm`.

    Returns:
        A `Method` object.

    Raises:
        ValueError: If there is no method of this name, or it has no such option.

    Example:

    >>> import keras_prune_init as kpi
    >>> method = kpi.get_method("grasp", temperature=1.0, batch_norm="eval")
    >>> type(method).__name__, method.temperature
    ('GraSP', 1.0)
    """
    if isinstance(name, Method):
        if options:
            raise ValueError(
                "Options go to the constructor of a method object. "
                f"Received: {sorted(options)} beside a {type(name).__name__} object. "
                "Make the object with them."
            )
        return name
    if not isinstance(name, str) or name not in _METHODS:
        hint = "Choose one of them."
        if isinstance(name, type):
            hint = f"Write {name.__name__}()."
        elif near := difflib.get_close_matches(str(name).lower(), _METHODS, 1, 0.4):
            hint = f"Did you mean {near[0]!r}?"
        raise ValueError(
            f"`method` must be a Method object or one of {method_names()}. "
            f"Received: method={name!r}. {hint}"
        )
    try:
        return _METHODS[name](**options)
    except TypeError as e:
        raise ValueError(
            f"Method {name!r} does not take these options. Received: {options}, and "
            f"Python says: {e}. Leave out what it does not have."
        ) from None
