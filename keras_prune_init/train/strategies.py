"""The devices of the training binary: one, several, several hosts, or a TPU."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator

import keras
import tensorflow as tf

from keras_prune_init._arguments import check_choice, check_whole, is_whole
from keras_prune_init.distribute import workers

NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
PRECISIONS = ("float32", "mixed", "mixed_float16", "mixed_bfloat16")


def create(
    name: str = "auto",
    *,
    tpu: str | None = None,
    num_virtual_devices: int | None = None,
) -> tf.distribute.Strategy:
    """Make the strategy to train under; call it before anything else uses TensorFlow.

    Args:
        name: `"one_device"`. `"mirrored"`: all GPUs of this host, or all virtual
            devices. `"multi_worker"`: the hosts in the variable TF_CONFIG, or the tasks
            of this Slurm step. `"tpu"`. `"auto"`: the last of these that is available.
        tpu: Name or address of a Cloud TPU. Default: that of this machine.
        num_virtual_devices: Split the processor into so many devices, for tests.

    Raises:
        ValueError: If the name is none of these, or the devices are not available.
    """
    check_choice("strategy", name, NAMES)
    if num_virtual_devices is not None:
        _split_processor(num_virtual_devices)
    if name == "auto":
        name = _found(tpu)
    if name == "tpu":
        return _tpu(tpu)
    if name == "multi_worker":
        return _multi_worker()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_devices())
    return tf.distribute.get_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the files."""
    return strategy.extended.should_checkpoint


def jit_compile(strategy: tf.distribute.Strategy) -> bool | str:
    """Return `jit_compile` for `compile`; Keras chooses wrong for several replicas."""
    tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    return "auto" if tpu or strategy.num_replicas_in_sync == 1 else False


@contextlib.contextmanager
def precision(name: str, strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Set the dtype policy of layers that are made inside, for a strategy.

    `"mixed"` is float16 on GPUs and bfloat16 elsewhere. With float16, the optimizer
    scales the loss.
    """
    if name == "mixed":
        gpu = tf.config.list_logical_devices("GPU")
        tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        name = "mixed_float16" if gpu and not tpu else "mixed_bfloat16"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _found(tpu):
    if tpu or os.environ.get("TPU_NAME") or tf.config.list_physical_devices("TPU"):
        return "tpu"
    if _tasks() > 1:
        return "multi_worker"
    # Only a virtual processor is more than one.
    return "mirrored" if len(_devices()) > 1 else "one_device"


def _devices():
    gpus = tf.config.list_logical_devices("GPU")
    return [d.name for d in gpus or tf.config.list_logical_devices("CPU")]


def _tasks():
    """Return the number of processes that TF_CONFIG or Slurm name."""
    if "TF_CONFIG" in os.environ:
        return len(_addresses(os.environ["TF_CONFIG"]))
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 0))


def _addresses(text):
    """Check a TF_CONFIG and return the addresses of all workers in it."""
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task")
        jobs = {job: [*map(_address, addresses)] for job, addresses in cluster.items()}
        job = jobs and task["type"] in ("chief", "worker") and jobs[task["type"]]
        if jobs and not (is_whole(task["index"], 0) and task["index"] < len(job)):
            raise ValueError(f"there is no task {task}")
        found = [address for addresses in jobs.values() for address in addresses]
        if len(set(found)) < len(found):
            raise ValueError("two workers have one address")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise ValueError(
            'TF_CONFIG must be JSON such as {"cluster": {"worker": ["host:port", '
            '"host:port"]}, "task": {"type": "worker", "index": 0}}. Received: '
            f"TF_CONFIG={text!r} ({e}). Set it on each worker, with the same cluster "
            "and its own index."
        ) from e
    return found


def _address(text):
    host, _, port = text.rpartition(":")
    if not host or not 0 < int(port) < 2**16:
        raise ValueError(f"{text!r} is no host:port")
    return text


def _multi_worker():
    if not _tasks():
        raise ValueError(
            "Several workers must know of each other. Received: "
            "strategy='multi_worker', and neither TF_CONFIG nor a Slurm step. Set "
            "TF_CONFIG on each worker, or start them by srun."
        )
    if "TF_CONFIG" in os.environ:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    else:
        resolver = _slurm()
    cluster = resolver.cluster_spec()
    jobs = {"chief", "worker"} & set(cluster.jobs)  # those that train together
    addresses = [a for job in jobs for a in cluster.job_tasks(job)]
    if len(addresses) > 1:
        mine = cluster.task_address(resolver.task_type, resolver.task_id)
        workers.meet(addresses, mine)
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def _slurm():
    make = tf.distribute.cluster_resolver.SlurmClusterResolver
    if shutil.which("nvidia-smi"):
        return make()
    # It deals out GPUs, and fails where there are none.
    return make(gpus_per_node=_tasks(), gpus_per_task=1, auto_set_gpu=False)


def _tpu(name):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as e:
        raise ValueError(
            f"There must be a TPU to use it. Received: strategy='tpu', tpu={name!r}, "
            f"and TensorFlow says: {str(e).rstrip('.')}. Run it on a machine with one, "
            "or use another --strategy."
        ) from e
    return tf.distribute.TPUStrategy(resolver)


def _split_processor(count):
    check_whole("num_virtual_devices", count, 1)
    [processor] = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    try:
        tf.config.set_logical_device_configuration(processor, parts)
    except RuntimeError as e:
        raise ValueError(
            "Virtual devices must be made before anything else uses TensorFlow. "
            f"Received: num_virtual_devices={count}, too late. Make the strategy "
            "first."
        ) from e
