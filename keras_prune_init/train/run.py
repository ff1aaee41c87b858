"""A whole run: from images to a pruned and trained model in a folder."""

import contextlib
import json
import pathlib
import platform
import time

import keras
import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

import keras_prune_init as kpi
from keras_prune_init.distribute import workers
from keras_prune_init.rounds.rewinding import build_optimizer
from keras_prune_init.surgery import exchange
from keras_prune_init.train import (
    config_checks,
    during,
    networks,
    phases,
    quantization,
    rounds,
    run_folder,
    run_lock,
    smoke,
    strategies,
    systems,
)
from keras_prune_init.train.data import feed
from keras_prune_init.train.data.loading import load_images
from keras_prune_init.train.optimizer import float_steps, optimizer, total_steps


def run(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    strategy: tf.distribute.Strategy | None = None,
    resume: bool = False,
    deterministic: bool = False,
) -> dict:
    """Prune a new model, train it, and write everything to a folder.

    Args:
        config: What `default_config.get_config()` returns, with other values.
        workdir: The folder of the run, which several workers share. It must not exist
            yet, or be empty.
        strategy: What `strategies.create` returns; `None`: one device.
        resume: Continue the run that was stopped in `workdir`, if there is one.
        deterministic: Use slower operations that give the same numbers every time.

    Returns:
        The content of the folder's result.json. Workers other than the first return
        what they measured on the test images.

    Raises:
        FileExistsError: If `workdir` is in use and `resume` is false, or if another
            process is at work in it.
        ValueError: If a value of the configuration is impossible, or differs from the
            run to resume, or if a file of that run is damaged.
        OSError: If the run cannot be saved, as on a full disk; a PermissionError if
            `workdir` cannot be written to.
        FloatingPointError: If a loss or a weight becomes NaN or infinite. The last
            saved state is kept.
        RuntimeError: If another worker was lost.
        SystemExit: After SIGTERM, when all is saved.
    """
    strategy = strategy or tf.distribute.get_strategy()
    config_checks.check_config(config, strategy.num_replicas_in_sync)
    chief = strategies.is_chief(strategy)
    folder = pathlib.Path(workdir)
    with run_lock.locked(folder) if chief else contextlib.nullcontext():
        return _run(config, folder, strategy, chief, resume, deterministic)


