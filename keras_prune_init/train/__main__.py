"""Prune a model before training, then train it.

    python -m keras_prune_init.train
    python -m keras_prune_init.train --config=FILE.py --config.prune.sparsity=0.98
    python -m keras_prune_init.train --config=configs/paper/cifar10_resnet.py:104
    python -m keras_prune_init.train --strategy=mirrored

configs/ has ready-made files; train/default_config.py explains every key.
"""

import tensorflow as tf
from absl import app, flags, logging
from ml_collections import config_flags

from keras_prune_init.train import default_config, run, run_folder, strategies

CONFIG = config_flags.DEFINE_config_file(
    "config",
    default_config.__file__,
    "What to run; --config.a.b=value overrides one value of it.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. Default: runs/<config>-<date>-<time>."
)
RESUME = flags.DEFINE_bool(
    "resume", False, "Go on with the run in --workdir, if there is one."
)
DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "Same seed, same machine, same accuracy; slower."
)
STRATEGY = flags.DEFINE_enum(
    "strategy",
    "auto",
    strategies.NAMES,
    "On what to train; multi_worker reads TF_CONFIG or Slurm's variables.",
)
TPU = flags.DEFINE_string("tpu", None, "Name of a Cloud TPU. Default: this machine's.")
VIRTUAL = flags.DEFINE_integer(
    "num_virtual_devices", None, "Pretend that the processor is so many; for tests."
)
flags.FLAGS.set_default("verbosity", logging.INFO)


def _main(arguments):
    if arguments[1:]:
        raise app.UsageError(f"Unknown arguments: {' '.join(arguments[1:])}")
    if RESUME.value and not WORKDIR.value:
        raise app.UsageError("--resume needs the folder to go on with: --workdir=...")
    tf.get_logger().setLevel("WARNING")  # else a line for each collective operation
    strategy = strategies.create(
        STRATEGY.value, tpu=TPU.value, num_virtual_devices=VIRTUAL.value
    )
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    run.run(
        CONFIG.value,
        WORKDIR.value or run_folder.new(file),
        strategy=strategy,
        resume=RESUME.value,
        deterministic=DETERMINISTIC.value,
    )


def _parse(arguments):
    try:
        return flags.FLAGS(arguments)
    except (AttributeError, KeyError, TypeError) as e:
        raise flags.Error(
            "--config.KEY=VALUE must be of the keys of the configuration, "
            f"--config=FILE.py:ARGUMENT of a file that takes one. Received: {e}. "
            "default_config.py explains the keys."
        ) from e


if __name__ == "__main__":
    app.run(_main, flags_parser=_parse)
