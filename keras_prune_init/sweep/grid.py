"""Turn `"prune.method=snip,synflow;seed=0,1"` into the settings of each run."""

import difflib
import itertools
import re

from absl import flags
from ml_collections import ConfigDict, config_flags

from keras_prune_init.train import config_checks, default_config

Cell = dict[str, str]


def parse(text: str, config: str | None = None) -> list[Cell]:
    """Return all combinations of a grid; the last key changes fastest.

    The grid is `key=value,value;key=value,...`. Commas within brackets do not separate.
    `config` is the file of the configuration with these keys; `None`: the default.

    Raises:
        ValueError: If this is no grid, or the configuration has no such key or value.
    """
    axes = {}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        key, _, listed = part.partition("=")
        # Not inside brackets, as in (0.3, 0.6).
        values = [v.strip() for v in re.split(r",(?![^(\[]*[)\]])", listed)]
        if not key or "" in values or len(set(values)) < len(values) or key in axes:
            raise ValueError(
                "A grid is key=value,value;key=value with different keys and values. "
                f"Received: {part!r} in grid={text!r}. Write it as in seed=0,1,2."
            )
        axes[key] = values
    if not axes:
        raise ValueError(
            f"A grid must have a key. Received: grid={text!r}. Write it as in "
            "seed=0,1,2."
        )
    _check(axes, config)
    combinations = itertools.product(*axes.values())
    return [dict(zip(axes, values, strict=True)) for values in combinations]


def name(cell: Cell) -> str:
    """Return a folder's name; the same settings have the same name."""
    parts = (f"{key.rpartition('.')[2]}={value}" for key, value in cell.items())
    return re.sub(r"[^\w.=+-]+", "_", ",".join(parts).replace(",", "-"))


def as_flags(cell: Cell) -> list[str]:
    """Return the flags that set these values in the training binary."""
    return [f"--config.{key}={value}" for key, value in cell.items()]


def _check(axes, config):
    file = [f"--config={config}"] if config else []
    known = list(config_checks.flat(load(file).to_dict()))
    for key, values in axes.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                "Keys of a grid are those of the configuration. Received: "
                f"{key!r}.{hint} They are: {', '.join(known)}."
            )
        for value in values:
            load([*file, f"--config.{key}={value}"])


def load(arguments: list[str]) -> ConfigDict:
    """Return the configuration that these flags of the training binary make."""
    values = flags.FlagValues()
    given = ["sweep", *arguments]
    holder = config_flags.DEFINE_config_file(
        "config", default_config.__file__, flag_values=values, sys_argv=given
    )
    try:
        values(given, known_only=True)
        holder.value.to_dict()  # an error, if its file could not be loaded
        return holder.value
    except (flags.Error, OSError) as e:
        raise ValueError(f"A grid must fit its configuration: {e}") from e
