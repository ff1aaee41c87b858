"""The scripts of benchmarks/paper: their cells, figures, and the runner."""

import importlib
import json
import pathlib
import sys

import pytest
from processes import SERVER

PAPER = pathlib.Path(__file__).parents[1] / "benchmarks" / "paper"
sys.path.append(str(PAPER))

grid = importlib.import_module("grid")

TINY = "--depth=4 --width=8"
TRAINED = "--iterations=1 --batch_size=20"
RESNET = "--depth=8 --width=2 --samples_per_class=1"
SCRIPTS = {
    "critical_sparsity": TINY,
    "gradient_ratio": f"{TINY} --sparsities 0.5",
    "ffnn_heatmap": f"{TRAINED} --width=8 --depths 3 --sparsities 0.5",
    "ffnn_rates": f"{TRAINED} --width=8 --depths 3 --rates 0.01",
    "vcnn": f"{TRAINED} --width=2 --depths 3 --rates 0.01",
    "kept_weights": f"{RESNET} --sparsities 0.9",
    "kept_connections": TINY,
    "resnet104": f"{RESNET} --sparsities 0.9",
    "cifar_methods": f"{TRAINED} {RESNET} --methods snip --sparsities 0.9",
}


def seed_squared(settings, options):
    """A cell of the runner's test; at the top level, so that workers find it."""
    if settings["seed"] == options.fails_at:
        raise RuntimeError("This seed fails.")
    return {"square": settings["seed"] ** 2 * options.factor}


def draw_nothing(content):
    return importlib.import_module("plots").new(2, 2, "", "")


def options(*arguments, seeds=2):
    parser = grid.parser("A test.", data="fashion_mnist_mini", seeds=seeds)
    parser.add_argument("--factor", type=int, default=1)
    parser.add_argument("--fails_at", type=int, default=-1)
    return parser.parse_args(arguments)


def run(folder, options, cells=({"seed": 0}, {"seed": 1})):
    return grid.run("x", options, list(cells), seed_squared, draw_nothing, folder)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_makes_cells_that_can_be_stored_and_drawn(name, tmp_path, eagerly):
    script = importlib.import_module(name)
    chosen = script.parser().parse_args([*SCRIPTS[name].split(), "--seeds=1"])
    cells = script.cells(chosen)
    rows = []
    # One is enough to run; the figure needs all.
    for settings in cells:
        result = rows[0]["result"] if rows else script.cell(settings, chosen)
        rows.append({"cell": settings, "result": result, "seconds": 1.0})
    content = {"data": "some", "options": vars(chosen), "rows": rows}
    script.draw(json.loads(json.dumps(content))).savefig(tmp_path / "figure.png")


def test_vcnn_shows_the_rate_with_the_lowest_training_loss():
    settings = {"depth": 3, "phase": "eoc", "seed": 0}
    losses = {0.1: float("nan"), 0.01: 0.5, 0.001: 0.7}
    rows = [
        {"cell": {**settings, "learning_rate": rate}, "result": {"train_loss": loss}}
        for rate, loss in losses.items()
    ]
    chosen = importlib.import_module("vcnn").best(rows)
    assert chosen == {(3, "eoc"): (0.01, [{"train_loss": 0.5}])}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_gives_every_cell_a_seed_and_no_cell_twice(name):
    script = importlib.import_module(name)
    cells = script.cells(script.parser().parse_args(["--seeds=2"]))
    assert {c["seed"] for c in cells} == {0, 1}
    assert len({json.dumps(c) for c in cells}) == len(cells)


def test_stopped_run_keeps_finished_cells_and_goes_on(tmp_path, monkeypatch):
    # The server of these processes has imported TensorFlow and not used it.
    monkeypatch.setattr(grid.multiprocessing, "get_context", lambda method: SERVER)
    cells = [{"seed": 1}, {"seed": 2}, {"seed": 3}]
    with pytest.raises(RuntimeError, match="This seed fails"):
        run(tmp_path, options("--fails_at=3"), cells)
    path = tmp_path / "paper_x.json"
    before = json.loads(path.read_text())
    assert [r["result"]["square"] for r in before["rows"]] == [1, 4]
    # As if what made it fail had been mended.
    path.write_text(path.read_text().replace('"fails_at": 3', '"fails_at": -1'))
    after = run(tmp_path, options(), cells)
    assert after["rows"][:2] == before["rows"]
    assert after["rows"][2]["result"]["square"] == 9
    assert after == json.loads(path.read_text())
    assert (tmp_path / "paper_x.png").stat().st_size > 0


def finished(folder, **changes):
    """A results file that holds all cells, as another checkout may have left it."""
    content = {
        "commands": [],
        "data": "fashion_mnist_mini",
        "options": {"factor": 1, "fails_at": -1},
        "rows": [
            {"cell": {"seed": s}, "result": {"square": s * s}, "seconds": 1.0}
            for s in (0, 1)
        ],
    }
    (folder / "paper_x.json").write_text(json.dumps(content | changes))
    return content


def test_finished_cells_are_not_run_again(tmp_path):
    content = finished(tmp_path)
    assert run(tmp_path, options()) == content


def test_only_chooses_cells(tmp_path):
    finished(tmp_path)
    cells = [{"seed": 0, "depth": 3}, {"seed": 0, "depth": 4}]
    content = run(tmp_path, options("--only=depth=5,6"), cells)
    assert len(content["rows"]) == 2


def test_other_options_are_refused(tmp_path):
    finished(tmp_path)
    with pytest.raises(ValueError, match=r"factor \(then 1, now 2\)"):
        run(tmp_path, options("--factor=2"))
    with pytest.raises(ValueError, match=r"data \(then 'fashion_mnist_mini'"):
        run(tmp_path, options("--data=idx:/somewhere/mnist"))


def test_place_of_the_data_is_not_recorded():
    assert grid.data_name("npz:/somewhere/cifar10.npz") == "npz:cifar10"
    assert grid.data_name("idx:../data/mnist/") == "idx:mnist"
    assert grid.data_name("fashion_mnist_mini") == "fashion_mnist_mini"
