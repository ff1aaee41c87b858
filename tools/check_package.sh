#!/usr/bin/env bash
# Build the wheel and the source archive, and use the wheel where there is nothing else.
#
#     tools/check_package.sh
#
# Needs `build` and `twine`, and takes half of the time with `uv`. The wheel is installed
# in an empty environment, and the example of the README runs there, outside of the
# source tree.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
export TF_CPP_MIN_LOG_LEVEL=3

# From a copy of what is in the repository: a build leaves files beside the sources, and
# files that are not committed must not go in.
mkdir "$folder/source"
git ls-files -z | xargs -0 cp --parents --target-directory="$folder/source"
# The wheel is made from the source archive, so that both are complete.
build() { python -m build "$@" --outdir "$folder/dist" "$folder/source"; }
build --installer=uv >"$folder/log" 2>&1 || build >"$folder/log" 2>&1 ||
  { cat "$folder/log"; exit 1; }
twine check --strict "$folder"/dist/*

python - "$folder"/dist/* <<'PYTHON'
import sys, tarfile, zipfile

NEEDED = (
    "keras_prune_init/py.typed",
    "keras_prune_init/train/embedded/fashion_mnist_mini.npz",
    "keras_prune_init/train/embedded/LICENSE.fashion_mnist",
    "LICENSE",
    "NOTICE",
)
for path in sys.argv[1:]:
    names = (
        zipfile.ZipFile(path).namelist()
        if path.endswith(".whl")
        else tarfile.open(path).getnames()
    )
    slashed = [f"/{name}" for name in names]
    missing = [n for n in NEEDED if not any(s.endswith(f"/{n}") for s in slashed)]
    if missing:
        sys.exit(f"{path} lacks {', '.join(missing)}")
PYTHON

# What the package index shows has no folder of files beside it.
if grep -nE '\]\((\.|[a-z]+[/.])' README.md | grep -v '](https\?:'; then
  echo "README.md has relative links or pictures, which the package index cannot show."
  exit 1
fi

env="$folder/env"
uv venv --quiet "$env" && uv pip install --quiet --python "$env/bin/python" \
  "$folder"/dist/*.whl || {
  python -m venv --clear "$env"
  "$env/bin/pip" install --quiet --disable-pip-version-check "$folder"/dist/*.whl
}
# TensorFlow takes long to compile. What is compiled here already is taken along; Python
# looks at the times of the sources and compiles again what differs.
python - "$env" <<'PYTHON'
import pathlib, shutil, sys, sysconfig

here = pathlib.Path(sysconfig.get_path("purelib"))
there = pathlib.Path(sysconfig.get_path("purelib", vars={"base": sys.argv[1]}))
for compiled in here.rglob("__pycache__/*.pyc"):
    copy = there / compiled.relative_to(here)
    if (copy.parents[1] / f"{compiled.name.split('.')[0]}.py").exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(compiled, copy)
PYTHON
cp README.md tools/run_examples.py "$folder"
cd "$folder" # so that the package is found where it was installed, or not at all
env/bin/python run_examples.py README.md
