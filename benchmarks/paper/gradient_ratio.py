"""The rescaling trick: gradients of the first over those of the last hidden layer.

    python benchmarks/paper/gradient_ratio.py --workers=2 --threads=1   # 1 minute
    python benchmarks/paper/gradient_ratio.py --activation=relu --workers=2 --threads=1

SBP takes a tanh network of depth 50 and width 300 away from the edge of chaos, and
gradients vanish. Multiplying the kept weights by rho = sigma_w / sqrt(alpha), with
alpha the sum of their squares at a unit (or its mean over a layer), brings them back;
without sigma_w, as the formula is printed in the paper, it does not. Reported is the
ratio of root mean squares of dL/dy, y pre-activations, in float64. ReLU networks need
no rescaling, and explode with it: SBP keeps what their strongest units put out.

Reference: Hayou, Ton, Doucet, Teh, arXiv 2002.08797, proposition 1.
"""

import grid
import networks
import plots

import keras_prune_init as kpi

SIGMA_B = {"tanh": networks.SIGMA_B, "relu": 0.0}
# How each network is rescaled.
RESCALING = {
    "dense": None,
    "not rescaled": None,
    "1/sqrt(alpha)": {"granularity": "unit", "sigma_w": 1.0},
    "sigma_w/sqrt(alpha), unit": {"granularity": "unit"},
    "sigma_w/sqrt(alpha), layer": {"granularity": "layer"},
}


def parser():
    result = grid.parser(__doc__, data="gaussian", seeds=5)
    result.add_argument("--depth", type=int, default=50)
    result.add_argument("--width", type=int, default=300)
    result.add_argument("--activation", choices=SIGMA_B, default="tanh")
    result.add_argument(
        "--sparsities", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.7, 0.9]
    )
    return result


def cells(options):
    return [
        {"sparsity": sparsity, "seed": seed}
        for sparsity in options.sparsities
        for seed in range(options.seeds)
    ]


def cell(settings, options):
    x, y = batch = networks.gaussian_batch(settings["seed"])
    keys = "depth", "width", "activation"
    activation, sigma_b = options.activation, SIGMA_B[options.activation]
    with networks.float64():
        init = kpi.initializers.EdgeOfChaos(activation, sigma_b, settings["seed"])
        arguments = {key: getattr(options, key) for key in keys}
        model = kpi.models.mlp(x.shape[1:], 10, init=init, **arguments)
        pruned = networks.prune(model, batch, "eoc", settings["sparsity"])
        ratios = {}
        for name, arguments in RESCALING.items():
            if arguments:
                kpi.rescale(pruned, **{"sigma_w": init.sigma_w, **arguments})
            measured = model if name == "dense" else pruned
            ratios[name] = kpi.signal_report(measured, batch).gradient_ratio
    return ratios


def draw(content):
    rows, options = content["rows"], content["options"]
    figure = plots.new(
        6.5,
        4.4,
        "Gradients of a pruned network, rescaled or not",
        f"{options['activation']} network, depth {options['depth']}, width "
        f"{options['width']}, SBP, Gaussian inputs; geometric mean and range of "
        f"{plots.seeds(rows)}",
    )
    axes = figure.subplots()
    groups = plots.group(rows, "sparsity")
    sparsities = sorted(s for (s,) in groups)
    for i, name in enumerate(RESCALING):
        values = [[r[name] for r in groups[s,]] for s in sparsities]
        middle = [plots.geometric_mean(v) for v in values]
        color = "0.3" if name == "dense" else f"C{i}"
        axes.plot(
            sparsities,
            middle,
            ":" if name == "dense" else "o-",
            color=color,
            label=name.replace("sigma_w", "$\\sigma_w$").replace(
                "sqrt(alpha)", "$\\sqrt{\\alpha}$"
            ),
        )
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(sparsities, low, high, color=color, alpha=0.15, lw=0)
    axes.set_yscale("log")
    axes.set_xlabel("sparsity (fraction of weights removed)")
    axes.set_ylabel("RMS dL/dy, first / last hidden layer")
    axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    options = parser().parse_args()
    name = f"gradient_ratio_{options.activation}"
    grid.run(name, options, cells(options), cell, draw)
