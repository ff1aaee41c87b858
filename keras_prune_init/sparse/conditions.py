"""Where products with kept weights only can run; elsewhere layers compute as compact.

The compiled loops run in this process, on its processors. XLA, accelerators and files
for other programs get the operations of the compact layout, which all of them know.
"""

from __future__ import annotations

import functools
import os
import sys

import tensorflow as tf
from absl import logging

INSTALL = "pip install 'keras_prune_init[sparse]'"
# Modules that call a model in order to write it into a file.
WRITERS = (
    *("keras.src.export.", "tensorflow.python.saved_model.", "tensorflow.lite."),
    *("tf2onnx.", "coremltools."),
)
# Strategies whose steps run in other processes, or on a TPU.
ELSEWHERE = ("TPUStrategy", "ParameterServerStrategy")


_forked: list[bool] = []
if hasattr(os, "register_at_fork"):  # which Windows has not
    os.register_at_fork(after_in_child=lambda: _forked.append(True))


@functools.cache
def missing() -> str:
    """Return why numba cannot be imported, or an empty text."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            return f"numba is not installed. Install it: {INSTALL}"
        return f"numba cannot be imported: {error}"
    return ""


def check_installed() -> None:
    """Raise an ImportError unless numba is there."""
    if missing():
        raise ImportError(
            "The layout 'sparse' computes with numba. Received: layout='sparse', and "
            + missing()
        )


def can_run() -> bool:
    """Whether what is called now can use compiled loops; if not, say once why."""
    reason = _obstacle()
    if reason:
        _say(reason)
    return not reason


@functools.cache  # each reason once in a process
def _say(reason):
    logging.warning("Layers in the layout 'sparse' compute as 'compact': %s.", reason)


def _obstacle():
    """Return why compiled loops cannot run here, or an empty text."""
    if missing():
        return missing()
    if _switched_off():
        return "NUMBA_DISABLE_JIT switches numba's compiler off"
    if _forked:
        return "this process is a fork, without the threads of the first"
    devices = {d.device_type for d in tf.config.get_visible_devices()} - {"CPU"}
    if devices:
        return f"TensorFlow uses a {', '.join(sorted(devices))}"
    strategy = type(tf.distribute.get_strategy()).__name__
    if strategy.startswith(ELSEWHERE):
        return f"{strategy} does not compute in this process"
    if tf.executing_eagerly():
        return ""
    if _in_xla(tf.compat.v1.get_default_graph()):
        return "XLA cannot call them"
    return "the model is written into a file" if _writes_a_file() else ""


def _switched_off():
    import numba

    return bool(numba.config.DISABLE_JIT)


def _in_xla(graph):
    """Whether a graph, or one around it, will be compiled by XLA."""
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False


def _writes_a_file():
    """Whether a function that exports models is under way in this thread."""
    frame = sys._getframe()
    while frame is not None:
        if f"{frame.f_globals.get('__name__')}.".startswith(WRITERS):
            return True
        frame = frame.f_back
    return False
