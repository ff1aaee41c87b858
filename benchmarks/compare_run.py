"""One run of compare.py: a network, its budget of steps, and what was spent of it."""

import itertools
import math
import time

import keras
import numpy as np
import tf_keras

import keras_prune_init as kpi
from keras_prune_init._files import atomic

SIZE, TOGETHER = 60, 50  # images in a batch, steps in a call of the graph


def lenet300():
    return kpi.models.mlp(depth=3, width=(300, 100))


def lenet5():
    """That of Caffe, with 431,000 weights."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ],
        name="lenet5",
    )


NETS = {"lenet300": lenet300, "lenet5": lenet5}


class Run:
    """One row at one sparsity with one seed."""

    def __init__(self, images, test, options, sparsity, seed):
        self.images, self.test, self.options = images, test, options
        self.sparsity, self.seed, self.steps = sparsity, seed, options.steps
        self.phases, self.pruning, self.before = [], 0.0, None
        self.numbers = itertools.count()  # of phases, for the order of the images
        keras.utils.set_random_seed(seed)
        self.start = NETS[options.net]()
        self.total = kept(self.start)

    def prune(self, model, method, **options):
        """`kpi.prune`, and how long it takes."""
        begun = time.perf_counter()
        data = self.images.train(500, seed=self.seed)
        given = {"sparsity": self.sparsity, "seed": self.seed, "verbose": 0}
        pruned = kpi.prune(model, data, method, **given, **options)
        self.pruning += time.perf_counter() - begun
        return pruned

    def compile(self, model, steps, together=None):
        k = keras if isinstance(model, keras.Model) else tf_keras
        model.compile(
            k.optimizers.Adam(k.optimizers.schedules.CosineDecay(1.2e-3, steps)),
            k.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=together or math.gcd(steps, TOGETHER),
            jit_compile=False,
        )
        return model

    def fit(self, model, steps, density=None, **options):
        """Train a compiled model for some steps, and note them."""
        density = kept(model) / self.total if density is None else density
        self.phases.append((steps, density))
        seed = 1000 * self.seed + next(self.numbers)
        epochs = -(-steps // self.images.steps(SIZE))
        batches = self.images.train(SIZE, seed=seed, epochs=epochs).take(steps)
        model.fit(batches, steps_per_epoch=steps, verbose=0, **options)

    def train(self, model, steps):
        """A phase of its own."""
        self.fit(self.compile(model, steps), steps)
        return model

    def trained(self, steps):
        """The dense network after some steps, which all rows of a seed share."""
        name = f"{self.options.net}-dense-{steps}-{self.seed}.weights.h5"
        path = self.options.work / name
        if path.exists():
            self.start.load_weights(path)
            self.phases.append((steps, 1.0))
            next(self.numbers)
        else:
            self.train(self.start, steps)
            with atomic(path) as temporary:
                self.start.save_weights(temporary)
        return self.start

    def rounds(self, model, rounds, rewind, steps):
        """`kpi.iterative_pruning` by magnitude, with so many steps in each round."""
        self.compile(model, steps)
        training = 0.0

        def train(model):
            nonlocal training
            begun = time.perf_counter()
            self.fit(model, steps)
            training += time.perf_counter() - begun

        begun = time.perf_counter()
        settings = {"sparsity": self.sparsity, "rounds": rounds, "rewind": rewind}
        pruned, _ = kpi.iterative_pruning(
            model, None, "magnitude", train=train, seed=self.seed, **settings
        )
        self.pruning += time.perf_counter() - begun - training
        return pruned

    def error(self, model):
        """Percent of the test images."""
        x, y = self.test
        parts = [model(x[i : i + 1000], training=False) for i in range(0, len(x), 1000)]
        return 100 * float(np.mean(np.concatenate(parts).argmax(-1) != y))

    def result(self, model):
        steps = sum(steps for steps, _ in self.phases)
        if steps != self.steps:
            raise AssertionError(f"{steps} steps were taken, not {self.steps}")
        return {
            "error": self.error(model),
            "error before retraining": self.before,
            "kept": kept(model) / self.total,
            "steps": steps,
            "cost": sum(steps * density for steps, density in self.phases),
            "seconds of pruning": self.pruning,
        }


def kept(model):
    """How many weights of kernels are not 0."""
    kernels = [np.asarray(w) for w in model.trainable_weights if len(w.shape) > 1]
    return int(sum(map(np.count_nonzero, kernels)))
