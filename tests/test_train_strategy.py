"""Which strategy the training binary runs under, and that it trains under each."""

import json
import os
import signal
import socket
import stat
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import Forked
from runs import free_ports, history, mirrored, small

from keras_prune_init.distribute import workers
from keras_prune_init.train import run, strategies


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def test_one_device_is_no_strategy():
    strategy = strategies.create("one_device")
    assert strategy is tf.distribute.get_strategy()
    assert strategies.is_chief(strategy)
    assert strategies.jit_compile(strategy) == "auto"


@pytest.mark.parametrize("name", ["auto", "mirrored"])
def test_several_devices_are_mirrored(name):
    strategy = strategies.create(name)  # common_fixtures.py made four
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == 4
    assert strategies.is_chief(strategy)
    assert strategies.jit_compile(strategy) is False


def test_auto_goes_by_the_environment(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert strategies._found(None) == "multi_worker"
    cluster = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    assert strategies._found(None) == "mirrored"  # a cluster of one is none
    monkeypatch.setenv("TPU_NAME", "local")
    assert strategies._found(None) == "tpu"
    assert strategies._found("grpc://10.0.0.2:8470") == "tpu"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"name": "mirror"}, {}, "must be one of 'auto', 'one_d.*mirror'"),
        ({"name": "multi_worker"}, {}, "Set TF_CONFIG on each worker"),
        *(
            ({"name": "auto"}, {"TF_CONFIG": text}, "TF_CONFIG must be JSON such as")
            for text in (
                "{",
                "",
                "3",
                '{"cluster": ["a:1", "b:1"]}',
                '{"cluster": {"worker": "a:1"}}',
                '{"cluster": {"worker": ["a", "b"]}}',
                '{"cluster": {"worker": ["a:1", "b:x"]}}',
                '{"cluster": {"worker": ["a:1", "b:1"]}}',
                '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}',
                '{"cluster": {"worker": ["a:1", "a:1"]},'
                ' "task": {"type": "worker", "index": 0}}',
                '{"cluster": {"worker": ["a:1", "b:1"]},'
                ' "task": {"type": "worker", "index": 0.5}}',
                '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
                '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
                '{"cluster": {"worker": ["a:1"]},'
                ' "task": {"type": "worker", "index": 1}}',
            )
        ),
        ({"name": "auto", "num_virtual_devices": 0}, {}, "whole number, 1 or more"),
        # As with this row: the real code path, where there is no TPU.
        ({"name": "tpu"}, {}, "There must be a TPU"),
    ],
)
def test_what_is_not_there_is_refused(arguments, environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        strategies.create(**arguments)


def wait_less():
    workers.FIRST_WORD, workers.NEXT_WORD = 1, 0.5


@pytest.mark.parametrize(
    ("number", "ended"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 1)]
)
def test_a_worker_says_for_whom_it_waits_and_ends_when_told(number, ended, tmp_path):
    mine, other = (f"127.0.0.1:{port}" for port in free_ports(2))
    cluster = {"worker": [other, mine]}
    task = {"type": "worker", "index": 1}
    process = Forked(
        tmp_path / "log",
        "keras_prune_init.train",
        f"--workdir={tmp_path / 'run'}",
        env={"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})},
        before=wait_less,
    )
    try:
        while process.printed().count("still waits for") < 2 and process.poll() is None:
            time.sleep(0.05)
        process.send(number)
        assert process.wait(20) == ended, process.printed()
    finally:
        process.kill()
    assert process.printed().count(f"waits for {other}. Start those") >= 2
    assert not (tmp_path / "run").exists()


def test_the_port_of_a_worker_must_be_free():
    with socket.create_server(("", 0)) as server:
        mine = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(OSError, match=f"Received: {mine}, but port .* cannot be"):
            workers.meet([mine, "127.0.0.1:1"], mine)


def test_devices_cannot_be_split_once_they_are_in_use():
    with pytest.raises(ValueError, match="before anything else"):
        strategies.create("auto", num_virtual_devices=2)


def test_slurm_names_the_hosts_of_a_step(monkeypatch, tmp_path):
    """TensorFlow's own resolver, in a step on two hosts without GPUs."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nprintf 'node1\\nnode2\\n'\n")
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IEXEC)
    step = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_PROCID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    }
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    resolver = strategies._slurm()
    found = resolver.cluster_spec().as_dict()
    assert found == {"worker": ["node1:8888", "node2:8888"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("precision", "policy"),
    [("mixed", "mixed_bfloat16"), ("mixed_float16", "mixed_float16")],
)
def test_mixed_precision_runs_resume_and_keep_float32_weights(
    precision, policy, tmp_path, eagerly, undrawn
):
    config = small(tmp_path, precision=precision)
    result = run.run(config, tmp_path / "run")
    assert result["finished"] and result["epochs"] == 2
    assert keras.config.dtype_policy().name == "float32"
    keras.config.set_dtype_policy(policy)  # or Keras loads no state of a scaled loss
    try:
        model = keras.models.load_model(tmp_path / "run/model.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.layers[1].dtype_policy.name == policy
    assert {w.dtype for w in model.trainable_variables} == {"float32"}
    # A step whose gradients overflow is skipped, and the scale of the loss is halved.
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    done = int(model.optimizer.iterations)
    assert 4 < done <= 8 if scaled else done == 8
    loss = [float(v) for v in model.evaluate(np.zeros((4, 8, 8, 1)), np.zeros(4))]
    assert np.isfinite(loss).all()
    # Stopped before its result was written, it ends with the same.
    (tmp_path / "run/result.json").write_text(json.dumps({**result, "finished": False}))
    assert run.run(config, tmp_path / "run", resume=True) == result
    assert len(history(tmp_path / "run")) == 2


def test_run_under_mirrored_strategy_resumes(tmp_path, undrawn):
    """Of 17 test images one is left over, but no replica gets an empty part."""
    config = small(tmp_path, images=33)
    strategy = mirrored(2)
    result = run.run(config, tmp_path / "run", strategy=strategy)
    assert result["epochs"] == 2 and np.isfinite(result["test_loss"])
    model = keras.models.load_model(tmp_path / "run/model.keras")
    assert int(model.optimizer.iterations) == 2 * 2
    assert all(np.isfinite(w).all() for w in model.get_weights())
    config.train.steps = 1
    alone = run.run(config, tmp_path / "alone")
    assert result["mask_digest"] == alone["mask_digest"]
    config.train.steps = None
    (tmp_path / "run/result.json").write_text(json.dumps({**result, "finished": False}))
    again = run.run(config, tmp_path / "run", strategy=strategy, resume=True)
    # Replicas add up in any order.
    assert again.pop("test_loss") == pytest.approx(result.pop("test_loss"), rel=1e-5)
    assert again == result


def test_batches_that_replicas_cannot_share_are_refused(tmp_path):
    config = small(tmp_path, batch_size=15)
    with pytest.raises(ValueError, match="15 for 2 replicas. Pass a multiple of 2"):
        run.run(config, tmp_path / "run", strategy=mirrored(2))
