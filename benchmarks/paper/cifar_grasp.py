"""Why GraSP gets worse with more data: what its masks do to features and gradients.

    python benchmarks/paper/cifar_grasp.py --data=npz:FILE --workers=2 --threads=1

ResNet-20 on CIFAR-10 of half the size, as in `cifar_rivals.py`. Each variant prunes at
initialization; 1 and 10 are batches of 100 images. `pooled` takes H and g of all
batches together, `own` adds up the H g of each batch, `apart` multiplies the H of one
batch by the g of another, `places` keeps the counts of the layers and draws places at
random, `absolute` ranks by |w (H g)|.

Measured of the pruned network before training: the flow is the squared norm of the
gradient at temperature 1, over 10 batches that no variant has seen: `flow` of their
mean gradient, `flow_single` the mean of the single ones. `dimensions` are those of the
features after each block, averaged over places: (sum of the eigenvalues of their
covariance over 200 images)^2 / sum of squares. It is 1 if all images lie on one line.

Reference: Wang, Zhang, Grosse, 2020, arXiv 2002.07376; Frankle, Dziugaite, Roy, Carbin,
2021, arXiv 2009.08576, for places and absolute values.
"""

import sys

import grid
import keras
import matplotlib
import networks
import numpy as np
import plots
import tensorflow as tf
import training
from cifar_methods import SETTINGS, step_decay
from cifar_rivals import halved

import keras_prune_init as kpi


class Apart(kpi.methods.GraSP):
    """H and g of two batches that have no image in common."""

    def scores(self, network, weights):
        first, second = network.batches
        g = network.batch_gradients(weights, first, self.batch_norm, self.temperature)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            other = network.batch_gradients(
                weights, second, self.batch_norm, self.temperature, twice=True
            )
        products = tape.gradient(other, weights, output_gradients=g)
        return [w * h for w, h in zip(weights, products, strict=True)]


class Places(kpi.methods.GraSP):
    """Scores change places within their kernel, so only counts are kept."""

    def scores(self, network, weights):
        rng = np.random.default_rng(network.seed)
        return [
            rng.permutation(s.numpy().ravel()).reshape(s.shape)
            for s in super().scores(network, weights)
        ]


class Absolute(kpi.methods.GraSP):
    """Weights go that change the gradient least, up or down."""

    def scores(self, network, weights):
        return [abs(s) for s in super().scores(network, weights)]


class Flow(kpi.DataMethod):
    """Measures the gradients; the scores do not matter."""

    batches = 10

    def scores(self, network, weights):
        found = [
            network.batch_gradients(weights, batch, self.batch_norm)
            for batch in network.batches
        ]
        total = [sum(parts) / len(found) for parts in zip(*found, strict=True)]
        self.single = float(np.mean([squares(gradients) for gradients in found]))
        self.whole = squares(total)
        return total


def squares(tensors):
    return sum(float(tf.reduce_sum(t * t)) for t in tensors)


FLOWS = "before", "after"
GraSP = kpi.methods.GraSP
# Of each: the method, and how many batches it reads.
VARIANTS = {
    "random": ("random", 1),
    "snip, 1": ("snip", 1),
    "snip, 10": ("snip", 10),
    "T=200, 1": (GraSP(), 1),
    "T=200, 10 pooled": (GraSP(pooled=True), 10),
    "T=200, 10 own": (GraSP(), 10),
    "T=200, apart": (Apart(), 2),
    "T=200, 1 places": (Places(), 1),
    "T=200, 10 places": (Places(pooled=True), 10),
    "T=1, 1": (GraSP(temperature=1.0), 1),
    "T=1, 10 pooled": (GraSP(temperature=1.0, pooled=True), 10),
    "T=1, 10 own": (GraSP(temperature=1.0), 10),
    "T=200, 1 absolute": (Absolute(), 1),
    "T=1, 1 absolute": (Absolute(temperature=1.0), 1),
    "T=1, 10 absolute": (Absolute(temperature=1.0, pooled=True), 10),
    "T=200, 1 eval": (GraSP(batch_norm="eval"), 1),
}


def parser():
    result = grid.parser(__doc__, data="fashion_mnist_mini", seeds=3)
    training.add_options(result, iterations=500, sparsity=0.98, **SETTINGS)
    result.add_argument("--variants", nargs="+", default=list(VARIANTS))
    return result


