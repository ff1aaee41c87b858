"""Does a method choose the right weights of your network, or only how many per layer?

    python examples/sanity_checks.py
    PYTHONPATH=. python examples/sanity_checks.py --model=my_module:my_function

Trains the network of a method, and after three changes: the masks are shuffled within
each kernel, the weights are drawn anew, or the least important weights are kept. If a
change costs no accuracy, the method did not choose single weights or values well. With
SNIP only the last one costs any. Takes a minute on two cores with SNIP; `lobs` takes
several.
"""

import argparse

import keras
import numpy as np

import keras_prune_init as kpi
from keras_prune_init.train import networks
from keras_prune_init.train.data.loading import load_images

BATCH = 256
parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument(
    "--model", default="mlp", help="a name of models, or module:function"
)
parser.add_argument("--data", default="fashion_mnist_mini", help="as in load_images")
parser.add_argument("--method", default="snip", choices=kpi.method_names())
parser.add_argument("--sparsity", type=float, default=0.95)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--seeds", type=int, default=3)
options = parser.parse_args()
if options.seeds < 1:
    parser.error(f"--seeds must be 1 or more, not {options.seeds}")
images = load_images(options.data)


def dense(seed):
    keras.utils.set_random_seed(seed)
    model = networks.make(options.model, images.input_shape, images.classes)
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def pruned(model, method):
    data = images.train(BATCH)
    return kpi.prune_at_init(model, data, method, sparsity=options.sparsity, verbose=0)


def variants(seed):
    """Yield each row's name and network, before training."""
    model = dense(seed)
    as_is = pruned(model, options.method)
    yield "as it is", as_is
    yield "shuffled", kpi.sanity.shuffle(as_is, initial=model, seed=seed)
    yield "reinitialized", kpi.sanity.reinitialize(as_is, seed=seed)
    yield "inverted", pruned(model, kpi.sanity.inverted(options.method))


def accuracy(model):
    model.fit(
        images.train(BATCH, epochs=options.epochs),
        steps_per_epoch=images.steps(BATCH),
        epochs=options.epochs,
        shuffle=False,  # the dataset is shuffled already
        verbose=0,
    )
    return model.evaluate(images.test(500), verbose=0, return_dict=True)["accuracy"]


found: dict[str, list[float]] = {}
for seed in range(options.seeds):
    for name, model in variants(seed):
        found.setdefault(name, []).append(accuracy(model))
        print(f"seed {seed}, {name}: {100 * found[name][-1]:.1f} %", flush=True)

print(f"{options.method}, {options.sparsity:.1%} removed, final test accuracy in %")
for name, values in found.items():
    spread = f" ± {100 * np.std(values):.1f}" if values[1:] else ""
    print(f"{name:14} {100 * np.mean(values):5.1f}{spread}")