def _run(config, folder, strategy, chief, resume, deterministic):
    replicas = strategy.num_replicas_in_sync
    settings = json.loads(config.to_json())
    if chief:  # it may have made the folder before another worker looks
        run_folder.check_settings(folder, settings, resume)
    result = run_folder.read_result(folder)
    run_folder.check_files(folder, result)
    if result and result["finished"]:
        logging.info("The run in %s is finished: %s", folder, _summary(result))
        return result

    keras.utils.set_random_seed(config.seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    data = _load(config)
    if config.smoke:
        config = smoke.shortened(config, replicas)
        data = data.first(2 * config.train.batch_size, config.train.batch_size)

    an_epoch = data.steps(config.train.batch_size)
    steps = total_steps(config.train, an_epoch)
    with workers.watched(strategy):
        if config.prune.rounds:
            pruned = _in_rounds(folder, settings, config, data, strategy)
        else:
            parts = during.phases(config, data)
            pruned = _loaded_or_pruned(folder, settings, config, data, strategy)
            pruned = phases.train(folder, config, data, pruned, parts)
        batches = feed.testing(config, data, replicas)
        test = pruned.evaluate(batches, return_dict=True, verbose=0)
    if not chief:
        return test
    plain = kpi.strip(pruned) if exchange.masked_layers(pruned) else pruned
    found = {}
    if config.train.quantize_aware:
        found = quantization.finish(folder, config, data, plain)
    last = None
    if during.changes(config):
        last = systems.report(pruned, lambda: _network(config, data))
    # For inference: whoever trains it further compiles it as that needs.
    plain.optimizer, plain.compiled = None, False
    with run_folder.saving(folder, "at its end", "Its training is."):
        counts = {"epochs": -(-steps // an_epoch), "steps": steps}
        if last:
            _save_report(folder, last)
            counts |= _counts(last)
        return _save_end(folder, plain, test | found, counts)


def _loaded_or_pruned(folder, settings, config, data, strategy):
    """Return the model of the folder, or make a new one and save it there."""
    resumed = (folder / run_folder.MODEL).exists()
    told = json.dumps([settings, resumed]).encode()
    advice = "Start all with the same flags, and a --workdir that they share."
    workers.check_same(strategy, "configuration and run folder", [told], advice)
    with strategy.scope(), strategies.precision(config.train.precision, strategy):
        if resumed:
            logging.info("Going on with the run in %s", folder)
            return kpi.enable_workers(run_folder.read_model(folder))
        model = _build(config, data, strategy)
    if config.train.quantize_aware:
        kpi.tfmot.quantize_aware(model)  # an error if it cannot be, before all work
    started = time.perf_counter()
    pruned = during.begin(config, data, model)
    seconds = time.perf_counter() - started
    # Keras traces a step twice, half of the time to the first, if that makes these.
    build_optimizer(pruned)
    if strategies.is_chief(strategy):
        report = kpi.report(pruned, None if exchange.masked_layers(pruned) else model)
        kept = "Nothing but the scoring is lost."
        with run_folder.saving(folder, "before its first step", kept):
            more = {"seconds_of_scoring": seconds}
            _save_start(folder, settings, report, pruned, more)
    return pruned


def _in_rounds(folder, settings, config, data, strategy):
    """Prune and train in rounds; return the model."""
    with strategy.scope(), strategies.precision(config.train.precision, strategy):
        model = _build(config, data, strategy)
    pruned, history = rounds.run(folder, settings, config, data, model)
    steps = data.steps(config.train.batch_size)
    epochs = -(-float_steps(config.train, steps) // steps)
    if strategies.is_chief(strategy):
        whole = model if config.prune.what == "channels" else None
        report = kpi.report(pruned, whole)
        with run_folder.saving(folder, "at its end", "All rounds are."):
            with run_folder.atomic(folder / run_folder.ROUNDS_PLOT) as path:
                history.plot(path, "accuracy")
            more = json.loads(history.to_json())
            _save_start(folder, settings, report, pruned, more)
            rounds.copy_history(folder, config, epochs)
    logging.info("\n%s", history)
    return pruned


def _load(config):
    source = config.data
    data = load_images(source.source, source.image_size, source.skip_corrupt)
    logging.info("%s: %d training and %d test images", data.name, *data.sizes)
    for batch_size in (config.train.batch_size, config.prune.scoring_batch_size):
        data.steps(batch_size or 1)  # an error if there is none
    return data


def _network(config, data):
    return networks.make(
        input_shape=data.input_shape, classes=data.classes, **config.model.to_dict()
    )


def _build(config, data, strategy):
    model = _network(config, data)
    model.compile(
        optimizer(config.train),
        feed.loss(config),
        metrics=[feed.accuracy(config)],
        jit_compile=strategies.jit_compile(strategy),
    )
    return model


def _save_start(folder, settings, report, pruned, more):
    """Write the folder, with the model last, because resuming needs the model."""
    logging.info("\n%s", report)
    run_folder.write_json(folder / run_folder.CONFIG, settings)
    _save_report(folder, report)
    result = {
        "finished": False,
        **_counts(report),
        "seed": settings["seed"],
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "keras_prune_init": kpi.__version__,
        },
        **more,
    }
    run_folder.write_json(folder / run_folder.RESULT, result)
    with run_folder.atomic(folder / run_folder.MODEL) as path:
        pruned.save(path)


def _save_report(folder, report):
    run_folder.write(folder / run_folder.REPORT, report.to_json())
    with run_folder.atomic(folder / run_folder.PLOT) as path:
        report.plot(path)


def _save_end(folder, plain, test, counts):
    """Write the stripped model, and last the result, which says the run is finished."""
    with run_folder.atomic(folder / run_folder.STRIPPED) as path:
        plain.save(path)
    rows = run_folder.read_history(folder, counts["epochs"])
    seconds = np.median([float(row["seconds"]) for row in rows])
    result = run_folder.read_result(folder)
    result |= {
        "finished": True,
        **counts,
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "seconds_of_an_epoch": float(seconds),
    }
    result |= {key: value for key, value in test.items() if key.startswith("int8_")}
    run_folder.write_json(folder / run_folder.RESULT, result)
    run_folder.forget_progress(folder, None)
    (folder / run_folder.QUANTIZING).unlink(missing_ok=True)
    logging.info("%s is complete: %s", folder, _summary(result))
    return result


def _counts(report):
    return {
        "sparsity": report.sparsity,
        "effective_sparsity": report.effective_sparsity,
        "kept": report.kept,
        "total": report.total,
        "mask_digest": report.digest,
    }


def _summary(result):
    int8 = result.get("int8_test_accuracy")
    of_int8 = "" if int8 is None else f", {int8:.4f} in int8"
    return (
        f"test accuracy {result['test_accuracy']:.4f}{of_int8} after "
        f"{result['steps']} steps, "
        f"{result['kept']} of {result['total']} weights kept "
        f"(sparsity {result['sparsity']:.6f})"
    )
