"""What every test stands on: devices, threads, seeds, and fixtures for many files."""

import pathlib
import warnings
from unittest import mock

import keras
import pytest
import tensorflow as tf
from hypothesis import settings
from tensorflow.python import pywrap_tfe
from tensorflow.python.data.ops import dataset_ops

import keras_prune_init as kpi
from keras_prune_init.theory import quadrature

# Devices for strategies; everything else runs on the first one.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 4,
)
# Tests run two at a time, and what they compute is small.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
# What runs a few times only is not worth optimizing.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def _untuned(dataset, original=dataset_ops.DatasetV2._apply_debug_options):
    options = tf.data.Options()
    options.autotune.enabled = False
    return original(dataset.with_options(options))


# A thread of tf.data tunes each iterator. It sleeps for up to a minute, and at times it
# misses the call that should end it: then the collector waits for it, in whatever test
# it runs, and for the iterators of all tests before.
dataset_ops.DatasetV2._apply_debug_options = _untuned

# Expectations of smooth activations need a tenth of the points, or less; those that do
# not are tested with all of them in test_mean_field.py.
quadrature.CELLS = 20_000

# Of `given` tests; --hypothesis-profile=long for more.
for name, count in (("short", 200), ("long", 8000)):
    settings.register_profile(name, max_examples=count, deadline=None, database=None)
settings.load_profile("short")


# Their tests wait for processes. They come first: at the end they would wait alone.
WAITING = ("test_workers.py", "test_killed_runs.py", "test_sweep.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in WAITING)


@pytest.fixture(autouse=True)
def one_trace(monkeypatch):
    """Build optimizers before the first step, or Keras traces it twice.

    Tracing is most of what the tests take. The processes that some of them start, and
    the corpus, train as users do.
    """
    original = keras.Model.make_train_function

    def make(model, force=False):
        optimizer = model.optimizer
        if not (optimizer is None or optimizer.built or model.run_eagerly):
            with model.distribute_strategy.scope():
                optimizer.build(model.trainable_variables)
        return original(model, force)

    monkeypatch.setattr(keras.Model, "make_train_function", make)


@pytest.fixture
def eagerly():
    """No function is traced, which takes longer than a few steps of a network do."""
    tf.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not apply to tf.data functions")
        yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def undrawn(monkeypatch):
    """Runs whose report.png is no picture, which takes a fifth of a short run.

    test_train.py has those that draw it, test_report.py what is drawn.
    """
    monkeypatch.setattr(
        kpi.PruningReport,
        "plot",
        lambda report, path: pathlib.Path(path).write_bytes(b"none"),
    )


@pytest.fixture(autouse=True)
def fresh_state():
    """Every test starts from the same seed and leaves no graph behind.

    TensorFlow's kernels stay until the end of a file: they would be made anew with each
    seed and session, which is a fifth of the time of small tests. Garbage is left to
    the collector, for the same reason.
    """
    kernels_stay = mock.patch.object(
        pywrap_tfe, "TFE_ContextClearCaches", lambda context: None
    )
    with kernels_stay:
        keras.utils.set_random_seed(0)
    yield
    with kernels_stay:
        keras.backend.clear_session(free_memory=False)


@pytest.fixture(autouse=True, scope="module")
def fresh_kernels():
    yield
    keras.backend.clear_session(free_memory=False)