def cells(options):
    return [
        {"variant": variant, "seed": seed}
        for seed in range(options.seeds)
        for variant in options.variants
    ]


def cell(settings, options):
    data, seed = halved(grid.load(options.data)), settings["seed"]
    method, batches = VARIANTS[settings["variant"]]
    model = networks.resnet(data, options)
    before = flow(model, data, seed)
    model = kpi.prune(
        model,
        grid.scoring_batches(data, seed),
        method,
        sparsity=options.sparsity,
        batches=batches,
        seed=seed,
        verbose=0,
    )
    result = {"before": before, "after": flow(model, data, seed)}
    report = kpi.report(model)
    result["kept"] = {k.path: k.kept for k in report.tensors}
    result["empty"] = len(report.collapsed)
    result["dimensions"] = dimensions(model, data, seed)
    return result | training.train(
        model, data, step_decay(options), options, seed, "flip"
    )


def dimensions(model, data, seed):
    """Participation ratio of the features after each residual block."""
    blocks = [v.output for v in model.layers if isinstance(v, keras.layers.Add)]
    x, _ = next(iter(grid.scoring_batches(data, seed, size=200).skip(100)))
    weights = model.get_weights()
    features = keras.Model(model.inputs, blocks)(x, training=True)
    model.set_weights(weights)  # its moving averages, too
    return [participation(np.mean(f, axis=(1, 2))) for f in features]


def participation(features):
    values = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    return float(values.sum() ** 2 / (values**2).sum())


def flow(model, data, seed):
    measured = Flow()
    batches = grid.scoring_batches(data, seed).skip(100)
    kpi.score(model, batches, measured, sparsity=0.999)  # which is not used
    return {"flow": measured.whole, "flow_single": measured.single}


def draw(content):
    rows, options = content["rows"], content["options"]
    figure = plots.new(
        12,
        5,
        f"GraSP on ResNet-{options['depth']}, {plots.data(content)} at 16x16, after "
        f"{options['iterations']:,} iterations",
        f"{options['sparsity']:.0%} removed. Left: test accuracy, a dot for each seed. "
        f"Right: features before training, mean over seeds; {plots.seeds(rows)}",
    )
    accuracy, blocks = figure.subplots(1, 2)
    colors = matplotlib.colormaps["tab20"]
    groups = plots.group(rows, "variant")
    for place, (variant,) in enumerate(groups):
        values = [100 * r["test_accuracy"] for r in groups[variant,]]
        accuracy.barh(place, np.mean(values), color=colors(place))
        accuracy.plot(values, [place] * len(values), "k.", ms=4)
        found = np.mean([r["dimensions"] for r in groups[variant,]], axis=0)
        blocks.plot(range(1, len(found) + 1), found, ".-", color=colors(place))
    accuracy.set_yticks(range(len(groups)), [variant for (variant,) in groups])
    accuracy.invert_yaxis()
    accuracy.set_xlabel("test accuracy (%)")
    blocks.set_xlabel("residual block")
    blocks.set_ylabel("dimensions of its features")
    return figure


def table(content):
    """A line for each variant, means over seeds."""
    lines = []
    for (variant,), found in plots.group(content["rows"], "variant").items():
        accuracy = [100 * r["test_accuracy"] for r in found]
        seeds = ", ".join(f"{a:.1f}" for a in accuracy)
        last = [[*r["kept"].values()][-1] for r in found]
        flows = [
            plots.geometric_mean([r[k]["flow_single"] for r in found]) for k in FLOWS
        ]
        lines.append(
            {
                "variant": variant,
                "accuracy, %": f"{np.mean(accuracy):.1f} ({seeds})",
                "dimensions after block 3 and 9": " and ".join(
                    f"{np.mean([r['dimensions'][k] for r in found]):.1f}"
                    for k in (2, 8)
                ),
                "flow before": f"{flows[0]:.2g}",
                "flow after": f"{flows[1]:.2g}",
                "kept in the classifier": f"{np.mean(last):.0f}",
            }
        )
    return grid.common.table(lines)


if __name__ == "__main__":
    options = parser().parse_args()
    name = f"cifar_grasp_{100 * options.sparsity:g}_{options.iterations}"
    content = grid.run(name, options, cells(options), cell, draw)
    sys.stdout.write(table(content) + "\n")
