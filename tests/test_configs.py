"""Every file in configs/ runs, on a few images and for two steps."""

import importlib.util
import pathlib

import keras
import pytest
from helpers import L
from image_files import imagenet_folder, random_npz, tiny_imagenet_folder

import keras_prune_init as kpi
from keras_prune_init.train import default_config, run

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
# The depths of the paper, which are arguments of its files.
DEPTHS = {
    "cifar10_resnet": (32, 50, 104),
    "cifar10_resnet_tanh": (32, 50, 104),
    "cifar100_resnet": (32, 50, 104),
    "tiny_imagenet_resnet": (32, 50, 104),
    "cifar10_vgg": (34,),
    "mnist_ffnn": (2, 20, 40, 60, 80, 100),
    "mnist_vcnn": (10, 50, 100),
}
# Nets that take long are replaced by others of the family, or by a single block; the
# ResNet-20 of the README is trained by tools/check_package.sh.
ONE_BLOCK = {"name": f"{__name__}:one_block"}
SMALLER = {
    "cifar10_resnet": ONE_BLOCK,
    "cifar10_resnet_tanh": ONE_BLOCK,
    "cifar100_resnet": ONE_BLOCK,
    "tiny_imagenet_resnet": ONE_BLOCK,
    "imagenet_resnet50": ONE_BLOCK,
    "cifar10_vgg": ONE_BLOCK,
    "mnist_vgg11_magnitude": {"width": 2},
    "mnist_ffnn": {"depth": 3},
    "mnist_vcnn": {"depth": 3, "width": 4},
    "fashion_resnet20_snip": ONE_BLOCK,
    "fashion_cnn_grasp": {"width": 4},
    "fashion_mlp_synflow": {"width": 32},
    "lottery_cifar10": ONE_BLOCK,
    "lottery_mnist": {"width": (8, 6)},
    "lenet300_rigl": {"width": (8, 6)},
    "lenet300_gradual_magnitude": {"width": (8, 6)},
    "lenet300_hard_concrete": {"width": (8, 6)},
    "lenet300_learning_compression": {"width": (8, 6)},
    "fashion_resnet20_rigl": ONE_BLOCK,
    "fashion_cnn_compression_aware": {"width": 4},
    "cifar10_resnet20_acdc": ONE_BLOCK,
    "cifar10_resnet20_hinge": {"depth": 8, "width": 4},
}


def one_block(input_shape, classes, activation="relu", **of_the_family):
    """The fewest layers with a residual block, of which `resnet` has three."""
    inputs = keras.Input(input_shape)
    x = L.BatchNormalization()(L.Conv2D(4, 3, strides=2)(inputs))
    x = L.Activation(activation)(x)
    x = L.Add()([x, L.Conv2D(4, 3, padding="same")(x)])
    return keras.Model(inputs, L.Dense(classes)(L.GlobalAveragePooling2D()(x)))


def load_config(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Small sources of the same kind, for those that need a download."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "keras:mnist": "fashion_mnist_mini",
        "keras:cifar10": random_npz(folder, classes=10),
        "keras:cifar100": random_npz(folder, classes=100),
        "folder:imagenet": imagenet_folder(folder / "imagenet"),
        "folder:tiny-imagenet-200": tiny_imagenet_folder(folder / "tiny", count=12),
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_runs(path, tmp_path, stand_ins, eagerly, undrawn):
    config = load_config(path).get_config().lock()
    config.smoke = True
    config.data.source = stand_ins.get(config.data.source, config.data.source)
    if config.data.source.startswith("folder"):  # of few images
        config.train.batch_size = config.prune.scoring_batch_size = 4
    config.model.update(SMALLER.get(path.stem, {}))
    if config.prune.method == "synflow":
        config.prune.options.iterations = 3  # of 100
    if config.data.image_size:
        config.data.image_size = 32
    result = run.run(config, tmp_path / "run")
    options = config.prune.options
    parts = 1 + bool(options.dense_epochs) + bool(options.tune_epochs)
    assert result["finished"] and result["epochs"] == parts
    assert 0 <= result["test_accuracy"] <= 1
    # Allocations that say how much each layer loses, and methods that find out.
    found = "hard_concrete", "compression_aware", "hinge"
    if "*=" in config.prune.allocation or config.prune.method in found:
        return
    removed = int(config.prune.sparsity * result["total"])
    # "uniform" rounds in each tensor, but the total is exact all the same.
    assert result["kept"] == result["total"] - removed


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_is_an_argument_of_the_papers_families(name):
    get_config = load_config(ROOT / f"configs/paper/{name}.py").get_config
    for depth in DEPTHS[name]:
        config = get_config(str(depth))
        assert config.model.depth == depth
        if name.startswith("cifar10_resnet"):
            assert config.train.epochs == (250 if depth == 104 else 160)
    # The shallowest is built with all its layers.
    arguments = {**get_config(str(DEPTHS[name][0])).model.to_dict(), "width": 4}
    make = getattr(kpi.models, arguments.pop("name"))
    assert make(**arguments).output_shape == (None, 10)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_docstring_of_config_has_command_time_and_result(path):
    text = load_config(path).__doc__
    command = f"python -m keras_prune_init.train --config={path.relative_to(ROOT)}"
    assert command in text
    assert "Time: " in text and "Result" in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_has_only_keys_of_the_default(path):
    # Arguments of the model differ from model to model; all else is explained once.
    default, config = default_config.get_config(), load_config(path).get_config()
    assert set(config) == set(default)
    for part in ("data", "prune", "train"):
        assert set(config[part]) == set(default[part])
