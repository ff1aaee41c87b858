"""Prune Keras networks before training: SNIP, GraSP, SynFlow and the theory behind."""

from keras_prune_init.compatibility import check as _check

_check()

from keras_prune_init import models  # noqa: E402
from keras_prune_init.api import prune_at_init, score  # noqa: E402
from keras_prune_init.core.allocation import critical_sparsity, select  # noqa: E402
from keras_prune_init.core.compact import CompactLayer  # noqa: E402
from keras_prune_init.core.cost import CostReport, cost  # noqa: E402
from keras_prune_init.core.kinds import register_layer  # noqa: E402
from keras_prune_init.core.layers import MaskedLayer  # noqa: E402
from keras_prune_init.core.layouts import to_layout  # noqa: E402
from keras_prune_init.core.report import PruningReport, report  # noqa: E402
from keras_prune_init.core.shrinking import (  # noqa: E402
    ShrinkReport,
    shrink,
    shrink_report,
)
from keras_prune_init.core.surgery import enable_workers, strip  # noqa: E402
from keras_prune_init.export.mobile import MobileReport, mobile_check  # noqa: E402
from keras_prune_init.export.report import ExportReport  # noqa: E402
from keras_prune_init.export.tflite import export_tflite  # noqa: E402
from keras_prune_init.methods import (  # noqa: E402
    Method,
    get_method,
    method_names,
    register_method,
)
from keras_prune_init.signal import initializers, mean_field  # noqa: E402
from keras_prune_init.signal.isometry import (  # noqa: E402
    approximate_isometry,
    singular_values,
)
from keras_prune_init.signal.report import SignalReport, signal_report  # noqa: E402
from keras_prune_init.signal.rescaling import rescale  # noqa: E402
from keras_prune_init.signal.stable import stabilize  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "CompactLayer",
    "CostReport",
    "ExportReport",
    "MaskedLayer",
    "MobileReport",
    "Method",
    "PruningReport",
    "ShrinkReport",
    "SignalReport",
    "approximate_isometry",
    "cost",
    "critical_sparsity",
    "enable_workers",
    "export_tflite",
    "get_method",
    "initializers",
    "mean_field",
    "method_names",
    "mobile_check",
    "models",
    "prune_at_init",
    "register_layer",
    "register_method",
    "report",
    "rescale",
    "score",
    "select",
    "shrink",
    "shrink_report",
    "signal_report",
    "singular_values",
    "stabilize",
    "strip",
    "to_layout",
]
