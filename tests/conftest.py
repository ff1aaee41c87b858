import keras
import pytest
import tensorflow as tf

# Devices for strategies; everything else runs on the first one.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 4,
)


@pytest.fixture(autouse=True)
def fresh_state():
    """Every test starts from the same seed and leaves no graph behind."""
    keras.utils.set_random_seed(0)
    yield
    # Without its garbage collection, which would be most of the time of small tests.
    keras.backend.clear_session(free_memory=False)
