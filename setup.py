"""Packaging; `pip install .` and `pip install '.[test]'` are what the README says."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
CODE = (ROOT / "keras_prune_init" / "__init__.py").read_text()

EXTRAS = {
    "data": ["tensorflow-datasets>=4.9,<5"],
    "cv": ["keras-cv>=0.9,<0.10"],
    "tfmot": ["tensorflow-model-optimization>=0.8,<0.9"],
    "export": ["ai-edge-litert>=2.1,<3"],
    "models": ["keras-hub>=0.32,<0.33", "keras-rs>=0.4,<0.5", "kimm>=0.2.5,<0.3"],
}
EXTRAS["test"] = [
    *EXTRAS["data"],
    *EXTRAS["cv"],
    *EXTRAS["export"],
    *EXTRAS["models"],
    "hypothesis>=6,<7",
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.14,<0.18",
]

setup(
    name="keras_prune_init",
    version=re.search(r'__version__ = "(.*)"', CODE).group(1),
    description="Prune Keras 3 networks before training: SNIP, GraSP, SynFlow and more",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["keras_prune_init", "keras_prune_init.*"]),
    package_data={"keras_prune_init.train": ["embedded/*"]},
    install_requires=[
        "tensorflow>=2.21,<3",
        "keras>=3.15,<4",
        "flatbuffers>=24.3",
        "absl-py>=1.4,<3",
        "numpy>=1.26,<3",
        "ml_collections>=1.0,<2",
        "matplotlib>=3.8,<4",
        "tqdm>=4.66,<5",
    ],
    extras_require=EXTRAS,
)
