"""What mkdocs does beyond mkdocs.yml: files from outside of docs/, and a check.

Pictures, the changelog and the like have their place elsewhere in the repository. They
become pages and pictures of the documentation without a second copy.
"""

import ast
import logging
import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {
    "clusters.md": "examples/tpu.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
PACKAGE = "keras_prune_init"
log = logging.getLogger("mkdocs.hooks.keras_prune_init")


def on_files(files, config):
    """Add what lies outside of docs/, and see that no public name is left out."""
    places = {name: ROOT / source for name, source in PAGES.items()}
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        places[f"images/{picture.name}"] = picture
    for name, source in places.items():
        files.append(File.generated(config, name, abs_src_path=str(source)))
    _check(pathlib.Path(config["docs_dir"]) / "api")
    return files


def on_config(config):
    """Look at these when `mkdocs serve` waits for changes, too."""
    config["watch"] += [str(ROOT / source) for source in PAGES.values()]
    config["watch"] += [str(ROOT / PACKAGE), str(ROOT / "benchmarks" / "results")]
    return config


def _check(folder):
    """Warn, which is an error in CI, of public names that no page of the API names."""
    pages = [page.read_text(encoding="utf-8") for page in folder.glob("*.md")]
    shown = re.compile(rf"^::: {PACKAGE}\.([\w.]+)$", re.MULTILINE)
    named = {name for page in pages for name in shown.findall(page)}
    parts = {f"models.{name}.{name}" for name in _public("models/__init__.py")}
    parts |= {f"callbacks.{name}" for name in _public("callbacks/__init__.py")}
    # Modules, and the second name of a function, have no entry of their own.
    apart = {"callbacks", "methods", "models", "prune", "tfmot"}
    wanted = parts | {*_public("__init__.py")} - apart
    for name in sorted(wanted - named):
        log.warning("%s.%s is in no page of docs/api", PACKAGE, name)


def _public(file):
    tree = ast.parse((ROOT / PACKAGE / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{PACKAGE}/{file} must have an `__all__`.")
