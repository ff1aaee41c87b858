"""Grids of training runs: what is run, killed and gone on with, and the table."""

import json
import pathlib
import signal
import time

import pytest
from image_files import few_images
from processes import Forked

from keras_prune_init.sweep import grid, results

CONFIG = pathlib.Path(__file__).parents[1] / "configs/fashion_mlp_synflow.py"


def test_grid_is_all_combinations_the_last_key_fastest():
    cells = grid.parse("prune.method=snip,synflow; seed=0,1;train.drops=(0.3,0.6),()")
    assert len(cells) == 8
    assert cells[1] == {"prune.method": "snip", "seed": "0", "train.drops": "()"}
    assert cells[0]["train.drops"] == "(0.3,0.6)"
    assert grid.as_flags(cells[0])[0] == "--config.prune.method=snip"
    names = {grid.name(cell) for cell in cells}
    assert len(names) == 8 and "method=snip-seed=0-drops=_0.3-0.6_" in names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a key"),
        ("seed", "key=value"),
        ("seed=", "key=value"),
        ("seed=0,0", "different keys and values"),
        ("seed=0;seed=1", "different keys and values"),
        ("prune.sparsty=0.9", "Did you mean 'prune.sparsity'"),
        ("seed=zero", "zero"),
    ],
)
def test_wrong_grids_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        grid.parse(text)


def test_keys_are_those_of_the_file():
    # Its model has keys of its own.
    assert grid.parse("model.depth=2,3", str(CONFIG))
    with pytest.raises(ValueError, match="no_such_file"):
        grid.parse("seed=0", "no_such_file.py")


def rows():
    return [
        results.Row({"prune.method": m, "prune.sparsity": s}, accuracies, [0.9, None])
        for m, s, accuracies in (
            ("snip", "0.9", [0.5, 0.7]),
            ("snip", "0.98", [0.4]),
            ("synflow", "0.9", [0.6, 0.6]),
            ("synflow", "0.98", [0.55, 0.45]),
        )
    ]


def test_table_has_means_deviations_and_seed_counts():
    lines = results.table(rows()).splitlines()
    assert lines[2].split() == "snip 0.9 60.00 % 14.14 2 90.00%".split()
    assert lines[3].split() == "snip 0.98 40.00 % 1 90.00%".split()


@pytest.mark.parametrize("count", [1, 4])
def test_picture_is_drawn(count, tmp_path):
    results.save(tmp_path, rows()[:count])
    assert (tmp_path / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
    assert len(json.loads((tmp_path / "results.json").read_text())) == count
    assert {p.name for p in tmp_path.iterdir()} == {
        "accuracy.png",
        "results.json",
        "table.md",
    }


def test_stopped_sweep_goes_on_without_repeating_runs(tmp_path):
    source = few_images(tmp_path)
    folder = tmp_path / "sweep"

    def start(*more):
        flags = [f"--workdir={folder}", f"--config={CONFIG}", *more]
        flags += ["--grid=prune.sparsity=0.5;seed=0,1"]
        return Forked(tmp_path / "log", "keras_prune_init.sweep", *flags)

    def wait_for(path, process):
        while not path.exists() and process.poll() is None:
            time.sleep(0.02)

    more = [f"--config.data.source={source}", "--config.train.epochs=1"]
    more += ["--config.train.save_every=1", "--config.prune.options.iterations=3"]
    done, begun = (folder / f"sparsity=0.5-seed={n}/result.json" for n in (0, 1))

    # SIGKILL does not reach the run, which goes on.
    first = start(*more)
    wait_for(done, first)
    first.kill()
    assert first.wait() == -signal.SIGKILL, first.printed()

    # The next waits for it. SIGTERM stops the run too, before the sweep ends.
    stopped = start(*more)
    wait_for(begun.parent / "progress-1.json", stopped)
    stopped.send(signal.SIGTERM)
    assert stopped.wait(60) == 128 + signal.SIGTERM, stopped.printed()
    log = (folder / "sparsity=0.5-seed=1.log").read_text()
    assert "SIGTERM: saved after step" in log, log
    assert not (begun.parent / "lock").exists()
    before = done.stat().st_mtime_ns

    second = start(*more)
    assert second.wait() == 0, second.printed()
    assert done.stat().st_mtime_ns == before
    table = (folder / "table.md").read_text()
    assert table.strip("`\n") in second.printed()
    found = json.loads((folder / "results.json").read_text())
    assert [len(row["accuracies"]) for row in found] == [2]
    assert (folder / "accuracy.png").exists()

    other = start("--config.train.epochs=2")
    assert other.wait() not in (0, None)
    assert "goes on with the flags it was started with" in other.printed()


def test_values_that_make_no_run_are_refused_before_the_first(tmp_path):
    process = Forked(
        tmp_path / "log",
        "keras_prune_init.sweep",
        f"--workdir={tmp_path / 'sweep'}",
        "--grid=train.learning_rate=0.1,nan",
    )
    assert process.wait(60) not in (0, None)
    assert "`train.learning_rate` must be a number, 0 or more" in process.printed()
    assert not (tmp_path / "sweep").exists()
