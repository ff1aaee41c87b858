"""Run the Python examples of pages, as a reader would who types them in.

    python tools/run_examples.py README.md docs/quickstart.md

All blocks of a page that begin with three backticks and `python` run one after the
other, in an empty folder. There is no download: `x_train` and `y_train` are small
random images of ten classes, and so is what `keras.datasets.fashion_mnist` returns.
Blocks that begin with `py` are shown only. What the examples print is shown if one of
them fails. Functions are not traced, which takes longer than a few steps do.
"""

import contextlib
import io
import os
import pathlib
import re
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
COUNT = 32


def images(rng):
    """Random images and labels, as `keras.datasets` returns them."""
    return (
        rng.integers(256, size=(COUNT, 28, 28), dtype=np.uint8),
        np.arange(COUNT, dtype=np.uint8) % 10,
    )


def blocks(text):
    """Code whose line numbers are those of the page."""
    for found in BLOCK.finditer(text):
        indent, code = found.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        yield "\n" * (text[: found.start()].count("\n") + 1) + code


def run(path):
    """Run the blocks of a page; the first error ends it."""
    rng = np.random.default_rng(0)
    keras.datasets.fashion_mnist.load_data = lambda: (images(rng), images(rng))
    keras.utils.set_random_seed(0)
    x, y = images(rng)
    names = {
        "__name__": "__main__",
        "x_train": (x[..., None] / 255).astype("float32"),
        "y_train": y.astype("int32"),
    }
    text, shown = path.read_text(encoding="utf-8"), io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for code in blocks(text):
            try:
                with contextlib.redirect_stdout(shown):
                    exec(compile(code, path, "exec"), names)
            except BaseException:
                sys.stdout.write(shown.getvalue())
                raise


if __name__ == "__main__":
    tf.config.run_functions_eagerly(True)
    warnings.filterwarnings("ignore", ".*does not apply to tf.data functions")
    for argument in sys.argv[1:]:
        started = time.perf_counter()
        run(pathlib.Path(argument).resolve())
        keras.backend.clear_session()
        seconds = time.perf_counter() - started
        sys.stdout.write(f"{argument}: {seconds:.0f} s\n")
