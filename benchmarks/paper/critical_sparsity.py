"""Critical sparsity of SBP over chi: theorem 1 of the paper, measured.

    python benchmarks/paper/critical_sparsity.py --workers=2 --threads=1   # 1 minute

A tanh network of depth and width 100 is scored on random Gaussian inputs at eight
points (sigma_b, sigma_w). The sparsity at which SBP empties a layer must stay below the
bound of the theorem, and must be near 1 only on the edge of chaos. In float64, because
gradients of the ordered phase shrink to 1e-60.

Reference: Hayou, Ton, Doucet, Teh, arXiv 2002.08797, theorem 1.
"""

import grid
import networks
import numpy as np
import plots

import keras_prune_init as kpi

POINTS = (
    (0.2, 1.2),
    (0.2, 1.0),
    (0.2, 0.6),
    (0.2, 0.4),
    (1.0, 0.316),
    (0.2, 1.6),
    (0.2, 2.0),
)


def parser():
    result = grid.parser(__doc__, data="gaussian", seeds=10)
    result.add_argument("--depth", type=int, default=100)
    result.add_argument("--width", type=int, default=100)
    return result


def cells(options):
    points = ((networks.SIGMA_B, networks.edge()), *POINTS)
    return [
        {"sigma_b": b, "sigma_w": w, "seed": seed}
        for b, w in points
        for seed in range(options.seeds)
    ]


def cell(settings, options):
    sigma_w, sigma_b, seed = (settings[k] for k in ("sigma_w", "sigma_b", "seed"))
    x, y = networks.gaussian_batch(seed)
    size = {"depth": options.depth, "width": options.width}
    with networks.float64():
        init = kpi.initializers.ScaledNormal(sigma_w, sigma_b, seed)
        model = networks.ffnn(x.shape[1:], 10, init, **size)
        scores = kpi.score(model, (x, y), "snip", verbose=0)
    critical = kpi.critical_sparsity(scores)
    chi = kpi.mean_field.chi("tanh", sigma_w, sigma_b)
    bound = kpi.mean_field.critical_sparsity_bound(chi, **size)
    return {
        "chi": chi,
        "critical_sparsity": critical.sparsity,
        "empty_layer": list(scores).index(critical.layer) + 1,
        # The theorem is about the ordered phase.
        "bound": bound if chi < 1 - 1e-4 else None,
    }


def draw(content):
    rows, options = content["rows"], content["options"]
    figure = plots.new(
        7,
        4.6,
        "SBP empties a layer early, except on the edge of chaos",
        f"tanh network, depth {options['depth']}, width {options['width']}, Gaussian "
        f"inputs; {plots.seeds(rows)}: a dot each, bars mean ± standard deviation",
    )
    axes = figure.subplots()
    groups = plots.group(rows, "sigma_b", "sigma_w")
    for (sigma_b, sigma_w), results in groups.items():
        chi = results[0]["chi"]
        measured = [r["critical_sparsity"] for r in results]
        axes.plot([chi] * len(measured), measured, ".", color="tab:blue", alpha=0.4)
        middle = plots.mean(results, "critical_sparsity")
        deviation = plots.spread(results, "critical_sparsity")
        axes.errorbar(chi, middle, deviation, fmt="_", color="tab:blue", capsize=4)
        above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        place = chi, max(*measured, middle + deviation)
        axes.annotate(f"({sigma_b:g}, {sigma_w:.3g})", place, size=7, **above)
    axes.plot(
        [], [], "o", color="tab:blue", label="measured at ($\\sigma_b, \\sigma_w$)"
    )
    # The theorem is about the ordered phase.
    chis = np.linspace(0.01, 0.999, 200)
    size = {"depth": options["depth"], "width": options["width"]}
    bound = [kpi.mean_field.critical_sparsity_bound(chi, **size) for chi in chis]
    axes.plot(chis, bound, "--", color="tab:red", label="upper bound, ordered phase")
    axes.axvline(1, color="0.6", lw=1, ls=":", label="edge of chaos")
    axes.set_xlabel("$\\chi$, factor of squared gradients per layer")
    axes.set_ylabel("critical sparsity (fraction of weights removed)")
    axes.set(xlim=(-0.06, 1.5), ylim=(0, 1.12))
    axes.legend(loc="lower center", fontsize=8)
    return figure


if __name__ == "__main__":
    options = parser().parse_args()
    grid.run("critical_sparsity", options, cells(options), cell, draw)
