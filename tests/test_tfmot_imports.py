"""Keras 3, Keras 2, tfmot and KerasCV in one process, in every order of imports."""

import os
import subprocess
import sys

import pytest

KPI = "import keras_prune_init as kpi"
TFMOT = "import tensorflow_model_optimization as tfmot"
CV = "import keras_cv"
WORK = """
import tf_keras
model = kpi.models.mlp((4,), classes=2, depth=2, width=8)
old = kpi.tfmot.from_keras3(model)
pruned = kpi.tfmot.prune_at_init(old, method="magnitude", sparsity=0.5)
assert type(pruned.layers[-1]).__name__ == "PruneLowMagnitude"
quantized = kpi.tfmot.quantize_aware(pruned)
assert quantized.layers[-1].name == "quant_logits"
"""
BACKBONE = """
backbone = keras_cv.models.ResNetV2Backbone(
    stackwise_filters=[8, 16], stackwise_blocks=[2, 2], stackwise_strides=[1, 2],
    input_shape=(16, 16, 3), include_rescaling=False,
)
assert kpi.report(kpi.prune_at_init(backbone, method="magnitude")).sparsity > 0.8
"""


def run(*lines):
    # Other tests may have imported tfmot, which sets the first one.
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("order", [(KPI, TFMOT, CV), (CV, TFMOT, KPI)], ids=str)
def test_all_work_together(order):
    done = run(*order, WORK, BACKBONE)
    assert done.returncode == 0, done.stderr[-2000:]


def test_keras_cv_after_a_tfmot_that_came_first_says_what_to_import_first():
    make = "from keras_prune_init.train import networks"
    use = "networks.make('keras_cv:ResNetV2Backbone', (16, 16, 3), 2)"
    # What came before KerasCV works.
    done = run(TFMOT, KPI, WORK, make, use)
    assert "before tensorflow_model_optimization" in done.stderr.splitlines()[-1]


def test_tfmot_is_imported_late_and_if_it_is_missing_the_error_says_what_to_install():
    hide = "import sys; sys.modules['tensorflow_model_optimization'] = None"
    late = "assert 'tf_keras' not in sys.modules"
    done = run(hide, KPI, late, "kpi.tfmot.quantize_aware(None)")
    assert "pip install 'keras_prune_init[tfmot]'" in done.stderr.splitlines()[-1]
