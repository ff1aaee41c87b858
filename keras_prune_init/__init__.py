"""Prune Keras networks before training: SNIP, GraSP, SynFlow and the theory behind."""

from keras_prune_init import _compatibility as _compatibility  # refuses first
from keras_prune_init import callbacks, methods, models, sanity, tfmot
from keras_prune_init.api import prune, prune_at_init, score
from keras_prune_init.channels.choosing import Channels
from keras_prune_init.channels.shrink_report import ShrinkReport, shrink_report
from keras_prune_init.channels.shrinking import shrink
from keras_prune_init.export.mobile import MobileReport, mobile_check
from keras_prune_init.export.report import ExportReport
from keras_prune_init.export.tflite import export_tflite
from keras_prune_init.factorize.factorizing import factorize
from keras_prune_init.factorize.report import FactorizeReport, factorize_report
from keras_prune_init.gates.adding import add_gates
from keras_prune_init.gates.hardening import expected_kept, harden
from keras_prune_init.gates.layer import GatedLayer
from keras_prune_init.hinge.attach import add_hinges
from keras_prune_init.hinge.merge import merge_hinges
from keras_prune_init.layers.compact import CompactLayer
from keras_prune_init.layers.masked import MaskedLayer
from keras_prune_init.layers.register import register_layer
from keras_prune_init.masks.allocation import Allocation
from keras_prune_init.masks.densities import register_allocation
from keras_prune_init.masks.patterns import Blocks, NofM
from keras_prune_init.masks.selection import critical_sparsity, select
from keras_prune_init.methods import (
    DataMethod,
    Method,
    Recipe,
    get_method,
    method_names,
    register_method,
)
from keras_prune_init.reports.cost import CostReport, cost
from keras_prune_init.reports.pruning import PruningReport, report
from keras_prune_init.rounds.history import RoundsHistory
from keras_prune_init.rounds.iterative import iterative_pruning
from keras_prune_init.scoring.network import Network
from keras_prune_init.scoring.recalibration import recalibrate
from keras_prune_init.surgery.layouts import to_layout
from keras_prune_init.surgery.rebuild import enable_workers, strip
from keras_prune_init.theory import initializers, mean_field
from keras_prune_init.theory.isometry import approximate_isometry, singular_values
from keras_prune_init.theory.rescaling import rescale
from keras_prune_init.theory.signal_report import SignalReport, signal_report
from keras_prune_init.theory.stable import stabilize

__version__ = "0.1.0"

__all__ = [
    "Allocation",
    "Blocks",
    "Channels",
    "CompactLayer",
    "CostReport",
    "DataMethod",
    "ExportReport",
    "FactorizeReport",
    "GatedLayer",
    "MaskedLayer",
    "Method",
    "MobileReport",
    "Network",
    "NofM",
    "PruningReport",
    "Recipe",
    "RoundsHistory",
    "ShrinkReport",
    "SignalReport",
    "add_gates",
    "add_hinges",
    "approximate_isometry",
    "callbacks",
    "cost",
    "critical_sparsity",
    "enable_workers",
    "expected_kept",
    "export_tflite",
    "factorize",
    "factorize_report",
    "get_method",
    "harden",
    "initializers",
    "iterative_pruning",
    "mean_field",
    "merge_hinges",
    "method_names",
    "methods",
    "mobile_check",
    "models",
    "prune",
    "prune_at_init",
    "recalibrate",
    "register_allocation",
    "register_layer",
    "register_method",
    "report",
    "rescale",
    "sanity",
    "score",
    "select",
    "shrink",
    "shrink_report",
    "signal_report",
    "singular_values",
    "stabilize",
    "strip",
    "tfmot",
    "to_layout",
]
