"""What the benchmarks share: data, the unit of time, fresh processes, results."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results"
# By default TensorFlow uses oneDNN on processors with AVX-512 VNNI only. Without it,
# convolutions take twice the time. TF_ENABLE_ONEDNN_OPTS=0 measures that.
ONEDNN = os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1") == "1"
# Of steps that are timed. Those of some networks take seconds, and vary less.
PAIRS = {"vgg16": 15, "3 x 4096": 20, "5 x 8192": 8, "encoder": 15, "mobilenet": 20}


def fresh_process(script: str, *args) -> dict:
    """Run a function of a script in a process of its own: see `work_for_another`."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, script, *map(str, args)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def work_for_another(*functions) -> None:
    """Run one of these and end, if `fresh_process` started this script for it."""
    named = {f.__name__: f for f in functions}
    if sys.argv[1:2] and sys.argv[1] in named:
        sys.stdout.write(json.dumps(named[sys.argv[1]](*sys.argv[2:])))
        sys.exit()


def cifar_batch(size=128, seed=0):
    """Random images of CIFAR shape and labels; values do not matter for time."""
    import numpy as np

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 32, 32, 3)).astype("float32")
    return x, rng.integers(0, 10, size)


def unit_seconds(model, x, y, repeats=7) -> float:
    """Median seconds of one compiled forward and backward pass, once it is traced."""
    import keras
    import numpy as np
    import tensorflow as tf

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(jit_compile=False)
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        return tape.gradient(value, model.trainable_variables)

    x, y = tf.constant(x), tf.constant(y)
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        _ = step(x, y)[0].numpy()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[2:]))


def seconds(run) -> float:
    """How long a function takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratios(measures: dict, pairs: int = 40) -> dict[str, dict[str, float]]:
    """Compare what functions measure with what `dense` does, functions in turn.

    Returns:
        For each its median, and median and quartiles of its ratios to `dense`.
    """
    rounds = []
    for i in range(pairs + 2):  # the first are for tracing
        names = list(measures)[:: 1 if i % 2 else -1]
        rounds.append({name: measures[name]() for name in names})
    found = {}
    for name in measures:
        low, middle, high = statistics.quantiles(
            [values[name] / values["dense"] for values in rounds[2:]], n=4
        )
        found[name] = {
            "seconds": statistics.median(values[name] for values in rounds[2:]),
            "ratio": middle,
            "quartiles": f"{low:.2f}-{high:.2f}",
        }
    return found


def step_ratios(network: str, models: dict, x, y) -> dict[str, dict[str, float]]:
    """`ratios` of training steps of compiled models, the forms of one network.

    A step each in turn, as the speed of a machine holds for a step or two; and not in
    `fit`, which after its last step may wait a second or two for a thread of tf.data.
    """
    import tensorflow as tf

    x, y = tf.constant(x), tf.constant(y)

    def step(model):
        return lambda: seconds(lambda: model.train_on_batch(x, y))

    measures = {name: step(model) for name, model in models.items()}
    return ratios(measures, PAIRS.get(network, 40))


def peak_mib(script: str, *args) -> float:
    """Peak resident memory of a process that runs a script."""
    command = ["/usr/bin/time", "-v", sys.executable, script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    [line] = [v for v in done.stderr.splitlines() if "Maximum resident" in v]
    return int(line.split()[-1]) / 1024


def interpreter(path: pathlib.Path):
    """A function that runs a .tflite file on one core of this processor."""
    from ai_edge_litert.interpreter import Interpreter

    lite = Interpreter(str(path), num_threads=1)
    lite.allocate_tensors()
    return lite.invoke


def times_on_arm(files: list[pathlib.Path], timer: str) -> list[dict]:
    """What a program prints that takes .tflite files, --json and --rounds."""
    # Its figure is a median over rounds: of two, one that the machine slowed counts.
    command = [sys.executable, timer, *map(str, files), "--json", "--rounds=5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def command() -> str:
    """What this process was started with; where files lie here is left out."""
    top = pathlib.Path(__file__).parents[1]
    script = pathlib.Path(os.path.relpath(sys.argv[0], top))
    arguments = [re.sub("(^|[=:])/(.*/)?", r"\1", a) for a in sys.argv[1:]]
    return " ".join(["python", script.as_posix(), *arguments])


def versions() -> dict:
    """Versions that numbers depend on."""
    import keras
    import numpy as np
    import tensorflow as tf

    found = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
    if importlib.util.find_spec("numba"):
        found["numba"] = importlib.metadata.version("numba")
    return found


def vectors() -> str:
    """The widest vectors of this processor, on which its times depend."""
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    return next((v for v in ("avx512f", "avx2", "avx") if v in flags), "other")


def save(name: str, rows: list[dict]) -> None:
    """Write rows with command and versions into `results/NAME.json`."""
    content = {
        "command": command(),
        "versions": versions(),
        "processors": os.cpu_count(),
        "vectors": vectors(),
        "oneDNN": ONEDNN,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def saved(name: str) -> list[dict]:
    """The rows of `results/NAME.json`; none if there is no such file."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def save_networks(name: str, rows: list[dict], keys=("network",)) -> None:
    """Write rows as `save` does, beside those of networks that are not among them.

    Other `keys` may say what is measured together, and replaced.
    """
    new = [[row[key] for key in keys] for row in rows]
    old = [row for row in saved(name) if [row[key] for key in keys] not in new]
    save(name, old + rows)


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table."""
    keys = list(rows[0])
    text = [
        [f"{r[k]:.2f}" if isinstance(r[k], float) else str(r[k]) for k in keys]
        for r in rows
    ]
    widths = [max(len(k), *(len(t[i]) for t in text)) for i, k in enumerate(keys)]
    lines = [keys, ["-" * w for w in widths], *text]
    return "\n".join(
        "| " + " | ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
