#!/usr/bin/env bash
# Build the wheel and the source archive, and use the wheel where there is nothing else.
#
#     tools/check_package.sh
#
# Needs `build`, `twine` and `uv`. The wheel is installed in an empty environment, with
# its dependencies from uv's cache where they are there, and the example of the README
# is run with it, outside of the source tree.
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
python -m build --installer=uv --outdir "$folder/dist" "$folder/source" >"$folder/log" 2>&1 ||
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

uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env/bin/python" "$folder"/dist/*.whl
cp README.md tools/run_examples.py "$folder"
cd "$folder" # so that the package is found where it was installed, or not at all
env/bin/python run_examples.py README.md
